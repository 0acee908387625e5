from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import tensorflow as tf
from conftest import ROOT, limited_file_size, run_here
from exports import make_rule, run_example

from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.results import SplitResult, read_result, result_path
from skincnn.files import sha256
from skincnn.inference.predictions import arrays, read_predictions, table_path
from skincnn.metrics.calibration import CalibrationMap
from skincnn.records import to_json
from skincnn.reporting.parity_result import ParityResult, read_parity
from skincnn.serving import conversion, export
from skincnn.serving.export import ExportSpec, export_saved_model, read_rule
from skincnn.serving.export_info import info_path, read_export_info
from skincnn.serving.parity import (
    Output,
    choose_images,
    decide,
    find_ood_fault,
    measure_parity,
    require_parity,
)
from skincnn.serving.predictor import load_predictor
from skincnn.serving.runtimes import RUNTIMES, Infer, Runtime

pytestmark = pytest.mark.usefixtures("no_figures")
Run = tuple[Path, "subprocess.CompletedProcess[str]"]
RULE = make_rule("a", "b", threshold=None)


@pytest.fixture(scope="module")
def workdir(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a copy of the run to which tests may add exports."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    return Path(shutil.copytree(run[0], folder))


def parity_of(workdir: Path, name: str) -> ParityResult:
    (result,) = (one for one in read_parity(workdir) if one.name == name)
    return result


def measure(y_true: Any, before: np.ndarray, after: np.ndarray) -> ParityResult:
    model, exported = Output(before), Output(after)
    return measure_parity(
        np.array(y_true),
        model,
        exported,
        RULE,
        format_name="x",
        ood_detection=True,
        num_bytes=9,
    )


def test_the_usage_describes_the_inputs_and_outputs(workdir: Path) -> None:
    text = (workdir / "export/README.md").read_text()
    model = tf.saved_model.load(str(workdir / "export/skincnn/1"))
    signature = model.signatures["serving_default"]
    for name in (*signature.structured_outputs, *signature.structured_input_signature[1]):
        assert f"`{name}`" in text


def test_the_parity_of_the_saved_model_is_recorded(workdir: Path) -> None:
    """scripts/train.py compares its export with the predictions table."""
    parity = parity_of(workdir, "saved_model")
    assert parity.largest_difference < 1e-5
    assert parity.same_class == parity.same_refer == 1
    assert parity.largest_distance_difference is not None
    # All images of such a small split are compared.
    result = read_result(workdir, "test", SplitResult)
    assert parity.num_images == result.num_images
    accuracy = result.metrics["balanced_accuracy"].value
    assert parity.export_balanced_accuracy == pytest.approx(accuracy, abs=1e-6)
    files = read_export_info(workdir / "export/skincnn/1").files
    sizes = [(workdir / "export/skincnn/1" / name).stat().st_size for name in files]
    assert parity.num_bytes == sum(sizes)
    assert "saved_model" in (workdir / "README.md").read_text()


@pytest.mark.slow
def test_a_keras_applications_network_is_converted(data_dir: Path, tmp_path: Path) -> None:
    """With depthwise convolutions, unlike the network of `run`."""
    workdir = tmp_path / "run"
    flags = (
        "--data.datasets demo_tiny --data.image-size 32 --model.backbone mobilenet "
        "--model.width-multiplier 0.25 --train.epochs 1 --evaluate.num-bootstrap 100"
    ).split()
    done = run_here("train.py", "--workdir", workdir, "--data-dir", data_dir, *flags)
    assert done.returncode == 0, done.stderr
    formats = ("--formats", "litert", "onnx")
    done = run_here("export.py", workdir, "--data-dir", data_dir, *formats)
    assert done.returncode == 0, done.stderr
    for name in ("saved_model", "litert", "onnx"):
        assert parity_of(workdir, name).largest_difference < 1e-4
        assert parity_of(workdir, name).same_class == 1


def test_a_litert_model_predicts_as_the_keras_model(workdir: Path, data_dir: Path) -> None:
    done = run_here("export.py", workdir, "--data-dir", data_dir, "--formats", "litert")
    assert done.returncode == 0, done.stderr
    check_converted(workdir, "litert")


def check_converted(workdir: Path, name: str) -> None:
    """Checks that a converted model predicts as the Keras model does."""
    parity = parity_of(workdir, name)
    assert parity.largest_difference < 1e-4
    assert parity.same_class == parity.same_refer == 1
    assert parity.same_out_of_distribution == 1
    assert parity.model_balanced_accuracy == parity.export_balanced_accuracy
    assert f"| {name} | melanoma" in (workdir / "README.md").read_text()
    path = workdir / f"export/skincnn{RUNTIMES[name].suffix}"
    info = read_export_info(path)
    assert info.files == {path.name: sha256(path)}
    assert read_embedded(path) == {**to_json(info), "files": {}}
    usage = (workdir / "export/README.md").read_text()
    printed = run_example(usage, path, np.full((40, 50, 3), 99, np.uint8))
    assert list(printed) == list(info.rule.class_names)
    assert sum(printed.values()) == pytest.approx(1, abs=1e-4)
    assert parity.num_bytes == path.stat().st_size
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    content = tf.io.encode_png(pixels).numpy()
    predictors = [load_predictor(workdir / "model.keras"), load_predictor(path)]
    outputs = [one.predict([content], pd.DataFrame()) for one in predictors]
    calibration_map = read_rule(ExportSpec(workdir=workdir)).calibration_map
    assert any(calibration_map.bias)
    for output in outputs:
        expected = calibration_map.apply(outputs[0]["uncalibrated_probabilities"])
        np.testing.assert_allclose(output["probabilities"], expected, atol=1e-4)
        assert output["predicted_class"] == outputs[0]["predicted_class"]


def read_embedded(path: Path) -> dict[str, Any]:
    """Returns the metadata inside a LiteRT or ONNX file."""
    if path.suffix == ".tflite":
        with zipfile.ZipFile(path) as archive:
            names = archive.read("labels.txt")
            assert names == path.with_name("labels.txt").read_bytes()
            return dict(json.loads(archive.read("metadata.json")))
    session = onnxruntime.InferenceSession(str(path))
    texts = session.get_modelmeta().custom_metadata_map
    names = json.loads(texts.pop("class_names"))
    content = {name: parse_json(text) for name, text in texts.items()}
    assert content["rule"]["class_names"] == names
    return content


def parse_json(text: str) -> Any:
    """Returns the value of a JSON text; other texts as they are."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def test_parity_is_measured_for_each_class() -> None:
    before = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    after = np.array([[0.8, 0.2], [0.4, 0.6], [0.2, 0.8]])
    parity = measure([0, 0, 1], before, after)
    assert parity.same_class == pytest.approx(2 / 3)
    assert parity.largest_difference == pytest.approx(0.2)
    assert parity.model_balanced_accuracy == 1
    assert parity.export_balanced_accuracy == pytest.approx(0.75)
    assert parity.classes["a"].export_recall == 0.5
    assert parity.classes["b"].same_class == 1
    assert parity.same_refer is None


def test_all_images_of_rare_classes_are_compared() -> None:
    counts = {"df": 11, "bcc": 52, "medium": 400, "nv": 9000}
    labels = np.random.default_rng(0).permutation(np.repeat([*counts], [*counts.values()]))
    chosen = choose_images(labels)
    np.testing.assert_array_equal(chosen, choose_images(labels))
    assert len(set(chosen)) == len(chosen)
    evenly_spaced = chosen[:256]
    assert set(np.diff(evenly_spaced)) == {37, 38}
    names, numbers = np.unique(labels[chosen], return_counts=True)
    compared = dict(zip(names, numbers, strict=True))
    assert (compared["df"], compared["bcc"]) == (11, 52)
    assert compared["nv"] == (labels[evenly_spaced] == "nv").sum()
    # At most 100 images are added for a larger class.
    assert 100 <= compared["medium"] < 120
    np.testing.assert_array_equal(choose_images(labels[:30]), np.arange(30))


def test_decisions_follow_from_probabilities_and_distances() -> None:
    calibration_map = CalibrationMap(temperature=2.0, bias=(0.0, np.log(2), 0.0))
    changes = {"threshold": 0.4, "max_distance": 1.5, "calibration_map": calibration_map}
    rule = make_rule("bkl", "mel", "nv", **changes)
    y_prob = np.random.default_rng(0).dirichlet(np.ones(3), 40)
    distances = np.linspace(0, 2, 40)
    output = decide(y_prob, distances, rule)
    weighted = np.sqrt(y_prob) * [1, 2, 1]
    calibrated = weighted / weighted.sum(axis=1, keepdims=True)
    assert output.out_of_distribution is not None
    assert output.refer is not None
    assert output.out_of_distribution.tolist() == (distances > 1.5).tolist()
    expected = (calibrated[:, 1] >= 0.4) | (distances > 1.5)
    assert output.refer.tolist() == expected.tolist()


def test_an_export_that_loses_a_class_or_differs_is_rejected() -> None:
    before, after = np.eye(2)[[0, 1, 1]], np.eye(2)[[0, 0, 0]]
    parity = measure([0, 1, 1], before, after)
    message = "x export never predicts, or never correctly predicts, b"
    with pytest.raises(DataError, match=message):
        require_parity(parity, Output(before), Output(after), None)
    after = before * 0.999
    parity = measure([0, 1, 1], before, after)
    require_parity(parity, Output(before), Output(after), 0.01)
    with pytest.raises(DataError, match=r"by 0.001 in probability"):
        require_parity(parity, Output(before), Output(after), 1e-4)
    not_a_number = parity.model_copy(update={"largest_distance_difference": np.nan})
    with pytest.raises(DataError, match="by nan in OOD distance"):
        require_parity(not_a_number, Output(before), Output(after), None)


def fake_runtime(infer: Infer) -> Runtime:
    """Returns a runtime whose files contain the field `ood_off` only."""
    return Runtime(
        ".fake",
        lambda model, inputs, path: path.write_bytes(b"x"),
        lambda path, metadata: path.write_text(metadata["ood_off"]),
        lambda path: infer,
        1e-4,
        (),
    )


def test_ood_detection_is_switched_off_if_the_distances_differ(
    workdir: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = RULE.model_copy(update={"max_distance": 0.5})
    distances, y_prob = np.linspace(0, 2, 9), np.full((9, 2), 0.5)
    model = decide(y_prob, distances, rule)
    for shift, fault in ((0.04, ""), (-0.06, "by up to 12 %"), (np.nan, "nan")):
        found = find_ood_fault(model, decide(y_prob, distances + shift, rule), rule)
        assert fault in found
        assert bool(fault) == bool(found)
    # An export with such distances, in which all images are in-distribution.
    spec = ExportSpec(workdir=workdir)
    table = read_predictions(table_path(workdir, "test"))
    limit = float(table["distance"].median())
    rule = read_rule(spec).model_copy(update={"max_distance": limit})
    monkeypatch.setattr(conversion, "read_rule", lambda spec: rule)
    rows = iter(np.log(arrays(table, rule.class_names)[1]))

    def infer(inputs: Any) -> dict[str, Any]:
        count = len(inputs["images"])
        logits = np.stack([next(rows) for _ in range(count)])
        return {"logits": logits, "ood_distance": np.zeros(count)}

    monkeypatch.setitem(RUNTIMES, "shifted", fake_runtime(infer))
    ((_, path),) = conversion.export(spec, ["shifted"], data_dir)
    info = read_export_info(path)
    assert info.rule == rule.model_copy(update={"max_distance": None})
    assert info.ood_off.startswith("its distances differ")
    assert path.read_text() == info.ood_off
    parity = parity_of(workdir, "shifted")
    assert not parity.ood_detection
    is_far = (table["distance"] > limit).to_numpy()
    assert parity.same_out_of_distribution == pytest.approx(1 - is_far.mean())
    assert parity.largest_distance_difference is not None
    assert parity.largest_distance_difference > 0.1
    for file in (path, info_path(path), result_path(workdir, "export.shifted")):
        file.unlink()


@pytest.mark.slow
def test_an_onnx_model_is_kept_if_another_format_is_rejected(
    workdir: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def infer(inputs: Any) -> dict[str, Any]:
        count = len(inputs["images"])
        return {"logits": np.eye(7)[[0] * count], "ood_distance": np.ones(count)}

    monkeypatch.setitem(RUNTIMES, "litert", fake_runtime(infer))
    for path in (workdir / "results").glob("export.*.json"):
        path.unlink()
    versions = len(list((workdir / "export/skincnn").iterdir()))
    formats = ("onnx", "litert", "saved_model")
    done = run_here("export.py", workdir, "--data-dir", data_dir, "--formats", *formats)
    assert done.returncode == 3, done.stderr
    assert "the litert export never predicts" in done.stderr
    assert not list((workdir / "export").glob("*fake*"))
    # The SavedModel, and the format before the rejected one, exist with their results.
    assert f"{workdir}/export/skincnn/{versions + 1}" in done.stdout
    assert f"{workdir}/export/skincnn.onnx" in done.stdout
    assert load_predictor(workdir / "export/skincnn.onnx").format == "onnx"
    assert {one.name for one in read_parity(workdir)} == {"saved_model", "onnx"}
    assert "| onnx, " in (workdir / "README.md").read_text()
    check_converted(workdir, "onnx")


def test_an_unsupported_export_is_rejected(workdir: Path, data_dir: Path) -> None:
    spec = ExportSpec(workdir=workdir, operating_point="luck=0.80")
    expected = "--operating-point must be one of: specificity=0.90"
    with pytest.raises(ConfigError, match=expected):
        export_saved_model(spec, data_dir)
    ensemble = ExportSpec(workdir=workdir, runs=(workdir, workdir))
    with pytest.raises(ConfigError, match="contain one network"):
        list(conversion.export(ensemble, ["onnx"], data_dir))
    with pytest.raises(ConfigError, match=r"of random views\. Received: augment"):
        export_saved_model(ExportSpec(workdir=workdir, tta="augment"), data_dir)
    adjusted = ExportSpec(workdir=workdir, logit_adjustment=True)
    with pytest.raises(ConfigError, match=r"evaluate\.py .*run --logit-adjustment"):
        export_saved_model(adjusted, data_dir)
    with pytest.raises(ConfigError, match="cannot be read"):
        export_saved_model(ExportSpec(workdir=workdir / "none"), data_dir)


def test_missing_packages_are_named(
    workdir: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        RUNTIMES, "new", Runtime("", print, print, print, None, ("no_such",))
    )
    with pytest.raises(ConfigError, match=r"new requires no_such.*\[export\]"):
        list(conversion.export(ExportSpec(workdir=workdir), ["new"], data_dir))


def test_an_export_that_differs_gets_no_version(
    workdir: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted((workdir / "export/skincnn").iterdir())
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(DataError, match="differ from those of the Keras model"):
        export_saved_model(ExportSpec(workdir=workdir), data_dir)
    assert sorted((workdir / "export/skincnn").iterdir()) == before


@pytest.mark.parametrize("name", ["saved_model", "onnx"])
def test_a_full_disk_does_not_affect_previous_exports(
    name: str, workdir: Path, data_dir: Path
) -> None:
    before = {path: path.stat().st_size for path in (workdir / "export").rglob("*")}
    flags = ("--data-dir", data_dir, "--formats", name)
    with limited_file_size(100_000):
        done = run_here("export.py", workdir, *flags)
    assert done.returncode == 2, done.stderr
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    after = {path: path.stat().st_size for path in (workdir / "export").rglob("*")}
    assert after == before


@pytest.mark.slow
def test_a_killed_export_is_never_served_and_concurrent_ones_get_different_versions(
    workdir: Path, data_dir: Path
) -> None:
    """A model server loads any directory whose name is a number."""
    folder = workdir / "export/skincnn"
    before = sorted(path.name for path in folder.iterdir() if path.name.isdigit())
    script = [sys.executable, ROOT / "scripts/export.py", workdir, "--data-dir", data_dir]
    command = [*map(str, script)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list(folder.glob(".tmp-*/saved_model.pb")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    names = {path.name for path in folder.iterdir() if path.name.isdigit()}
    assert sorted(names) == before
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = [process.communicate()[0].split()[-1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    new = {str(len(before) + number) for number in (1, 2)}
    assert {Path(path).name for path in paths} == new
    names = {path.name for path in folder.iterdir() if path.name.isdigit()}
    assert names == {*before, *new}
    assert parity_of(workdir, "saved_model").same_class == 1
