"""What export/README.md says of asking a model server, against one that knows no more.

There is no binary of TensorFlow Serving here: `model_server` stands in for it, and
TensorFlow's own saved_model_cli for another client of the SavedModel.
"""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from skincnn.classes import HAM10000
from skincnn.config import Config, DataConfig, ModelConfig, TrainConfig
from skincnn.data import datasets, pipeline
from skincnn.inference.ood import FeatureGaussian
from skincnn.inference.predictions import arrays, read_predictions
from skincnn.metrics.calibration import apply_temperature
from skincnn.model.classifier import POOLING_LAYER, build_classifier
from skincnn.model.orientations import ORIENTATIONS
from skincnn.serving import export
from skincnn.serving.export import ExportSpec, render_usage
from skincnn.serving.images import READ, UNREADABLE
from skincnn.serving.network import Network, with_distance
from skincnn.serving.postprocessing import DecisionRule
from skincnn.serving.saved_model import write_saved_model
from skincnn.serving.warmup import FILE, write_warmup

Run = tuple[Path, "subprocess.CompletedProcess[str]"]
NAMES = tuple(lesion.name for lesion in HAM10000)
TOLD = "skincnn_d4"
"""A model that is told of patients is served under this name."""


@dataclass(frozen=True)
class Server:
    """A running model server.

    Attributes:
        rest: The port of REST.
        grpc: The port of gRPC.
        models: The folder of each model that is served.
        usage: The README.md beside each.
    """

    rest: int
    grpc: int
    models: dict[str, Path]
    usage: dict[str, str]

    def example(self, pattern: str, name: str) -> str:
        """Returns an example of a README, asking this server."""
        (found,) = re.findall(pattern, self.usage[name], re.DOTALL)
        assert "localhost:850" in found
        found = found.replace("localhost:8501", f"127.0.0.1:{self.rest}")
        return str(found.replace("localhost:8500", f"127.0.0.1:{self.grpc}"))

    def post(self, body: object, name: str = "skincnn") -> Any:
        """Returns what REST answers to a JSON body."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.rest}/v1/models/{name}:predict",
            json.dumps(body).encode(),
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def predict(self, request: predict_pb2.PredictRequest) -> dict[str, np.ndarray]:
        """Returns what gRPC answers."""
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            outputs = stub.Predict(request, 30.0).outputs
        return {name: tf.make_ndarray(value) for name, value in outputs.items()}


def write_told(folder: Path) -> str:
    """Writes a SavedModel that is told of patients; returns its README.md."""
    config = Config(
        data=DataConfig(image_size=32),
        model=ModelConfig(
            backbone="test_presets:one_layer", weights="none", clinical_metadata=True
        ),
        train=TrainConfig(scenario="from_scratch"),
    )
    model = build_classifier(config.model, len(NAMES))
    size = model.get_layer(POOLING_LAYER).output.shape[-1]
    network = Network(
        with_distance(model, FeatureGaussian(np.zeros(size), np.eye(size))),
        config,
        {"sha256": {"model.keras": ""}, "synthetic": True, "dataset": "x"},
    )
    rules = DecisionRule(NAMES, 1.0, "90 % sensitivity", 0.5, math.inf)
    write_saved_model([network], ORIENTATIONS[""], rules, folder)
    write_warmup(folder, TOLD, patients=True)
    described = {
        **export._describe_inputs(True),
        **{"class_names": NAMES, "temperature": 1.0, "point": rules.point},
        **{"threshold": 0.5, "limit": 1.0, "synthetic": True},
    }
    served = ExportSpec(workdir=folder, tta="d4")
    assert served.folder.name == TOLD
    return render_usage(described, served)


@pytest.fixture(scope="module")
def server(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    told = tmp_path_factory.mktemp("told") / "1"
    usage = {
        "skincnn": (run[0] / "export/README.md").read_text(),
        TOLD: write_told(told),
    }
    models = {"skincnn": run[0] / "export/skincnn/1", TOLD: told}
    process = subprocess.Popen(
        [
            *(sys.executable, "-I", Path(__file__).with_name("model_server.py")),
            *(f"{name}={folder}" for name, folder in models.items()),
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=told.parent,
    )
    try:
        assert process.stdout is not None
        ports = json.loads(process.stdout.readline())
        yield Server(**ports, models=models, usage=usage)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def pictures(run: Run, data_dir: Path) -> tuple[list[bytes], np.ndarray]:
    """Three files of the test fold, and their calibrated probabilities."""
    table = read_predictions(run[0] / "predictions/test.csv").head(3)
    files = pipeline.read_files(datasets.open_dataset("demo_tiny", data_dir), table)
    report = json.loads((run[0] / "report.json").read_text())
    return files, apply_temperature(arrays(table, NAMES)[1], report["temperature"])


def b64(content: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(content).decode()}


@pytest.mark.parametrize("name", ["skincnn", TOLD])
def test_the_rest_example_of_the_readme_is_answered(
    name: str, server: Server, pictures: tuple[list[bytes], np.ndarray], tmp_path: Path
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    files, expected = pictures
    (tmp_path / "x.jpg").write_bytes(files[0])
    command = server.example(r"\n    (printf '[^\n]*\n[^\n]*)\n", name)
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True
    )
    (answer,) = json.loads(done.stdout)["predictions"]
    assert answer["status"] == READ
    assert answer["class_names"] == list(NAMES)
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5)
    if name == "skincnn":
        np.testing.assert_allclose(answer["probabilities"], expected[0], atol=1e-5)


@pytest.mark.parametrize("name", ["skincnn", TOLD])
def test_the_grpc_example_of_the_readme_is_answered(
    name: str, server: Server, pictures: tuple[list[bytes], np.ndarray], tmp_path: Path
) -> None:
    files, expected = pictures
    (tmp_path / "x.jpg").write_bytes(files[1])
    code = server.example(r"```python\n(.*?)```", name)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = np.array(done.stdout.strip().strip("[]").split(), float)
    assert found.sum() == pytest.approx(1, abs=1e-5)
    if name == "skincnn":
        np.testing.assert_allclose(found, expected[1], atol=1e-5)


def test_rows_columns_and_plain_values_are_answered_alike(
    server: Server, pictures: tuple[list[bytes], np.ndarray]
) -> None:
    files, expected = pictures
    contents = [*files, b"no picture"]
    rows = server.post({"instances": [{"image_bytes": b64(file)} for file in contents]})
    plain = server.post({"instances": [b64(file) for file in contents]})
    columns = server.post({"inputs": {"image_bytes": [b64(file) for file in contents]}})
    alone = server.post({"inputs": [b64(file) for file in contents]})
    assert repr(plain) == repr(rows)  # NaN is not equal to itself
    assert repr(alone) == repr(columns)
    found = columns["outputs"]
    assert found["status"] == [READ] * 3 + [UNREADABLE]
    np.testing.assert_allclose(found["probabilities"][:3], expected, atol=1e-5)
    for number, row in enumerate(rows["predictions"]):
        assert repr(row) == repr({name: values[number] for name, values in found.items()})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"instances": [{"picture": {"b64": ""}}]}, "unknown inputs"),
        ({"instances": [{"image_bytes": {"base64": ""}}]}, "no base64 string"),
        ({"instances": [{"image_bytes": 5}]}, "is no"),
        ({"instances": [{"image_bytes": {"b64": ""}}], "batch": 1}, "unknown keys"),
        ({"instances": [{"images": [[[0, 0, 0]]]}]}, "unknown inputs"),
        ({"signature_name": "none", "instances": ["x"]}, "not found"),
    ],
)
def test_other_requests_are_refused(body: object, message: str, server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.post(body)
    with caught.value as answer:
        assert answer.code == 400
        assert message in json.load(answer)["error"]


def test_pixels_are_answered_through_rest(server: Server) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3)).tolist()
    found = server.post({"signature_name": "images", "inputs": {"images": pixels}})
    np.testing.assert_allclose(np.sum(found["outputs"]["probabilities"], 1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["skincnn", TOLD])
def test_warm_up_requests_are_answered(name: str, server: Server) -> None:
    path = server.models[name] / "assets.extra" / FILE
    sizes = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        assert log.predict_log.request.model_spec.name == name
        answers = server.predict(log.predict_log.request)
        assert (answers["status"] == READ.encode()).all()
        sizes.append(len(answers["status"]))
    assert sizes == [1, 8]


def test_a_filter_of_outputs_and_a_wrong_input_by_grpc(
    server: Server, pictures: tuple[list[bytes], np.ndarray]
) -> None:
    files, expected = pictures
    request = predict_pb2.PredictRequest(output_filter=["probabilities"])
    request.model_spec.name = "skincnn"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(files))
    answers = server.predict(request)
    assert list(answers) == ["probabilities"]
    np.testing.assert_allclose(answers["probabilities"], expected, atol=1e-5)
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(files))
    with pytest.raises(grpc.RpcError, match="input keys do not match"):
        server.predict(request)


def test_saved_model_cli_shows_and_runs_the_signatures(
    run: Run, pictures: tuple[list[bytes], np.ndarray], tmp_path: Path
) -> None:
    files, expected = pictures
    client = [str(Path(sys.executable).with_name("saved_model_cli"))]
    where = ["--dir", str(run[0] / "export/skincnn/1")]
    shown = subprocess.run([*client, "show", *where, "--all"], capture_output=True)
    text = " ".join(shown.stdout.decode().split())
    for part in (
        "signature_def['serving_default']",
        "inputs['image_bytes'] tensor_info: dtype: DT_STRING shape: (-1)",
        "inputs['images'] tensor_info: dtype: DT_UINT8 shape: (-1, -1, -1, 3)",
        "outputs['probabilities'] tensor_info: dtype: DT_FLOAT shape: (-1, 7)",
        "Method name is: tensorflow/serving/predict",
    ):
        assert part in text
    # Of objects: NumPy's own bytes (dtype S) lose the zeros at the end of a file.
    np.save(tmp_path / "files.npy", np.array(files, dtype=object))
    done = subprocess.run(
        [
            *(*client, "run", *where, "--tag_set", "serve"),
            *("--signature_def", "serving_default", "--outdir", str(tmp_path / "out")),
            *("--inputs", f"image_bytes={tmp_path / 'files.npy'}"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "out" / "probabilities.npy")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    table = read_predictions(run[0] / "predictions/test.csv").head(3)
    found = np.load(tmp_path / "out" / "uncalibrated_probabilities.npy")
    np.testing.assert_allclose(found, arrays(table, NAMES)[1], atol=1e-5)
