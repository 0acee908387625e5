"""The model card: its metadata, its sections and the checklist."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_runs import (
    CORRUPTIONS,
    NAMES,
    OOD,
    PARITY,
    TABLES,
    VARIANT,
    WITH_OFFICIAL,
    Page,
    make_members,
    make_table,
    sentences,
)
from ruamel.yaml import YAML
from run_dirs import CONFIG, DECLARED, make_dataset, make_info, write_run

from skincnn.clinical_metadata import encode_clinical_metadata
from skincnn.config import ModelConfig
from skincnn.data.leakage import SplitLeakage
from skincnn.reporting import labels
from skincnn.reporting.checklist import render_checklists
from skincnn.reporting.html import render_html
from skincnn.reporting.load import RunResults, load_results
from skincnn.reporting.model_card import render_card
from skincnn.reporting.report import summary
from skincnn.reporting.text import report_text, training_text
from skincnn.reporting.text.dataset_text import describe_input


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    return load_results(write_run(tmp_path_factory.mktemp("run"), TABLES))


def read_metadata(card: str) -> dict[str, Any]:
    """Returns the YAML block, as the Hugging Face Hub reads it."""
    metadata: dict[str, Any] = YAML(typ="safe", pure=True).load(card.split("---\n")[1])
    return metadata


def read_checklist(card: str) -> dict[str, str]:
    """Returns the answers of the checklist by topic."""
    rows = card.split("| item | about |")[1].splitlines()[2:]
    cells = [row.strip("| ").split(" | ") for row in rows if not row.startswith("| | **")]
    return {about: answer for _, about, answer, _ in cells}


def test_the_metadata_hold_the_scores(results: RunResults) -> None:
    metadata = read_metadata(render_card(results))
    assert metadata["library_name"] == "keras"
    assert metadata["pipeline_tag"] == "image-classification"
    assert metadata["license"] == "cc-by-nc-4.0"
    assert metadata["datasets"] == ["isic2018"]
    (index,) = metadata["model-index"]
    (entry,) = index["results"]
    assert entry["dataset"]["split"] == "test"
    result = results.headline
    assert {metric["type"]: metric["value"] for metric in entry["metrics"]} == {
        "balanced_accuracy": result.metrics["balanced_accuracy"].value,
        "f1": result.metrics["macro_f1"].value,
        "accuracy": result.metrics["accuracy"].value,
        "roc_auc": result.metrics["macro_auc"].value,
        "recall": result.classes["mel"].scores["recall"].value,
    }


def test_the_user_s_own_images_have_no_known_license(tmp_path: Path) -> None:
    info = make_info(datasets=(make_dataset("folder", attribution=""),))
    card = render_card(load_results(write_run(tmp_path, TABLES, info=info)))
    assert read_metadata(card)["license"] == "unknown"
    assert "datasets" not in read_metadata(card)
    assert not re.search("ham10000", card, re.IGNORECASE)
    assert "Skin-lesion classifier (mobilenet_v2) on the user's own images" in card
    assert "one of 4 classes. " in card
    assert "The input is\nan image like those it was trained on. The output" in card
    assert "selected for the collection" not in card


def test_names_are_escaped(results: RunResults) -> None:
    body = render_card(results).split("---\n", 2)[2]
    assert "<b>" not in body
    assert "&lt;b>wart&lt;/b>\\| |" in body


def test_the_checklist_is_that_of_clear_derm(results: RunResults) -> None:
    card = render_card(results)
    assert "Not a medical device" in card
    points = read_checklist(card)
    assert len(points) == 25
    assert all(points.values())
    assert "histopathology 117" in points["Labeling method"]
    assert "melanoma (mel) 30" in points["Class distribution and balance"]
    assert points["Out-of-distribution images"] == "Not tested with unsuitable images."
    assert points["Sample sizes"].startswith("Training: 800 images of 400 lesions.")


def test_the_authors_fill_in_citation_contact_and_ethics(tmp_path: Path) -> None:
    write_run(tmp_path, TABLES)
    card = render_card(load_results(tmp_path))
    assert "- Contact: **to be filled in by the authors** (`contact`" in card
    (tmp_path / "authors.toml").write_text('contact = "A | B"\nethics = "Approved."\n')
    card = render_card(load_results(tmp_path))
    assert "- Contact: A \\| B\n" in card
    assert "informed consent: Approved." in card
    assert "- Citation: **to be filled in by the authors** (`citation`" in card


def test_scores_and_operating_points_are_tables(results: RunResults) -> None:
    card = render_card(results)
    for text in (
        report_text.describe_scores(results),
        report_text.describe_intervals(results),
        report_text.describe_smallest_class(results.headline, DECLARED).replace(
            "<", "&lt;"
        )[:30],
        training_text.describe_training(results),
    ):
        assert text in card
    words, result = " ".join(card.split()), results.headline
    assert sentences("referral", results, result) in words
    arguments = result, results.splits["val"], result.targets, result.triage
    assert sentences("thresholds", *arguments) in words
    for name, target in results.headline.targets.items():
        for key, point in target.operating_points.items():
            rates = " | ".join(map(labels.interval, point.rates.values()))
            missed = " (missed on these images)" if point.missed else ""
            row = f"{labels.point_label(key)}{missed} | {point.threshold:.3f} | {rates}"
            assert f"| {name} | {row} |" in card
        assert sentences("target_calibration", result, name) in words
        scores = " | ".join(map(labels.interval, target.calibration.scores.values()))
        assert f"| {name} | {scores} |" in card
    for metric in ("log_loss", "ece"):
        score = labels.interval(result.calibration.after[metric])
        assert f"| {labels.metric_label(metric)}, after calibration | {score} |" in card
    triage = results.headline.triage
    assert triage is not None
    rates = " | ".join(map(labels.interval, triage.rates.values()))
    rule = "referral rule: threshold for sensitivity ≥ 90 %, or out-of-distribution"
    assert f"| malignant | {rule} | {triage.threshold:.3f} | {rates} |" in card
    assert "--operating-point" in card.split("## How to use")[1]
    for part in (
        "whose lesions were selected for the collection. In clinical practice",
        "| how the diagnosis was established (ground truth) | confocal microscopy |",
        "No interval is given if the score cannot be computed",
    ):
        assert part in words


@pytest.mark.parametrize("classes", [(0, 1, 3), (0, 2, 3), (0, 2)])
def test_a_missing_class_is_visible(classes: tuple[int, ...], tmp_path: Path) -> None:
    tables = {"val": make_table(0), "test": make_table(1, classes)}
    card = render_card(load_results(write_run(tmp_path, tables)))
    assert "There are no images of " in card
    assert not re.search(r"\bnan\b|\bNone\b", card)
    (entry,) = read_metadata(card)["model-index"][0]["results"]
    metrics = [metric["type"] for metric in entry["metrics"]]
    assert ("recall" in metrics) == (1 in classes)


def test_sections_appear_with_their_results(results: RunResults) -> None:
    card = render_card(results)
    for text in ("blurred, dark, noisy", "images without a lesion", "variance between"):
        assert text in card
    changed = dataclasses.replace(
        results, corruptions=CORRUPTIONS, ood=(OOD,), parity=(PARITY,)
    )
    changed_card = render_card(changed)
    for text in ("blurred, dark, noisy", "images without a lesion"):
        assert text not in changed_card
    for text in (
        "| motion blur | 0.450 [0.440, 0.460] | -0.210 [-0.220, -0.200] |",
        "| photographs | yes | 48 | 0.700 |",
        report_text.OOD_NOTE,
        "used 100 of 120 test images",
        "- litert: the same referral decision for 0.980 of the images",
        "decision for 0.970. The distances differ by up to 9.2 % of the limit.",
        "| litert, 2.3 MB | all | 100 | 0.990 | 0.012 | 0.610 (balanced accuracy) | 0.600",
        "| litert | melanoma (mel) | 30 | 0.960 | 0.011 | 0.510 | 0.500 |",
        "| litert | basal cell carcinoma (bcc) | 0 | no images | | | |",
    ):
        assert text in changed_card
        assert text not in card
    assert "None" not in changed_card


def test_variants_and_their_exports_are_tables(tmp_path: Path) -> None:
    write_run(tmp_path, TABLES, {"d4": VARIANT}, num_views=8)
    results = load_results(tmp_path)
    card = render_card(results)
    [variant] = results.variants
    for name, score, difference in report_text.variant_scores(variant):
        scores = f"{labels.interval(score)} | {labels.signed(difference)}"
        assert f"| test-time augmentation (d4) | 8 | {name} | {scores} |" in card
    part = card.split(sentences("export", variant))[1]
    for point in variant.targets["melanoma"].operating_points.values():
        assert f"| {point.threshold:.3f} | " in part


def test_real_and_synthetic_images_are_distinguished(tmp_path: Path) -> None:
    note = "The images are synthetic."
    demo = make_dataset("demo", synthetic=True, attribution=note)
    write_run(tmp_path, TABLES, info=make_info(datasets=(make_dataset(), demo)))
    results = load_results(tmp_path)
    assert not results.info.synthetic
    assert not results.info.published
    credit = "Images: an archive, CC BY-NC 4.0. Some images are synthetic."
    assert results.info.attribution == credit
    card, page = render_card(results), Page(render_html(results, {})).words
    checklists = [
        path.read_text() for path in render_checklists(results, ["clear-derm", "tripod-ai"])
    ]
    warning = (
        "PARTLY SYNTHETIC: these datasets contain images that are rendered by code: demo."
    )
    for text in (card, page, *checklists, summary(results)):
        assert warning in text
        for claim in (
            "SYNTHETIC images, rendered",
            note,
            "nothing about skin lesions",
            "The user's own images",
            "No person was involved",
            "No image was excluded",
        ):
            assert claim not in text
    assert card.index(warning) < card.index("Balanced accuracy, the average")
    assert page.index(warning) < page.index("Balanced accuracy, the average")
    assert "Some images are synthetic: their age, sex, body site" in card
    assert "synthetic-data" in read_metadata(card)["tags"]
    assert f"{credit} Datasets: `ham10000/isic2018/2.0.0 + ham10000/demo/2.0.0`." in card
    assert describe_input(results.info) == "an image like those it was trained on"


def test_warnings_are_prominent(tmp_path: Path) -> None:
    leakage = {"test_official": SplitLeakage(2, 3, None, 0, 17)}
    info = make_info(datasets=(make_dataset(synthetic=True, attribution="No photograph."),))
    write_run(tmp_path, WITH_OFFICIAL, leakage=leakage, info=info)
    results = load_results(tmp_path)
    card = render_card(results)
    warning = "LEAKAGE: 17 of the 120 images of the official test split"
    assert f"**{warning}" in card
    assert warning in read_checklist(card)["Dataset partitions"]
    assert card.index("**SYNTHETIC images") < card.index("Balanced accuracy, the average")
    assert not re.search("ham10000", card, re.IGNORECASE)
    assert "synthetic-data" in read_metadata(card)["tags"]
    assert "datasets" not in read_metadata(card)
    card = render_card(load_results(tmp_path, "test_official"))
    assert card.index(f"**{warning}") < card.index("Balanced accuracy, the average")
    audit = dataclasses.replace(info.audit, num_shared_images=1)
    leaky = results.info.model_copy(update={"audit": audit})
    assert "**LEAKAGE: training, validation and test share images" in render_card(
        dataclasses.replace(results, info=leaky)
    )
    data = dataclasses.replace(CONFIG.data, split_by="image")
    config = dataclasses.replace(CONFIG, data=data)
    by_image = dataclasses.replace(results, config=config)
    # Lesions with a single image are in one split even in a split by image.
    assert "**SPLIT BY IMAGE" not in render_card(by_image)
    audit = dataclasses.replace(info.audit, num_shared_lesions=3)
    by_image = dataclasses.replace(
        by_image, info=results.info.model_copy(update={"audit": audit})
    )
    card = render_card(by_image)
    assert "**SPLIT BY IMAGE" in card
    assert read_checklist(card)["Dataset partitions"].startswith("BY IMAGE")


def test_models_of_an_ensemble_are_listed(results: RunResults) -> None:
    other = dataclasses.replace(CONFIG, model=ModelConfig(backbone="resnet50"))
    update = {"kind": "ensemble", "members": make_members(CONFIG, other)}
    info = results.info.model_copy(update=update)
    card = render_card(dataclasses.replace(results, info=info))
    assert "# Skin-lesion classifier (mobilenet_v2 + resnet50) on isic2018" in card
    assert "- second (resnet50): 800 training images (folds 0, 1, 2" in card
    assert "holds the results of 2 models" in card
    assert "`model.keras` takes" not in card


def test_the_epochs_of_all_stages_are_stated(results: RunResults) -> None:
    train = dataclasses.replace(CONFIG.train, head_epochs=2, epochs=5)
    config = dataclasses.replace(CONFIG, train=train)
    card = render_card(dataclasses.replace(results, config=config))
    assert "| scenario | fine_tune, at most 7 epochs, batches" in card


def test_clinical_metadata_are_inputs_of_the_example(results: RunResults) -> None:
    assert "metadata=tf.constant" not in render_card(results)
    model = dataclasses.replace(CONFIG.model, clinical_metadata=True)
    config = dataclasses.replace(CONFIG, model=model)
    card = render_card(dataclasses.replace(results, config=config))
    [line] = [line for line in card.splitlines() if "metadata=tf.constant" in line]
    values = ast.literal_eval(line.partition("(")[2].rpartition(")")[0])
    patient = pd.DataFrame({"age": [55], "sex": ["female"], "localization": ["back"]})
    np.testing.assert_allclose(values, encode_clinical_metadata(patient), rtol=1e-6)
    assert "Age, sex and body site are inputs" in card
    assert NAMES[1] in card


def test_limitations_name_the_source_of_the_test_images(results: RunResults) -> None:
    same = "Training and test images come from the same dataset."
    assert same in render_card(results)
    info = results.info.model_copy(update={"leave_out": "vidir"})
    card = render_card(dataclasses.replace(results, info=info))
    assert same not in card
    assert "from one source, vidir, of which no image was used for training." in card


def test_the_learning_rate_is_that_of_the_head_if_only_the_head_is_trained(
    results: RunResults,
) -> None:
    train = dataclasses.replace(CONFIG.train, scenario="linear_probe")
    config = dataclasses.replace(CONFIG, train=train)
    card = render_card(dataclasses.replace(results, config=config))
    assert f"peak learning rate {CONFIG.optimizer.head_learning_rate} |" in card
