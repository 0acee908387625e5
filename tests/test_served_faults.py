"""Faults of models that are saved, loaded and served, by their numbers in the table."""

from __future__ import annotations

import http.server
import json
import math
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, run_here
from keras.src.applications import mobilenet
from keras.src.backend import config as keras_config

from skincnn.classes import HAM10000
from skincnn.config import Config, DataConfig, ModelConfig, TrainConfig
from skincnn.data.preprocessing_spec import describe_preprocessing
from skincnn.errors import ConfigError, DataError
from skincnn.files import SCHEMA, SEAL, write_json, write_sealed_json
from skincnn.inference.ood import FeatureGaussian
from skincnn.inference.run_dir import read_run
from skincnn.model.backbones import build_backbone
from skincnn.model.classifier import POOLING_LAYER, build_classifier
from skincnn.model.orientations import ORIENTATIONS
from skincnn.serving.network import Network, with_distance
from skincnn.serving.postprocessing import DecisionRule, answer
from skincnn.serving.predictor import load_predictor
from skincnn.serving.runtimes import RUNTIMES, fixed_size
from skincnn.serving.saved_model import write_saved_model
from skincnn.training.devices import dtype_policy
from skincnn.training.run import save_model

Run = tuple[Path, "subprocess.CompletedProcess[str]"]
Change = Callable[[dict[str, Any]], object]
CONFIG = Config(
    data=DataConfig(image_size=32),
    model=ModelConfig(backbone="test_presets:one_layer", weights="none"),
    train=TrainConfig(scenario="from_scratch"),
)
RULES = DecisionRule(tuple(one.name for one in HAM10000), 0.7, "x", 0.5, math.inf)
IMAGES = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)


def in_half_precision(policy: str) -> keras.Model:
    """Returns a classifier as it trains, with logits far from 0."""
    with dtype_policy(policy):
        model = build_classifier(CONFIG.model, len(HAM10000), seed=1)
    for layer in model.layers:
        if layer.name == "logits":
            layer.set_weights([30 * weights for weights in layer.get_weights()])
    return model


def serve(model: keras.Model) -> keras.Model:
    size = model.get_layer(POOLING_LAYER).output.shape[-1]
    return with_distance(model, FeatureGaussian(np.zeros(size), np.eye(size)))


def check_rows(probabilities: tf.Tensor | np.ndarray) -> None:
    values = np.asarray(probabilities)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values.sum(axis=1, dtype=np.float64), 1, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_46_probabilities_of_mixed_precision_are_float32_and_sum_to_1(
    policy: str, tmp_path: Path
) -> None:
    """Of a .keras file that was saved as it trained, and of its SavedModel."""
    model = in_half_precision(policy)
    assert model.get_layer(POOLING_LAYER).compute_dtype == policy.removeprefix("mixed_")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    logits = loaded(IMAGES.astype(np.float32), training=False)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    check_rows(tf.nn.softmax(logits))
    network = Network(serve(loaded), CONFIG, {})
    write_saved_model([network], ORIENTATIONS[""], RULES, tmp_path / "saved")
    served = tf.saved_model.load(str(tmp_path / "saved"))
    answers = served.signatures["images"](images=tf.constant(IMAGES))
    for name in ("probabilities", "uncalibrated_probabilities"):
        check_rows(answers[name])
    # Half a precision in the head would be off by 1e-3.
    expected = np.asarray(tf.nn.softmax(logits))
    np.testing.assert_allclose(answers["uncalibrated_probabilities"], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["litert", "onnx"])
def test_46_copies_of_a_network_of_mixed_precision_are_float32(
    name: str, tmp_path: Path
) -> None:
    trained = in_half_precision("mixed_bfloat16")
    save_model(CONFIG, trained, tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    pixels = {"images": IMAGES.astype(np.float32)}
    path = tmp_path / f"copy{RUNTIMES[name].suffix}"
    RUNTIMES[name].write(fixed_size(serve(model), 32), pixels, path)
    found = RUNTIMES[name].open(path)(pixels)
    assert found["logits"].dtype == np.float32
    is_read = tf.ones(len(IMAGES), tf.bool)
    answers = answer([found["logits"]], [found["distance"]], is_read, RULES)
    check_rows(answers["probabilities"])


@pytest.fixture
def workdir(run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run[0], tmp_path / "run"))


def rewrite(path: Path, change: Change) -> None:
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)


def ask_all(workdir: Path, data_dir: Path) -> Iterator[subprocess.CompletedProcess[str]]:
    """Evaluates, exports, and predicts with the model of a run."""
    picture = workdir / "figures" / "examples.png"
    yield run_here("evaluate.py", workdir, "--data-dir", data_dir)
    yield run_here("export.py", workdir, "--data-dir", data_dir)
    yield run_here("predict.py", workdir / "model.keras", picture)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema="0.1"), "its schema is '0.1'. Expected 1"),
        (lambda c: c.update(schema=SCHEMA + 1), "its schema is 2. Expected 1"),
        (lambda c: (c.pop("schema"), c.pop("class_names")), "lacks class_names"),
        (lambda c: c["preprocessing"].update(version=2), "says that pictures were read as"),
        (lambda c: c["preprocessing"].update(resize_mode="crop"), "'resize_mode': 'crop'"),
    ],
)
def test_50_a_run_of_another_schema_or_preprocessing_is_refused(
    change: Change, message: str, workdir: Path, data_dir: Path
) -> None:
    rewrite(workdir / "metadata.json", change)
    for done in ask_all(workdir, data_dir):
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert "train again with --overwrite" in done.stderr
        assert "Traceback" not in done.stderr


