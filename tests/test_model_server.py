"""The requests and programs that export/README.md documents.

`model_server` replaces TensorFlow Serving, which is not installed.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from exports import CONFIG, make_info, make_rule, run_example, with_distance
from tensorflow_serving.apis import prediction_log_pb2, prediction_service_pb2_grpc

from skincnn.classes import HAM10000
from skincnn.clinical_metadata import CLINICAL_FEATURES, encode_clinical_metadata
from skincnn.data.combined import open_datasets
from skincnn.evaluation.results import SplitResult, read_result
from skincnn.inference.predictions import arrays, read_predictions
from skincnn.model.classifier import build_classifier
from skincnn.records import to_json
from skincnn.serving.export_info import IMAGE_INPUTS, METADATA_INPUTS, render_usage
from skincnn.serving.images import OK, UNREADABLE
from skincnn.serving.network import Network
from skincnn.serving.runtimes import RUNTIMES, with_fixed_size
from skincnn.serving.saved_model import WARMUP_FILE, write_saved_model, write_warmup

Run = tuple[Path, "subprocess.CompletedProcess[str]"]
NAMES = tuple(lesion.name for lesion in HAM10000)
RULE = make_rule(*NAMES)
WITH_METADATA = "skincnn_d4"
"""Name of a model that requires clinical metadata."""
INFO = make_info(
    RULE, inputs=IMAGE_INPUTS | METADATA_INPUTS, clinical_features=CLINICAL_FEATURES
)
TENSORFLOW_ONLY = """
import runpy, sys
sys.modules.update(dict.fromkeys(("skincnn", "tfds_ham10000", "keras")))  # not importable
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


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

    def post(self, body: object) -> Any:
        """Returns the predictions in the REST response to a JSON body."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.rest}/v1/models/skincnn:predict",
            json.dumps(body).encode(),
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)["predictions"]


@pytest.fixture(scope="module")
def network() -> Network:
    """Returns a network that requires clinical metadata."""
    model = replace(CONFIG.model, clinical_metadata=True)
    config = replace(CONFIG, model=model)
    return Network(with_distance(build_classifier(model, len(NAMES))), config)


@pytest.fixture(scope="module")
def server(
    run: Run, network: Network, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("with_metadata") / "1"
    write_saved_model([network], RULE, folder)
    write_warmup(folder, WITH_METADATA, clinical_metadata=True)
    usage = {
        "skincnn": (run[0] / "export/README.md").read_text(),
        WITH_METADATA: render_usage(INFO, WITH_METADATA),
    }
    models = {"skincnn": run[0] / "export/skincnn/1", WITH_METADATA: folder}
    arguments = [f"{name}={path}" for name, path in models.items()]
    script = Path(__file__).with_name("model_server.py")
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", TENSORFLOW_ONLY, script, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder.parent,
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
    name: str,
    server: Server,
    images: tuple[list[bytes], np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files, expected = images
    (tmp_path / "x.jpg").write_bytes(files[1])
    monkeypatch.chdir(tmp_path)
    exec(server.example(r"```python\n(.*?)```", name), {})
    probabilities = np.array(capsys.readouterr().out.strip().strip("[]").split(), float)
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


def test_pixels_are_predicted_through_rest(server: Server) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3)).tolist()
    instances = [{"images": image} for image in pixels]
    for row in server.post({"signature_name": "images", "instances": instances}):
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["skincnn", WITH_METADATA])
def test_warm_up_requests_work(name: str, server: Server) -> None:
    path = server.models[name] / "assets.extra" / WARMUP_FILE
    sizes = []
    channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc}")
    predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        assert log.predict_log.request.model_spec.name == name
        outputs = predict(log.predict_log.request, 30.0).outputs
        assert set(outputs["status"].string_val) == {OK.encode()}
        sizes.append(len(outputs["status"].string_val))
    channel.close()
    assert sizes == [1, 8]


@pytest.mark.parametrize("name", ["onnx", "litert"])
def test_the_documented_examples_encode_the_clinical_metadata(
    name: str, network: Network, tmp_path: Path
) -> None:
    runtime = RUNTIMES[name]
    path = tmp_path / f"{WITH_METADATA}{runtime.suffix}"
    image = np.full((40, 50, 3), 99, np.uint8)
    row = pd.DataFrame({"age": [50], "sex": ["female"], "localization": ["back"]})
    inputs = {
        "images": np.float32([image[:32, :32]]),
        "metadata": encode_clinical_metadata(row),
    }
    model = with_fixed_size(network.model, 32, RULE.calibration_map)
    runtime.write(model, inputs, path)
    runtime.embed(path, to_json(INFO))
    printed = run_example(render_usage(INFO, WITH_METADATA), path, image)
    assert list(printed) == list(NAMES)
    probabilities = model(inputs)["probabilities"][0]
    np.testing.assert_allclose(list(printed.values()), probabilities, atol=1e-5)
