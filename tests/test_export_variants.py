"""Exports with test-time augmentation, logit adjustment, or without OOD detection."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import Run, run_here
from PIL import Image
from scipy.special import softmax
from setups import flat_features

from skincnn.data.combined import open_datasets
from skincnn.evaluation.results import SplitResult, read_result
from skincnn.files import sha256
from skincnn.inference.logit_adjustment import adjust
from skincnn.inference.predictions import arrays, read_predictions, table_path
from skincnn.metrics.decision_rule import TARGET
from skincnn.model.orientations import ORIENTATIONS
from skincnn.reporting.parity_result import ParityResult
from skincnn.serving.export_info import OOD_LEFT_OUT, read_export_info
from skincnn.serving.network import with_variant
from skincnn.serving.predictor import load_predictor

pytestmark = pytest.mark.usefixtures("no_figures")
RNG = np.random.default_rng(0)
PRIORS = np.array([0.9, 0.09, 0.01])
VARIANT, FLAGS = "d4_adjusted", ("--tta", "d4", "--logit-adjustment")


def make_model(*, metadata: bool) -> keras.Model:
    """Returns a network whose outputs depend on the positions of pixels."""
    inputs, features = flat_features(metadata=metadata)
    logits = keras.layers.Dense(3, name="head")(features)
    named = inputs if metadata else {"images": inputs}
    return keras.Model(named, {"logits": logits, "ood_distance": features[:, 0]})


@pytest.mark.parametrize("metadata", [False, True])
@pytest.mark.parametrize("strength", [None, -0.5, 1.2])
def test_a_variant_has_the_probabilities_of_the_evaluation(
    strength: float | None, metadata: bool
) -> None:
    model = make_model(metadata=metadata)
    images = RNG.integers(0, 256, (5, 8, 8, 3), np.uint8)
    clinical = RNG.normal(size=(5, 2)).astype(np.float32)
    shift = None if strength is None else strength * np.log(PRIORS)
    variant = with_variant(model, ORIENTATIONS["d4"], shift)
    inputs = {"images": images.astype(np.float32)}
    outputs = variant({**inputs, "metadata": clinical} if metadata else inputs)
    kernel, bias = model.get_layer("head").get_weights()
    for row, image in enumerate(images):
        turned = map(Image.fromarray(image).transpose, Image.Transpose)
        views = [image, *map(np.asarray, turned)]
        others = clinical[row] if metadata else []
        flat = [np.concatenate([view.reshape(-1) / 255, others]) for view in views]
        mean = softmax(np.stack(flat) @ kernel + bias, axis=1).mean(axis=0)
        if strength is not None:
            mean = mean / PRIORS**strength / (mean / PRIORS**strength).sum()
        y_prob = softmax(outputs["logits"][row])
        np.testing.assert_allclose(y_prob, mean, rtol=1e-4)
        # The OOD distance is that of the original image.
        first = image.reshape(-1)[0] / 255
        np.testing.assert_allclose(outputs["ood_distance"][row], first, rtol=1e-5)


def test_vanishing_probabilities_are_adjusted_as_in_the_evaluation() -> None:
    inputs = keras.Input((3,), name="images")
    model = keras.Model({"images": inputs}, {"logits": inputs})
    logits = np.array([[0.0, -200.0, -90.0]], np.float32)
    outputs = with_variant(model, ORIENTATIONS[""], 20 * np.log(PRIORS))({"images": logits})
    expected = adjust(softmax(logits, axis=1), PRIORS, 20)
    assert expected[0].max() < 0.999
    np.testing.assert_allclose(softmax(outputs["logits"], axis=1), expected, rtol=1e-4)


@pytest.fixture(scope="module")
def workdir(run: Run, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a copy of the run, evaluated with all variants that can be exported."""
    workdir = shutil.copytree(run[0], tmp_path_factory.mktemp("variants") / "run")
    run_here("evaluate.py", workdir, "--data-dir", data_dir, *FLAGS, exit_code=0)
    return workdir


