"""Sentences about a training run: data, splits, leakage, models, cost."""

from __future__ import annotations

from skincnn.evaluation.compared_runs import describe_provenance
from skincnn.evaluation.results import SplitResult
from skincnn.reporting.labels import metric_label, split_label
from skincnn.reporting.load import RunResults

ONE_IMAGE = {
    "train": "training",
    "evaluation": "validation and test",
    "all": "training, validation and test",
}
"""The splits to which each value of `data.one_image_per_lesion` applies."""


def describe_training(results: RunResults) -> str:
    """Returns a description of the training images and of the choice of the epoch."""
    info, validation = results.info, results.splits["val"]
    count = len(info.members)
    if info.kind == "ensemble":
        names = ", ".join(member.name for member in info.members)
        return (
            f"The ensemble averages the probabilities of {count} models ({names}). Its "
            f"temperature and its thresholds were chosen on the {split_label(validation)}."
        )
    if info.kind == "cross_validation":
        sizes = [member.audit.num_images["train"] for member in info.members]
        ends = dict.fromkeys((min(sizes), max(sizes)))
        unseen = "that image" if is_split_by_image(results) else "its lesion"
        return (
            f"Cross-validation with {count} models, each trained on "
            f"{' to '.join(f'{size:,}' for size in ends)} images. The epoch of each model "
            "was chosen on one further fold by "
            f"{metric_label(results.config.train.monitor)}; the remaining folds are its "
            "test split. Every image was tested once, by a model that was not trained on "
            f"{unseen}."
        )
    data, audit = results.config.data, info.audit
    return (
        f"The model was trained on {audit.num_images['train']:,} images of "
        f"{audit.num_lesions['train']:,} lesions "
        f"(folds {', '.join(map(str, data.train_folds))}). Epoch {info.best_epoch} was "
        f"chosen on the {split_label(validation)} by "
        f"{metric_label(results.config.train.monitor)}, so scores on that split are "
        "optimistic."
    )


def describe_cost(results: RunResults) -> str:
    """Returns the number of parameters and the training time of all models."""
    info = results.info
    hardware = describe_provenance(info.provenance)
    return (
        f"{info.num_parameters:,} parameters, {info.training_seconds / 60:.1f} minutes of "
        f"training{f' ({hardware})' if hardware else ''}."
    )


def describe_one_image(results: RunResults) -> str:
    """Returns which splits contain only one image of each lesion; "" if none do."""
    values = {config.data.one_image_per_lesion for config in results.configs}
    splits = [ONE_IMAGE[value] for value in ONE_IMAGE if value in values]
    return f"One image of each lesion was used in {'; '.join(splits)}." if splits else ""


def model_label(results: RunResults) -> str:
    """Returns "mobilenet_v2 on isic2018", with the backbones of all models."""
    names = dict.fromkeys(config.model.backbone for config in results.configs)
    return f"{' + '.join(names)} on {data_label(results)}"


def data_label(results: RunResults) -> str:
    """Returns the name of the data: published, synthetic, or the user's."""
    if results.info.synthetic:
        return "synthetic demo images"
    return dataset_id(results) if results.info.attribution else "the user's own images"


def dataset_id(results: RunResults) -> str:
    """Returns "isic2018" for the dataset "ham10000/isic2018/2.0.0"."""
    parts = results.info.dataset.split("/")
    return parts[min(1, len(parts) - 1)]


def is_split_by_image(results: RunResults) -> bool:
    """Returns whether the images of a lesion may be in different splits."""
    return any(config.data.split_by == "image" for config in results.configs)


def is_leaky(results: RunResults) -> bool:
    """Returns whether splits share images, lesions or near-duplicates, or are by image."""
    return is_split_by_image(results) or any(
        count
        for audit in (results.info.audit, results.leakage)
        for count in (
            audit.num_shared_images,
            audit.num_shared_lesions,
            audit.num_shared_groups,
        )
    )


def describe_split_by_image(results: RunResults) -> str:
    """Returns a warning for a split by image; "" for a split by lesion."""
    if not is_split_by_image(results):
        return ""
    audit = results.info.audit
    shares = {"images": audit.share_test_images, "melanomas": audit.share_test_melanomas}
    parts = [
        f"{100 * share:.0f} % of the test {name}"
        for name, share in shares.items()
        if share is not None
    ]
    return (
        f"SPLIT BY IMAGE: {' and '.join(parts)} show a lesion that the model was trained "
        "on. The scores are inflated and can be compared only with scores of the same "
        "protocol. Use --data.split-by lesion for splits without leakage."
    )


def describe_leakage(result: SplitResult) -> str:
    """Returns a warning for a split that was partly used in training; "" for others."""
    if result.leakage is None or not result.leakage.num_leaky_images:
        return ""
    return (
        f"LEAKAGE: {result.leakage.num_leaky_images} of the {result.num_images} images of "
        f"the {split_label(result)} were used for training or validation, show the same "
        "lesion as such an image, or are near-duplicates of one. Do not trust these scores."
    )
