"""Faults in saving, loading and serving models that must not occur again."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import Run, jpeg, run_here
from exports import CONFIG, make_rule, with_distance

from skincnn.classes import HAM10000
from skincnn.config import ModelConfig
from skincnn.errors import ConfigError, DataError
from skincnn.files import sha256, write_json
from skincnn.inference.run_dir import RUN_FILE
from skincnn.metrics.calibration import CalibrationMap
from skincnn.model.classifier import POOLING_LAYER, build_classifier
from skincnn.serving.export_info import info_path
from skincnn.serving.network import Network
from skincnn.serving.postprocessing import postprocess
from skincnn.serving.predictor import load_predictor
from skincnn.serving.runtimes import RUNTIMES, with_fixed_size
from skincnn.serving.saved_model import write_saved_model
from skincnn.training.devices import dtype_policy
from skincnn.training.run import save_model

Change = Callable[[dict[str, Any]], object]
RULE = make_rule(
    *(lesion.name for lesion in HAM10000),
    calibration_map=CalibrationMap(temperature=0.7, bias=tuple(np.linspace(-2, 2, 7))),
)
IMAGES = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)


def mixed_precision_classifier(
    policy: str, config: ModelConfig = CONFIG.model
) -> keras.Model:
    """Returns a classifier with this dtype policy and logits far from 0."""
    with dtype_policy(policy):
        model = build_classifier(config, len(HAM10000), seed=1)
    layer = model.get_layer("logits")
    layer.set_weights([30 * weights for weights in layer.get_weights()])
    return model


def check_rows(probabilities: tf.Tensor | np.ndarray) -> None:
    values = np.asarray(probabilities)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values.sum(axis=1, dtype=np.float64), 1, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_probabilities_of_mixed_precision_are_float32_and_sum_to_1(
    policy: str, tmp_path: Path
) -> None:
    """The .keras file is saved with the policy, and converted to a SavedModel."""
    model = mixed_precision_classifier(policy)
    assert model.get_layer(POOLING_LAYER).compute_dtype == policy.removeprefix("mixed_")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    logits = loaded(IMAGES.astype(np.float32), training=False)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    check_rows(tf.nn.softmax(logits))
    network = Network(with_distance(loaded), CONFIG)
    write_saved_model([network], RULE, tmp_path / "saved")
    saved_model = tf.saved_model.load(str(tmp_path / "saved"))
    files = tf.stack([tf.io.encode_png(image) for image in IMAGES])
    outputs = saved_model.signatures["serving_default"](image_bytes=files)
    for name in ("probabilities", "uncalibrated_probabilities"):
        check_rows(outputs[name])
    # A head in half precision would be off by 1e-3.
    expected = np.asarray(tf.nn.softmax(logits))
    np.testing.assert_allclose(outputs["uncalibrated_probabilities"], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["litert", "onnx"])
def test_conversions_of_a_mixed_precision_network_are_float32(
    name: str, tmp_path: Path
) -> None:
    """The network has depthwise convolutions, unlike that of `run`."""
    config = ModelConfig(backbone="mobilenet", width_multiplier=0.25, weights="none")
    trained = mixed_precision_classifier("mixed_bfloat16", config)
    save_model(replace(CONFIG, model=config), trained, tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    pixels = {"images": IMAGES.astype(np.float32)}
    path = tmp_path / f"model{RUNTIMES[name].suffix}"
    network = with_fixed_size(with_distance(model), 32, RULE)
    RUNTIMES[name].write(network, pixels, path)
    outputs = RUNTIMES[name].open(path)(pixels)
    assert outputs["logits"].dtype == np.float32
    is_readable = tf.ones(len(IMAGES), tf.bool)
    logits, distances = [outputs["logits"]], [outputs["ood_distance"]]
    check_rows(postprocess(logits, distances, is_readable, RULE)["probabilities"])
    expected = tf.nn.softmax(model(pixels["images"], training=False))
    y_prob = tf.nn.softmax(outputs["logits"])
    np.testing.assert_allclose(y_prob, expected, atol=1e-4)


@pytest.fixture
def workdir(run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run[0], tmp_path / "run"))


def rewrite(path: Path, change: Change) -> None:
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)


def run_all(workdir: Path, data_dir: Path) -> Iterator[subprocess.CompletedProcess[str]]:
    """Evaluates, exports, and predicts with the model of a run."""
    image = workdir.with_name("lesion.jpg")
    image.write_bytes(jpeg())
    yield run_here("evaluate.py", workdir, "--data-dir", data_dir)
    yield run_here("export.py", workdir, "--data-dir", data_dir)
    yield run_here("predict.py", workdir / "model.keras", image)


def test_a_changed_preprocessing_is_rejected(workdir: Path, data_dir: Path) -> None:
    rewrite(workdir / "config.json", lambda c: c["data"].update(crop_border=False))
    for done in run_all(workdir, data_dir):
        assert done.returncode == 2, done.stderr
        assert "'crop_border': True" in done.stderr
        assert "train again with --overwrite" in done.stderr
        assert "Traceback" not in done.stderr


def test_another_order_of_classes_is_rejected(workdir: Path, data_dir: Path) -> None:
    """Otherwise the outputs would get the wrong names."""
    rewrite(workdir / RUN_FILE, lambda c: c["class_names"].reverse())
    retrain = "Use the --data-dir of the training run, or train again with --overwrite."
    fixes = [retrain, *[f"Run: skincnn evaluate {workdir}"] * 2]
    for done, fix in zip(run_all(workdir, data_dir), fixes, strict=True):
        assert done.returncode == 3, done.stderr
        assert fix in done.stderr
        assert "has the classes akiec, bcc, bkl, df, mel, nv, vasc" in done.stderr
        assert "in the order of the outputs of the model: vasc, nv" in done.stderr


def test_another_number_of_classes_is_rejected(workdir: Path) -> None:
    for name in (RUN_FILE, "results/test.json"):
        rewrite(workdir / name, lambda c: c["class_names"].pop())
    message = r"was modified .* Expected one class for each of the 7"
    with pytest.raises(DataError, match=message):
        load_predictor(workdir / "model.keras")


def test_an_export_with_another_order_of_classes_is_rejected(workdir: Path) -> None:
    exported = workdir / "export/skincnn/1"
    rewrite(info_path(exported), lambda info: info["rule"]["class_names"].reverse())
    predictor = load_predictor(exported)
    with pytest.raises(DataError, match="has the classes akiec, bcc"):
        predictor.predict([jpeg()], pd.DataFrame())


def test_a_converted_model_with_other_metadata_is_rejected(
    workdir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"12345678")
    shutil.copy(info_path(workdir / "export/skincnn/1"), info_path(path))
    changes = {"format": "onnx", "files": {path.name: sha256(path)}}
    rewrite(info_path(path), lambda info: info.update(changes))
    rewrite(info_path(path), lambda info: info["preprocessing"][0].update(version=0))
    message = "for version 0 of the preprocessing. Expected version 1. Export the run again"
    with pytest.raises(ConfigError, match=message):
        load_predictor(path)
    rewrite(info_path(path), lambda content: content.update(more=1))
    with pytest.raises(ConfigError, match=r"`more`: Extra inputs.*Export the run again"):
        load_predictor(path)
