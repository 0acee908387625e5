"""The requests that export/README.md documents, sent to a model server.

`model_server` replaces TensorFlow Serving, which is not installed. The saved_model_cli of
TensorFlow is another client of the SavedModel.
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
from skincnn.clinical_metadata import CLINICAL_FEATURES
from skincnn.config import Config, DataConfig, ModelConfig, TrainConfig
from skincnn.data.combined import open_datasets
from skincnn.data.preprocessing_spec import describe_preprocessing
from skincnn.evaluation.results import SplitResult, read_result
from skincnn.inference.ood import ReferenceFeatures
from skincnn.inference.predictions import arrays, read_predictions
from skincnn.metrics.calibration import CalibrationMap
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.model.classifier import POOLING_LAYER, build_classifier
from skincnn.serving.export_info import (
    IMAGE_INPUTS,
    METADATA_INPUTS,
    ExportInfo,
    Preprocessing,
    render_usage,
)
from skincnn.serving.images import OK, UNREADABLE
from skincnn.serving.network import Network, add_ood_distance
from skincnn.serving.saved_model import WARMUP_FILE, write_saved_model, write_warmup

Run = tuple[Path, "subprocess.CompletedProcess[str]"]
NAMES = tuple(lesion.name for lesion in HAM10000)
WITH_METADATA = "skincnn_d4"
"""Name of a model that requires clinical metadata."""


@dataclass(frozen=True)
class Server:
    """A running model server.

    Attributes:
        rest: Port of the REST API.
        grpc: Port of the gRPC API.
        models: Maps each model name to its SavedModel.
        usage: Maps each model name to its documentation.
    """

    rest: int
    grpc: int
    models: dict[str, Path]
    usage: dict[str, str]

    def example(self, pattern: str, name: str) -> str:
        """Returns a documented example with the ports of this server."""
        examples = re.findall(pattern, self.usage[name], re.DOTALL)
        (code,) = (code for code in examples if "localhost:850" in code)
        code = code.replace("localhost:8501", f"127.0.0.1:{self.rest}")
        return str(code.replace("localhost:8500", f"127.0.0.1:{self.grpc}"))

    def post(self, body: object, name: str = "skincnn") -> Any:
        """Returns the predictions in the REST response to a JSON body."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.rest}/v1/models/{name}:predict",
            json.dumps(body).encode(),
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)["predictions"]

    def predict(self, request: predict_pb2.PredictRequest) -> dict[str, np.ndarray]:
        """Returns the outputs of a gRPC request."""
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            outputs = stub.Predict(request, 30.0).outputs
        return {name: tf.make_ndarray(value) for name, value in outputs.items()}


def write_model_with_metadata(folder: Path) -> str:
    """Writes a SavedModel with clinical metadata, and returns its documentation."""
    config = Config(
        data=DataConfig(image_size=32),
        model=ModelConfig(
            backbone="test_presets:one_layer", weights="none", clinical_metadata=True
        ),
        train=TrainConfig(scenario="from_scratch"),
    )
    model = build_classifier(config.model, len(NAMES))
    size = model.get_layer(POOLING_LAYER).output.shape[-1]
    references = ReferenceFeatures(np.eye(size, dtype=np.float32))
    rule = DecisionRule(
        class_names=NAMES,
        set_thresholds=(0.1,) * len(NAMES),
        calibration_map=CalibrationMap(temperature=1.0, bias=(0.0,) * len(NAMES)),
        threshold=0.5,
        max_distance=math.inf,
    )
    network = Network(add_ood_distance(model, references), config)
    write_saved_model([network], rule, folder)
    write_warmup(folder, WITH_METADATA, clinical_metadata=True)
    info = ExportInfo(
        format="saved_model",
        synthetic=True,
        dataset="x",
        rule=rule,
        variant="",
        logit_adjustment=(),
        ood_off="",
        attribution="",
        preprocessing=(
            Preprocessing(stored_longest_side=None, **describe_preprocessing(config.data)),
        ),
        inputs=IMAGE_INPUTS | METADATA_INPUTS,
        clinical_features=CLINICAL_FEATURES,
        vocabularies={},
        models_sha256=(),
        predictions_sha256="",
        files={},
    )
    return render_usage(info, WITH_METADATA)