@pytest.mark.slow
def test_variants_are_exported_and_served_as_evaluated(
    workdir: Path, data_dir: Path
) -> None:
    formats = ("saved_model", "onnx", "litert")
    flags = ("--data-dir", data_dir, *FLAGS, "--formats", *formats)
    run_here("export.py", workdir, *flags, exit_code=0)
    result = read_result(workdir, f"test.{VARIANT}", SplitResult)
    assert result.logit_adjustment
    table = read_predictions(table_path(workdir, f"test.{VARIANT}"))
    info = read_export_info(workdir / f"export/skincnn_{VARIANT}/1")
    assert info.variant == VARIANT
    assert info.predictions_sha256 == sha256(table_path(workdir, f"test.{VARIANT}"))
    assert "# How to use `skincnn`\n" in (workdir / "export/README.md").read_text()
    usage = (workdir / f"export/README_skincnn_{VARIANT}.md").read_text()
    assert f"# How to use `skincnn_{VARIANT}`\n" in usage
    contents = open_datasets(["demo_tiny"], data_dir).read_files(table)
    for suffix in ("", ".onnx", ".tflite"):
        predictor = load_predictor(workdir / f"export/skincnn_{VARIANT}{suffix}")
        # Calibration and thresholds are those of the variant.
        rule = predictor.rule
        assert rule.calibration_map == result.calibration_map
        assert rule.threshold == result.thresholds[TARGET]["sensitivity=0.90"]
        assert rule.set_thresholds == result.prediction_sets.thresholds
        outputs = predictor.predict(contents, pd.DataFrame())
        y_prob = arrays(table, rule.class_names)[1]
        np.testing.assert_allclose(outputs["uncalibrated_probabilities"], y_prob, atol=1e-4)
        assert result.triage is not None
        referred = outputs["refer"].mean()
        assert result.triage.referred.value == pytest.approx(referred, abs=1e-6)
    as_is = arrays(read_predictions(table_path(workdir, "test")), rule.class_names)[1]
    assert np.abs(as_is - y_prob).max() > 1e-3
    for name in formats:
        parity = read_result(workdir, f"export.{name}.{VARIANT}", ParityResult)
        assert parity.same_refer == 1
    card = (workdir / "README.md").read_text()
    assert f"saved_model.{VARIANT}" in card
    assert "skincnn export --tta d4 --logit-adjustment" in card


@pytest.mark.slow
def test_runs_of_an_ensemble_are_adjusted_by_their_own_strengths(
    workdir: Path, data_dir: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(workdir, tmp_path / "other"))
    path = other / "run.json"
    content = json.loads(path.read_text())
    content["class_counts"] = dict.fromkeys(content["class_counts"], 1) | {"mel": 50}
    path.write_text(json.dumps(content))
    flags = ("--data-dir", data_dir, "--logit-adjustment")
    run_here("evaluate.py", other, *flags, exit_code=0)
    ensemble, runs = tmp_path / "both", (workdir, other)
    run_here("evaluate.py", *runs, "--ensemble", ensemble, exit_code=0)
    run_here("export.py", *runs, "--ensemble", ensemble, *flags, exit_code=0)
    info = read_export_info(ensemble / "export/skincnn_adjusted/1")
    strengths = [
        read_result(run, "test.adjusted", SplitResult).logit_adjustment for run in runs
    ]
    assert list(info.logit_adjustment) == strengths
    result = read_result(ensemble, "export.saved_model.adjusted", ParityResult)
    assert result.largest_difference < 1e-5
    assert (result.largest_distance_difference or 0) < 1e-3
    assert len(info.models_sha256) == 2
    assert "saved_model" in (ensemble / "README.md").read_text()


@pytest.mark.slow
def test_ood_detection_can_be_left_out(workdir: Path, data_dir: Path) -> None:
    flags = ("--data-dir", data_dir, "--no-ood", "--formats", "saved_model", "litert")
    done = run_here("export.py", workdir, *flags, exit_code=0)
    assert f"detection is off: {OOD_LEFT_OUT}" in done.stderr
    table = read_predictions(table_path(workdir, "test"))
    contents = open_datasets(["demo_tiny"], data_dir).read_files(table)
    for model in (workdir / "export/skincnn", workdir / "export/skincnn.tflite"):
        predictor = load_predictor(model)
        assert predictor.rule.max_distance is None
        outputs = predictor.predict(contents[:5], pd.DataFrame())
        assert np.isnan(outputs["ood_distance"]).all()
        assert "out_of_distribution" not in outputs
        assert np.isfinite(outputs["probabilities"]).all()
    result = read_result(workdir, "export.litert", ParityResult)
    assert result.largest_distance_difference is None
