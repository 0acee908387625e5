"""Sentences, labels and the summary of a run's results."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
from report_runs import (
    EXTERNAL,
    NAMES,
    OOD,
    TABLES,
    VARIANT,
    WITH_OFFICIAL,
    make_table,
    sentences,
)
from run_dirs import CONFIG, DECLARED, make_dataset, write_run

from skincnn.data.leakage import SplitLeakage
from skincnn.data.links import IMAGE_ID
from skincnn.evaluation.external.result import Overlap
from skincnn.evaluation.results import ProbabilityBand, TargetCalibration
from skincnn.inference import ood_images
from skincnn.inference.logit_adjustment import ADJUSTED
from skincnn.inference.predictions import arrays
from skincnn.inference.tta import VIEWS
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.operating_points import HEADLINE_POINT, OPERATING_POINTS
from skincnn.model.orientations import ORIENTATIONS
from skincnn.reporting import labels
from skincnn.reporting.html import render_html
from skincnn.reporting.load import RunResults, load_results
from skincnn.reporting.report import summary
from skincnn.reporting.text import (
    dataset_text,
    external_text,
    report_text,
    training_text,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    return load_results(write_run(tmp_path_factory.mktemp("run"), TABLES))


def load(workdir: Path, **tables: tuple[int, ...]) -> RunResults:
    """Returns the results of a run; `tables` contains the class indices of each split."""
    predictions = {"val": make_table(0)}
    predictions |= {split: make_table(1, classes) for split, classes in tables.items()}
    return load_results(write_run(workdir, predictions))


def test_melanoma_images_are_counted(results: RunResults) -> None:
    table = make_table(1)
    y_true, y_prob = arrays(table, NAMES)
    is_melanoma = y_true == 1
    missed = is_melanoma & (y_prob.argmax(axis=1) != 1)
    assert 0 < missed.sum() < is_melanoma.sum()
    result = results.headline
    melanoma = report_text.find_melanoma(result)
    assert melanoma is not None
    assert (melanoma.num_images, melanoma.num_missed) == (is_melanoma.sum(), missed.sum())
    names = table[missed].assign(predicted=[NAMES[k] for k in y_prob[missed].argmax(1)])
    assert melanoma.mistaken_for == names["predicted"].value_counts().to_dict()
    counts = list(melanoma.mistaken_for.values())
    assert counts == sorted(counts, reverse=True)
    calibrated = result.calibration_map.apply(y_prob)
    threshold = result.thresholds["melanoma"][HEADLINE_POINT.key]
    assert melanoma.num_detected == (calibrated[is_melanoma, 1] >= threshold).sum()


def test_calibration_is_described_in_images_of_100() -> None:
    bands = [
        ProbabilityBand(
            low=low,
            high=high,
            num_images=count,
            predicted=None,
            observed=Estimate(share, share - 0.1, share + 0.1),
        )
        for low, high, count, share in (
            (0.0, 0.02, 19, 0.9),
            (0.02, 0.05, 20, 0.1),
            (0.4, 0.6, 50, 0.2),
            (0.6, 0.8, 30, 0.7),
            (0.8, 1.0, 3, 0.5),
        )
    ]
    ratio = Estimate(0.8, 0.6, 1.1)
    calibration = TargetCalibration(scores={"observed_expected": ratio}, bands=tuple(bands))
    target = SimpleNamespace(num_images=12, calibration=calibration)
    result = SimpleNamespace(split="test", targets={"melanoma": target})
    assert report_text.outer_bands(target) == [bands[1], bands[3]]
    assert sentences("target_calibration", result, "melanoma") == (
        "12 images show melanoma; according to the probabilities, 15 would be expected. "
        "Observed/expected: 0.800 [0.600, 1.100] (best value 1; below 1, the probabilities "
        "are too high on average). Of 100 images to which the model gives a probability of "
        "2 to 5 %, 10 [0, 20] show melanoma; of 100 images to which the model gives a "
        "probability of 60 to 80 %, 70 [60, 80] show melanoma."
    )
    assert [labels.band_label(band) for band in (bands[0], bands[4])] == [
        "below 2 %",
        "80 % or more",
    ]


def test_malignant_images_predicted_as_benign_are_counted(results: RunResults) -> None:
    y_true, y_prob = arrays(make_table(1), NAMES)
    malignant = np.isin(y_true, (1, 3))
    benign = malignant & ~np.isin(y_prob.argmax(axis=1), (1, 3))
    counts = report_text.count_benign_predictions(results.headline)
    assert counts == (benign.sum(), malignant.sum())


def test_scores_are_described(results: RunResults) -> None:
    text = report_text.describe_scores(results)
    y_true, y_prob = arrays(make_table(1), NAMES)
    correct = y_prob.argmax(axis=1) == y_true
    accuracy = np.mean([correct[y_true == k].mean() for k in range(4)])
    assert f"is {100 * accuracy:.0f} % (95 % confidence interval " in text
    assert "random guessing gives 25 %" in text
    task = "The model assigns a dermatoscopic image of a skin lesion to one of 4 diagnoses."
    assert text.startswith(task)
    info = results.info.model_copy(
        update={"datasets": (make_dataset(attribution=""),), "kind": "cross_validation"}
    )
    text = report_text.describe_scores(dataclasses.replace(results, info=info))
    task = "Each model assigns an image like those it was trained on to one of 4 classes."
    assert text.startswith(task)
    text = report_text.describe_scores(results)
    macro_f1 = results.headline.metrics["macro_f1"]
    assert f"Macro F1 is {labels.interval(macro_f1)}." in text
    missed = (~correct)[y_true == 1].sum()
    assert f"{missed} of 30 melanoma images are not predicted as melanoma." in text
    assert "known to show the same lesion, it finds 69 %)." in text
    assert "Patients are not known" in text


def test_missing_melanoma_is_reported(tmp_path: Path) -> None:
    results = load(tmp_path, test=(0, 2))
    assert report_text.NO_MELANOMA in report_text.describe_scores(results)
    missing = report_text.describe_missing_classes(results.headline, DECLARED)
    assert missing == (
        "There are no images of melanoma (mel), basal cell carcinoma (bcc): averages are "
        "over the other classes."
    )
    assert f"  {missing}" in summary(results)
    assert not re.search(r"\bnan\b|None", summary(results), re.IGNORECASE)


def test_the_referral_rule_is_described(results: RunResults) -> None:
    result = results.headline
    triage = result.triage
    assert triage is not None
    text = sentences("referral", results, result)
    assert (
        f"malignant classes add up to at least {triage.threshold:.3f}, the threshold that "
        "gave a sensitivity of at least 90 % on the validation split (fold 8), or if the "
        "image is out-of-distribution"
    ) in text
    assert f"(distance above {triage.max_distance:.3g})" in text
    assert "(see Out-of-distribution images)" in sentences(
        "referral", dataclasses.replace(results, ood=(OOD,)), result
    )
    share = triage.melanoma_referred
    assert share is not None
    assert share.value is not None
    missed = round(30 * (1 - share.value))
    referred = labels.percent_interval(triage.referred)
    assert f"On the test split (fold 9), the rule refers {referred} of all images" in text
    refers = f"and {labels.percent_interval(share)} of the melanoma images; {missed} of 30 "
    assert refers in text
    sensitivity = labels.interval(triage.rates["sensitivity"])
    assert f"sensitivity {sensitivity} for malignant lesions" in summary(results)


def test_without_a_threshold_only_out_of_distribution_images_are_referred(
    tmp_path: Path,
) -> None:
    tables = {"val": make_table(0, (0, 2)), "test": make_table(1)}
    results = load_results(write_run(tmp_path, tables))
    assert results.headline.triage is not None
    assert results.headline.triage.threshold is None
    text = sentences("referral", results, results.headline)
    assert "to a dermatologist if the image is out-of-distribution" in text
    assert "None" not in text
    label = sentences("referral_label", results.headline.triage)
    assert label == "referral rule: out-of-distribution"
    # Without melanoma images, melanoma is not mentioned.
    text = sentences("referral", results, results.splits["val"])
    assert "melanoma" not in text
    assert text.endswith(" of all images.")


def test_without_detection_the_rule_has_only_a_threshold(tmp_path: Path) -> None:
    tables = {
        split: make_table(n).drop(columns="distance")
        for n, split in enumerate(("val", "test"))
    }
    results = load_results(write_run(tmp_path, tables))
    text = sentences("referral", results, results.headline)
    assert "on the validation split (fold 8). Unsuitable images are not recognized" in text
    label = sentences("referral_label", results.headline.triage)
    assert label == "referral rule: threshold for sensitivity ≥ 90 %"
    off = dataclasses.replace(results, ood=(OOD.model_copy(update={"is_on": False}),))
    assert "was therefore switched off" in sentences("out_of_distribution", off)
    assert "was therefore switched off" in render_html(off, {})
    assert "Share above the limit" in render_html(off, {})


def test_without_a_threshold_and_detection_there_is_no_rule(tmp_path: Path) -> None:
    tables = {
        "val": make_table(0, (0, 2)).drop(columns="distance"),
        "test": make_table(1).drop(columns="distance"),
    }
    results = load_results(write_run(tmp_path, tables))
    assert results.headline.triage is None
    assert "referral" not in summary(results)
    assert "referral rule" not in render_html(results, {})


def test_the_smallest_class_is_named(results: RunResults) -> None:
    sizes = {name: part.num_images for name, part in results.headline.classes.items()}
    assert set(sizes.values()) == {30}
    text = report_text.describe_smallest_class(results.headline, DECLARED)
    assert text == (
        f"The smallest class, {NAMES[0]}, has 30 images: each can change balanced accuracy "
        f"by {1 / 120:.3f}."
    )


@pytest.mark.parametrize(
    ("position", "start"),
    [(None, ""), (1, "No other"), (2, "1 other set of"), (3, "2 other sets of")],
)
def test_earlier_predictions_are_counted(
    position: int | None, start: str, results: RunResults
) -> None:
    result = results.headline.model_copy(update={"position": position})
    text = report_text.describe_position(result)
    assert text.startswith(start)
    assert (" was scored" in text) == (position == 2)


@pytest.mark.parametrize("count", [1, 2])
def test_external_images_are_counted(count: int) -> None:
    overlap = Overlap(counts={IMAGE_ID: count}, searched=True, num_test_images=count)
    text = external_text.describe_overlap(EXTERNAL.model_copy(update={"overlap": overlap}))
    assert f"{count} image{' was' if count == 1 else 's were'} left out" in text
    assert f"images {'is' if count == 1 else 'are'} also in the test split" in text
    [label, *_] = EXTERNAL.other_labels
    labels = (label.model_copy(update={"num_images": count}),)
    text = external_text.describe_images(
        EXTERNAL.model_copy(update={"other_labels": labels})
    )
    have = "image has a label that is not" if count == 1 else "images have labels that are"
    assert f"{count} {have}" in text


def test_variants_are_explained_and_compared(tmp_path: Path) -> None:
    assert {*VIEWS} == {*report_text.TTA_TEXT}
    variants = {"d4": VARIANT, f"augment_{ADJUSTED}": VARIANT}
    results = load_results(write_run(tmp_path, TABLES, variants, num_views=8))
    text = sentences("variants", results)
    for part in (
        "(augment): each image is predicted in 8 versions (views), changed at random",
        "(d4): each image is predicted in 8 versions (views), rotated or mirrored, and the",
        "arXiv:2007.07314",
        "in parentheses",
    ):
        assert part in text
    d4 = tuple(variant for variant in results.variants if variant.variant == "d4")
    text = sentences("variants", dataclasses.replace(results, variants=d4))
    assert "augment)" not in text
    assert "Logit adjustment" not in text
    names = [labels.variant_label(variant) for variant in results.variants]
    assert names == [
        "test-time augmentation (augment), logit adjustment (0.50)",
        "test-time augmentation (d4)",
    ]
    recalls = [
        (y_prob[y_true == 1].argmax(axis=1) == 1).mean()
        for y_true, y_prob in (arrays(make_table(n), NAMES) for n in (3, 1))
    ]
    name, score, difference = report_text.variant_scores(results.variants[1])[2]
    assert name == "melanoma recall"
    assert score.value == pytest.approx(recalls[0], abs=1e-6)
    assert difference.value == pytest.approx(recalls[0] - recalls[1], abs=1e-6)
    lines = summary(results)
    scores = f"{labels.interval(score)}, {labels.signed(difference)}"
    assert f"  melanoma recall    {scores}" in lines
    assert "augmentation (d4) on the test split (fold 9), 8 views; score" in lines


@pytest.mark.parametrize(
    ("name", "num_views", "exported"),
    [
        ("d4", 8, True),
        ("d4", 2, False),
        ("augment", 8, False),
        ("adjusted", 8, True),
        ("d4_adjusted", 8, True),
        ("d4_adjusted", 4, False),
        ("augment_adjusted", 8, False),
    ],
)
def test_exported_variants_have_all_views(
    name: str, num_views: int, exported: bool, tmp_path: Path
) -> None:
    write_run(tmp_path, TABLES, {name: VARIANT}, num_views=num_views)
    results = load_results(tmp_path)
    views = {tta: len(numbers) for tta, numbers in ORIENTATIONS.items()}
    assert views == report_text.EXPORTED_VIEWS
    variants = report_text.exported_variants(results)
    assert [variant.variant for variant in variants] == ([name] if exported else [])
    for variant in variants:
        text = sentences("export", variant)
        flags = {
            "d4": "--tta d4",
            "adjusted": "--logit-adjustment",
            "d4_adjusted": "--tta d4 --logit-adjustment",
        }
        expected = f"(skincnn export {flags[name]}) has its own calibration and the"
        assert expected in text


def test_leakage_of_a_split_is_reported(tmp_path: Path) -> None:
    leakage = {"test_official": SplitLeakage(2, 3, None, 0, 17)}
    write_run(tmp_path, WITH_OFFICIAL, leakage=leakage)
    for headline in ("test_official", "test"):
        results = load_results(tmp_path, headline)
        warning = training_text.describe_leakage(results.splits["test_official"])
        assert warning.startswith(
            "LEAKAGE: 17 of the 120 images of the official test split were used"
        )
        assert warning in summary(results)
        leaky = headline == "test_official"
        assert training_text.is_leaky(results) == leaky
        assert (warning in report_text.describe_scores(results)) == leaky
        assert labels.split_role(results.splits["test_official"]) == ""


def test_a_split_by_image_is_reported(results: RunResults) -> None:
    data = dataclasses.replace(
        CONFIG.data,
        split_by="image",
        one_image_per_lesion="evaluation",
        train_fraction=0.25,
    )
    audit = dataclasses.replace(
        results.info.audit,
        num_shared_lesions=3,
        share_test_images=0.4,
        share_test_melanomas=0.5,
    )
    leaky = dataclasses.replace(
        results,
        config=dataclasses.replace(CONFIG, data=data),
        info=results.info.model_copy(update={"audit": audit}),
    )
    assert training_text.is_leaky(leaky)
    warning = (
        "SPLIT BY IMAGE: 40 % of the test images and 50 % of the test melanomas show a "
        "lesion that the model was trained on."
    )
    assert training_text.describe_split_by_image(leaky).startswith(warning)
    assert warning in summary(leaky)
    assert "Do not trust these scores." in report_text.describe_scores(leaky)
    assert training_text.describe_selection(leaky) == (
        "One image of each lesion was used in validation and test. Only 25 % of the "
        "training lesions, with their near-duplicates, were used."
    )
    assert training_text.describe_selection(results) == ""
    assert training_text.describe_split_by_image(results) == ""


def test_a_shared_near_duplicate_is_leakage(results: RunResults) -> None:
    assert not training_text.is_leaky(results)
    audit = dataclasses.replace(results.info.audit, num_shared_groups=1)
    leaky = dataclasses.replace(
        results, info=results.info.model_copy(update={"audit": audit})
    )
    assert training_text.is_leaky(leaky)


def test_training_is_described(results: RunResults) -> None:
    assert training_text.describe_training(results) == (
        "The images are divided into parts (folds). The model was trained on 800 images of "
        "400 lesions (folds 0 to 7). After each pass through the training images (epoch), "
        "it was scored on the validation split (fold 8). The version after epoch 3 had the "
        "best balanced accuracy there and was kept, so scores on the validation split are "
        "optimistic."
    )
    assert training_text.describe_cost(results) == (
        "The network has 1,234 parameters; training took 1.0 minutes (code version "
        "0123abc, 2 cores of Some CPU)."
    )
    unknown = results.info.model_copy(update={"provenance": None})
    text = training_text.describe_cost(dataclasses.replace(results, info=unknown))
    assert text == "The network has 1,234 parameters; training took 1.0 minutes."
    data = dataclasses.replace(CONFIG.data, train_folds=(0, 1, 5))
    config = dataclasses.replace(CONFIG, data=data)
    text = training_text.describe_training(dataclasses.replace(results, config=config))
    assert "(folds 0, 1, 5)" in text
    info = results.info.model_copy(update={"leave_out": "rosendahl"})
    left_out = dataclasses.replace(results, config=config, info=info)
    text = training_text.describe_training(left_out)
    assert "(folds 0, 1, 5 without rosendahl)" in text
    assert training_text.describe_selection(left_out).endswith("without those in fold 0.")
    data = dataclasses.replace(data, split_by="image")
    by_image = dataclasses.replace(left_out, config=dataclasses.replace(config, data=data))
    text = training_text.describe_selection(by_image)
    assert text.endswith("contains only images of rosendahl.")
    train = dataclasses.replace(CONFIG.train, keep_epoch="last")
    config = dataclasses.replace(CONFIG, train=train)
    text = training_text.describe_training(dataclasses.replace(results, config=config))
    assert text.endswith("The version after the last epoch, 3, was kept.")
    data = dataclasses.replace(CONFIG.data, resize_method="nearest", crop_width=0.8)
    text = "stretch, nearest pixel, central 80 % of the width"
    assert training_text.describe_resizing(data) == text
    assert training_text.describe_resizing(CONFIG.data) == "stretch"
    data = dataclasses.replace(CONFIG.data, single_image_lesions=True)
    config = dataclasses.replace(CONFIG, data=data)
    text = training_text.describe_selection(dataclasses.replace(results, config=config))
    assert text == "Validation and test contain only lesions with a single image."


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"parts": ("flip", "zoom")}, "flip, zoom"),
        ({"parts": ("flip",), "choose": "one", "mix": "mixup"}, "one of flip, mixup"),
        ({"parts": (), "mix": "cutmix"}, "cutmix"),
        ({"magnitude": 0.0}, "none"),
    ],
)
def test_augmentation_is_described(changes: dict[str, Any], text: str) -> None:
    augment = dataclasses.replace(CONFIG.augment, **changes)
    config = dataclasses.replace(CONFIG, augment=augment)
    assert training_text.describe_augmentation(config) == text


@pytest.mark.parametrize(
    ("synthetic", "attribution", "label"),
    [
        (True, "No photograph.", "synthetic demo images"),
        (False, "An archive.", "isic2018"),
        (False, "", "the user's own images"),
    ],
)
def test_data_are_labeled(
    synthetic: bool, attribution: str, label: str, results: RunResults
) -> None:
    dataset = make_dataset(synthetic=synthetic, attribution=attribution)
    info = results.info.model_copy(update={"datasets": (dataset,)})
    changed = dataclasses.replace(results, info=info)
    assert dataset_text.data_label(info) == label
    assert training_text.model_label(changed) == (
        f"Skin-lesion classifier (mobilenet_v2) on {label}"
    )
    assert ("SYNTHETIC" in summary(changed)) == synthetic


def test_the_note_on_built_in_ood_images_is_correct() -> None:
    assert len(sklearn.datasets.load_sample_images().images) == 2
    assert (
        f"The photographs are {ood_images.IMAGES_PER_SET} crops of two"
        in report_text.OOD_NOTE
    )


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (Estimate(0.5, 0.25, 0.75), ("0.500 [0.250, 0.750]", "50 %", "25 to 75 %")),
        (Estimate(0.5, None, None), ("0.500 [no interval]", "50 %", "available")),
        (Estimate(None, None, None), ("not defined", "not defined", "available")),
    ],
)
def test_scores_without_interval_or_value(
    score: Estimate, expected: tuple[str, str, str]
) -> None:
    assert labels.interval(score) == expected[0]
    assert labels.percent(score) == expected[1]
    assert labels.percent_interval(score).startswith(f"{expected[1]} [")
    text = labels.confidence_interval(score, 0.95, as_percent=True)
    assert text.startswith("95 % confidence interval ")
    text = labels.confidence_interval(score, 0.995, as_percent=True)
    assert text.startswith("99.5 % confidence interval ")
    assert expected[2] in text


def test_labels_of_classes_and_operating_points() -> None:
    names = ["mel", "Melanoma", "nevus", "<b>wart</b>|", "malignant"]
    assert [labels.class_label(name) for name in names] == [
        "melanoma (mel)",
        "Melanoma",
        "nevus",
        "<b>wart</b>|",
        "malignant",
    ]
    assert [labels.point_label(point.key) for point in OPERATING_POINTS] == [
        "specificity ≥ 90 %",
        "specificity ≥ 95 %",
        "sensitivity ≥ 90 %",
        "sensitivity ≥ 95 %",
    ]