def test_50_a_changed_config_does_not_change_how_pictures_are_read(
    workdir: Path, data_dir: Path
) -> None:
    rewrite(workdir / "config.json", lambda c: c["data"].update(crop_border=False))
    for done in ask_all(workdir, data_dir):
        assert done.returncode == 2, done.stderr
        assert "'crop_border': True" in done.stderr


def test_50_a_run_of_before_schemas_is_migrated(workdir: Path) -> None:
    before, config = read_run(workdir)
    assert before["preprocessing"] == describe_preprocessing(config.data)
    rewrite(workdir / "metadata.json", lambda c: (c.pop("schema"), c.pop("preprocessing")))
    assert read_run(workdir) == (before, config)


def test_50_another_order_of_classes_is_refused(workdir: Path, data_dir: Path) -> None:
    """The names would be those of other outputs."""
    rewrite(workdir / "metadata.json", lambda c: c["class_names"].reverse())
    for done in ask_all(workdir, data_dir):
        assert done.returncode == 3, done.stderr
        assert "has the classes akiec, bcc, bkl, df, mel, nv, vasc" in done.stderr
        assert "in the order of its model's outputs: vasc, nv" in done.stderr


def test_50_another_number_of_classes_is_refused(workdir: Path) -> None:
    for name in ("metadata.json", "report.json"):
        rewrite(workdir / name, lambda c: c["class_names"].pop())
    with pytest.raises(DataError, match=r"has 7 outputs. Expected one for each class"):
        load_predictor(workdir / "model.keras")


EARLIER = [
    json.loads(line)
    for line in (ROOT / "tests/earlier_exports.jsonl").read_text().splitlines()
]
"""The metadata.json of exports of demo_tiny as they were written before there were schemas,
and before there were seals."""


def test_50_an_export_of_another_schema_or_order_is_refused(workdir: Path) -> None:
    exported = workdir / "export/skincnn/1"
    path = exported / "assets.extra/metadata.json"
    picture = workdir / "figures" / "examples.png"
    original = path.read_text()
    before_schemas, before_seals = EARLIER
    for content, code, message in (
        (before_schemas, 2, "its schema is None. Expected 1. Export the run again"),
        (before_seals, 3, "written by an earlier version of skincnn. Export the run again"),
    ):
        write_json(path, content)
        done = run_here("predict.py", exported, picture)
        assert done.returncode == code, done.stderr
        assert message in done.stderr
    path.write_text(original)
    rewrite(path, lambda c: c["class_names"].reverse())
    done = run_here("predict.py", exported, picture)
    assert done.returncode == 3, done.stderr
    assert "metadata.json has changed since it was written" in done.stderr
    # Even where somebody sealed it again.
    content = json.loads(path.read_text())
    del content[SEAL]
    write_sealed_json(path, content)
    done = run_here("predict.py", exported, picture)
    assert done.returncode == 3, done.stderr
    assert "answers with the classes akiec, bcc" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (EARLIER[0], "its schema is None"),
        ([], "its schema is None"),
        (
            {
                **EARLIER[1],
                **{"schema": SCHEMA, "format": "onnx", "file_sha256": ""},
                "preprocessing": [{**describe_preprocessing(CONFIG.data), "version": 0}],
            },
            "read as in version 0. Expected 1",
        ),
    ],
)
def test_50_a_copy_of_another_schema_or_preprocessing_is_refused(
    content: Any, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"12345678")
    if content and "file_sha256" in content:
        from skincnn.files import sha256

        content = {**content, "file_sha256": sha256(path)}
    write = write_sealed_json if isinstance(content, dict) else write_json
    write(tmp_path / "x.onnx.json", content)
    with pytest.raises(ConfigError, match=f"{message}.*Export the run again"):
        load_predictor(path)


def test_51_weights_of_another_network_end_before_any_work(
    tmp_path: Path, data_dir: Path
) -> None:
    path = tmp_path / "other.weights.h5"
    build_backbone("mobilenet", 0.5, "none").save_weights(path)
    flags = (
        "--data.dataset demo_tiny --model.backbone mobilenet --model.width-multiplier 0.25"
    )
    done = run_here(
        "train.py",
        *flags.split(),
        *("--train.scenario", "fine_tune", "--model.weights", path),
        *("--workdir", tmp_path / "run", "--data-dir", data_dir),
    )
    assert done.returncode == 2, done.stderr
    assert "does not hold the weights of mobilenet" in done.stderr
    assert not (tmp_path / "run").exists()


def test_51_what_does_not_fit_is_skipped_nowhere() -> None:
    folders = ("skincnn", "scripts", "tuning", "tfds_ham10000")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    text = "".join(path.read_text() for path in paths)
    assert "load_weights(" in text
    for word in ("skip_mismatch", "by_name=", "safe_mode"):
        assert word not in text


class Proxy(http.server.BaseHTTPRequestHandler):
    """Answers with a page, or breaks off."""

    promised = 0

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(max(self.promised, 15)))
        self.end_headers()
        self.wfile.write(b"<html>no</html>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("promised", [0, 10_000])
def test_52_a_download_that_is_cut_or_no_weights_leaves_nothing(
    promised: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Proxy, "promised", promised)
    server = http.server.HTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    monkeypatch.setattr(mobilenet, "BASE_WEIGHT_PATH", address)
    monkeypatch.setattr(keras_config, "_KERAS_DIR", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.h5").touch()
    try:
        with pytest.raises(ConfigError, match=r"ImageNet weights of mobilenet 0\.25"):
            build_backbone("mobilenet", 0.25, "imagenet")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ["mine.h5"]