@pytest.fixture(scope="module")
def server(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with_metadata = tmp_path_factory.mktemp("with_metadata") / "1"
    usage = {
        "skincnn": (run[0] / "export/README.md").read_text(),
        WITH_METADATA: write_model_with_metadata(with_metadata),
    }
    models = {"skincnn": run[0] / "export/skincnn/1", WITH_METADATA: with_metadata}
    process = subprocess.Popen(
        [
            *(sys.executable, "-I", Path(__file__).with_name("model_server.py")),
            *(f"{name}={folder}" for name, folder in models.items()),
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=with_metadata.parent,
    )
    try:
        assert process.stdout is not None
        ports = json.loads(process.stdout.readline())
        yield Server(**ports, models=models, usage=usage)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def images(run: Run, data_dir: Path) -> tuple[list[bytes], np.ndarray]:
    """Returns three files of the test split, and their calibrated probabilities."""
    table = read_predictions(run[0] / "predictions/test.csv").head(3)
    files = open_datasets(["demo_tiny"], data_dir).read_files(table)
    calibration_map = read_result(run[0], "test", SplitResult).calibration_map
    return files, calibration_map.apply(arrays(table, NAMES)[1])


@pytest.mark.parametrize("name", ["skincnn", WITH_METADATA])
def test_the_documented_rest_example_works(
    name: str, server: Server, images: tuple[list[bytes], np.ndarray], tmp_path: Path
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    files, expected = images
    (tmp_path / "x.jpg").write_bytes(files[0])
    command = server.example(r"\n    (printf '[^\n]*\n[^\n]*)\n", name)
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True
    )
    (prediction,) = json.loads(done.stdout)["predictions"]
    assert prediction["status"] == OK
    assert prediction["class_names"] == list(NAMES)
    assert sum(prediction["probabilities"]) == pytest.approx(1, abs=1e-5)
    if name == "skincnn":
        np.testing.assert_allclose(prediction["probabilities"], expected[0], atol=1e-5)


@pytest.mark.parametrize("name", ["skincnn", WITH_METADATA])
def test_the_documented_grpc_example_works(
    name: str, server: Server, images: tuple[list[bytes], np.ndarray], tmp_path: Path
) -> None:
    files, expected = images
    (tmp_path / "x.jpg").write_bytes(files[1])
    code = server.example(r"```python\n(.*?)```", name)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    probabilities = np.array(done.stdout.strip().strip("[]").split(), float)
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    if name == "skincnn":
        np.testing.assert_allclose(probabilities, expected[1], atol=1e-5)


def test_a_request_may_contain_several_images(
    server: Server, images: tuple[list[bytes], np.ndarray]
) -> None:
    files, expected = images
    encoded = [base64.b64encode(file).decode() for file in (*files, b"not an image")]
    rows = server.post({"instances": [{"image_bytes": {"b64": text}} for text in encoded]})
    assert [row["status"] for row in rows] == [OK] * 3 + [UNREADABLE]
    probabilities = [row["probabilities"] for row in rows[:3]]
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"instances": [{"images": [[[0, 0, 0]]]}]}, "unknown inputs"),
        ({"instances": [{"image_bytes": 5}]}, "is not of type"),
        ({"signature_name": "none", "instances": []}, "not found"),
    ],
)
def test_invalid_requests_are_rejected(body: object, message: str, server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.post(body)
    with caught.value as response:
        assert response.code == 400
        assert message in json.load(response)["error"]


def test_pixels_are_predicted_through_rest(server: Server) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3)).tolist()
    instances = [{"images": image} for image in pixels]
    for row in server.post({"signature_name": "images", "instances": instances}):
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["skincnn", WITH_METADATA])
def test_warm_up_requests_work(name: str, server: Server) -> None:
    path = server.models[name] / "assets.extra" / WARMUP_FILE
    sizes = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        assert log.predict_log.request.model_spec.name == name
        outputs = server.predict(log.predict_log.request)
        assert (outputs["status"] == OK.encode()).all()
        sizes.append(len(outputs["status"]))
    assert sizes == [1, 8]


def test_an_output_filter_and_an_invalid_input_by_grpc(
    server: Server, images: tuple[list[bytes], np.ndarray]
) -> None:
    files, expected = images
    request = predict_pb2.PredictRequest(output_filter=["probabilities"])
    request.model_spec.name = "skincnn"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(files))
    outputs = server.predict(request)
    assert list(outputs) == ["probabilities"]
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(files))
    with pytest.raises(grpc.RpcError, match="input keys do not match"):
        server.predict(request)


@pytest.mark.slow
def test_saved_model_cli_shows_and_runs_the_signatures(
    run: Run, images: tuple[list[bytes], np.ndarray], tmp_path: Path
) -> None:
    files, expected = images
    client = [str(Path(sys.executable).with_name("saved_model_cli"))]
    path = ["--dir", str(run[0] / "export/skincnn/1")]
    shown = subprocess.run([*client, "show", *path, "--all"], capture_output=True)
    text = " ".join(shown.stdout.decode().split())
    for part in (
        "signature_def['serving_default']",
        "inputs['image_bytes'] tensor_info: dtype: DT_STRING shape: (-1)",
        "inputs['images'] tensor_info: dtype: DT_UINT8 shape: (-1, -1, -1, 3)",
        "outputs['probabilities'] tensor_info: dtype: DT_FLOAT shape: (-1, 7)",
        "Method name is: tensorflow/serving/predict",
    ):
        assert part in text
    # As objects, because the NumPy dtype S drops trailing zero bytes.
    np.save(tmp_path / "files.npy", np.array(files, dtype=object))
    done = subprocess.run(
        [
            *(*client, "run", *path, "--tag_set", "serve"),
            *("--signature_def", "serving_default", "--outdir", str(tmp_path / "out")),
            *("--inputs", f"image_bytes={tmp_path / 'files.npy'}"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    probabilities = np.load(tmp_path / "out" / "probabilities.npy")
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    table = read_predictions(run[0] / "predictions/test.csv").head(3)
    uncalibrated = np.load(tmp_path / "out" / "uncalibrated_probabilities.npy")
    np.testing.assert_allclose(uncalibrated, arrays(table, NAMES)[1], atol=1e-5)
