from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from conftest import ROOT, Run, limited_file_size, run_here
from exports import make_rule, run_example
from run_dirs import make_dataset, make_info

from skincnn.config import Config
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.results import SplitResult, read_result
from skincnn.files import sha256
from skincnn.inference.predictions import arrays, read_predictions, table_path
from skincnn.records import to_json
from skincnn.reporting.parity_result import ParityResult, read_parity
from skincnn.serving import export
from skincnn.serving.export_info import OOD_LEFT_OUT, ExportInfo, read_export_info
from skincnn.serving.export_spec import ExportSpec, list_versions, read_rule
from skincnn.serving.network import RunNetwork
from skincnn.serving.parity import check_parity, choose_images, decide
from skincnn.serving.predictor import load_predictor
from skincnn.serving.runtimes import RUNTIMES, Infer, Runtime

pytestmark = pytest.mark.usefixtures("no_figures")
RULE = make_rule("a", "b", threshold=None)


@pytest.fixture(scope="module")
def workdir(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a copy of the run to which tests may add exports."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    return Path(shutil.copytree(run[0], folder))


def test_an_export_names_the_datasets_of_all_networks(tmp_path: Path) -> None:
    note = "The images are synthetic."
    demo = make_dataset("demo", synthetic=True, attribution=note)
    own = make_dataset("own", attribution="")
    networks = [
        RunNetwork(None, Config(), make_info(datasets=(dataset,)))
        for dataset in (demo, make_dataset(), own)
    ]
    spec = ExportSpec(workdir=tmp_path)
    spec.predictions.parent.mkdir()
    spec.predictions.touch()
    info = export.describe_export(spec, networks, RULE, "onnx")
    assert not info.synthetic
    assert (
        info.attribution == "Some images are synthetic. Images: an archive, CC BY-NC 4.0."
    )
    assert set(info.dataset.split(" + ")) == {
        f"ham10000/{name}/2.0.0" for name in ("demo", "isic2018", "own")
    }
    alone = export.describe_export(spec, networks[:1], RULE, "onnx")
    assert alone.synthetic
    assert alone.attribution == note


def measure(
    y_true: Any,
    before: np.ndarray,
    after: np.ndarray,
    distances: Any = 0.0,
    tolerance: float | None = None,
    max_distance: float | None = 2.0,
) -> ParityResult:
    rule = RULE.model_copy(update={"max_distance": max_distance})
    return check_parity(
        np.array(y_true),
        decide(before, np.zeros(len(before)), rule),
        decide(after, np.full(len(after), distances), rule),
        ExportInfo.model_construct(format="x", variant="", rule=rule),
        num_bytes=9,
        tolerance=tolerance,
        distance_tolerance=0.01,
    )


def test_the_usage_describes_the_inputs_and_outputs(workdir: Path) -> None:
    text = (workdir / "export/README.md").read_text()
    model = tf.saved_model.load(str(workdir / "export/skincnn/1"))
    signature = model.signatures["serving_default"]
    for name in (*signature.structured_outputs, *signature.structured_input_signature[1]):
        assert f"`{name}`" in text


def test_the_parity_of_the_saved_model_is_recorded(workdir: Path) -> None:
    """scripts/train.py compares its export with the predictions table."""
    parity = read_result(workdir, "export.saved_model", ParityResult)
    assert parity.largest_difference < 1e-5
    assert parity.same_class == parity.same_refer == 1
    # Whether detection is on in this run depends on the processor.
    has_limit = read_rule(ExportSpec(workdir=workdir)).max_distance is not None
    assert (parity.largest_distance_difference is not None) == has_limit
    # All images of such a small split are compared.
    result = read_result(workdir, "test", SplitResult)
    assert parity.num_images == result.num_images
    accuracy = result.metrics["balanced_accuracy"].value
    assert parity.export_balanced_accuracy == pytest.approx(accuracy, abs=1e-6)
    files = read_export_info(workdir / "export/skincnn/1").files
    sizes = [(workdir / "export/skincnn/1" / name).stat().st_size for name in files]
    assert parity.num_bytes == sum(sizes)
    assert "saved_model" in (workdir / "README.md").read_text()


def test_a_litert_model_predicts_as_the_keras_model(workdir: Path, data_dir: Path) -> None:
    flags = ("--data-dir", data_dir, "--formats", "litert")
    run_here("export.py", workdir, *flags, exit_code=0)
    check_converted(workdir, "litert")


def check_converted(workdir: Path, name: str) -> None:
    """Checks that a converted model predicts as the Keras model does."""
    parity = read_result(workdir, f"export.{name}", ParityResult)
    assert parity.largest_difference < 1e-4
    assert parity.same_class == parity.same_refer == 1
    assert parity.same_out_of_distribution == 1
    assert parity.model_balanced_accuracy == parity.export_balanced_accuracy
    assert f"| {name} | melanoma" in (workdir / "README.md").read_text()
    path = workdir / f"export/skincnn{RUNTIMES[name].suffix}"
    info = read_export_info(path)
    assert info.files == {path.name: sha256(path)}
    check_embedded(path, info)
    usage = (workdir / "export/README.md").read_text()
    printed = run_example(usage, path, np.full((40, 50, 3), 99, np.uint8))
    assert list(printed) == list(info.rule.class_names)
    assert sum(printed.values()) == pytest.approx(1, abs=1e-4)
    assert parity.num_bytes == path.stat().st_size


def check_embedded(path: Path, info: ExportInfo) -> None:
    """Checks the metadata inside a LiteRT or ONNX file."""
    names, expected = [*info.rule.class_names], {**to_json(info), "files": {}}
    if path.suffix == ".tflite":
        with zipfile.ZipFile(path) as archive:
            labels = archive.read("labels.txt")
            assert json.loads(archive.read("metadata.json")) == expected
        assert labels == path.with_name("labels.txt").read_bytes()
        assert labels.decode().splitlines() == names
        return
    texts = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    assert json.loads(texts.pop("class_names")) == names
    words = {name: value for name, value in expected.items() if isinstance(value, str)}
    others = {name: json.loads(texts[name]) for name in texts.keys() - words.keys()}
    assert {**texts, **others} == expected


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


def test_an_export_that_loses_a_class_or_differs_is_rejected() -> None:
    y_true, before = [0, 1, 1], np.eye(2)[[0, 1, 1]]
    message = "x export never predicts, or never correctly predicts, b"
    with pytest.raises(DataError, match=message):
        measure(y_true, before, np.eye(2)[[0, 0, 0]])
    measure(y_true, before, 0.999 * before, tolerance=0.01)
    with pytest.raises(DataError, match=r"by 0.001 in probability"):
        measure(y_true, before, 0.999 * before, tolerance=1e-4)


def test_distances_are_compared_only_for_ood_detection() -> None:
    y_true, y_prob = [0, 1], np.eye(2)
    for distance, text in ((0.1, "0.05"), (np.nan, "nan")):
        with pytest.raises(DataError, match=rf"by {text} in OOD .*export --no-ood\.$"):
            measure(y_true, y_prob, y_prob, distance)
        parity = measure(y_true, y_prob, y_prob, distance, max_distance=None)
        assert parity.largest_distance_difference is None
    assert measure(y_true, y_prob, y_prob, 0.01).largest_distance_difference == 0.005


def fake_runtime(infer: Infer) -> Runtime:
    return Runtime(
        ".fake",
        lambda model, inputs, path: path.write_bytes(b"x"),
        1e-4,
        embed=lambda path, metadata: None,
        open=lambda path: infer,
        packages=(),
    )


def test_a_file_with_other_distances_is_rejected_or_does_not_detect_ood(
    run: Run, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = Path(shutil.copytree(run[0], tmp_path / "run"))
    spec = ExportSpec(workdir=workdir)
    table = read_predictions(table_path(workdir, "test"))
    rule = read_rule(spec).model_copy(update={"max_distance": 0.5})
    monkeypatch.setattr(export, "read_rule", lambda spec: rule)
    log_prob = np.log(arrays(table, rule.class_names)[1])
    rows = itertools.cycle(zip(log_prob, table["distance"], strict=True))

    def infer(inputs: Any) -> dict[str, Any]:
        logits, distances = zip(*itertools.islice(rows, len(inputs["images"])), strict=True)
        return {"logits": np.stack(logits), "ood_distance": np.array(distances) + 0.06}

    runtime = fake_runtime(infer)
    monkeypatch.setitem(RUNTIMES, "shifted", runtime)
    with pytest.raises(DataError, match=r"by 0\.12 in OOD distance"):
        list(export.export(spec, ["shifted"], data_dir))
    assert not list((workdir / "export").glob("*fake*"))
    monkeypatch.setitem(RUNTIMES, "shifted", replace(runtime, detects_ood=False))
    ((_, path),) = export.export(spec, ["shifted"], data_dir)
    info = read_export_info(path)
    assert (info.rule.max_distance, info.ood_off) == (None, OOD_LEFT_OUT)


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
    flags = ("--data-dir", data_dir, "--formats", "onnx", "litert", "saved_model")
    done = run_here("export.py", workdir, *flags, exit_code=3)
    assert "the litert export never predicts" in done.stderr
    assert not list((workdir / "export").glob("*fake*"))
    # The SavedModel, and the format before the rejected one, exist with their results.
    assert f"{workdir}/export/skincnn/{versions + 1}" in done.stdout
    assert f"{workdir}/export/skincnn.onnx" in done.stdout
    assert load_predictor(workdir / "export/skincnn.onnx").format == "onnx"
    assert {one.name for one in read_parity(workdir)} == {"saved_model", "onnx"}
    assert "| onnx, " in (workdir / "README.md").read_text()
    check_converted(workdir, "onnx")


def test_an_unsupported_export_is_rejected(
    workdir: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Runtime("", print, embed=print, open=print, packages=("no_such",))
    monkeypatch.setitem(RUNTIMES, "new", fake)
    operating_point = "`operating_point` must be one of: specificity=0.90"
    evaluate = r"skincnn evaluate .*run --logit-adjustment"
    for name, changes, message in (
        ("saved_model", {"operating_point": "luck=0.80"}, operating_point),
        ("saved_model", {"tta": "augment"}, r"of random views\. Received: augment"),
        ("saved_model", {"logit_adjustment": True}, evaluate),
        ("saved_model", {"workdir": workdir / "none"}, "cannot be read"),
        ("onnx", {"runs": (workdir, workdir)}, "contain one network"),
        ("new", {}, r"new requires no_such.*\[export\]"),
    ):
        spec = ExportSpec(**{"workdir": workdir, **changes})
        with pytest.raises(ConfigError, match=message):
            list(export.export(spec, [name], data_dir))


def test_an_export_that_differs_gets_no_version(
    workdir: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted((workdir / "export/skincnn").iterdir())
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(DataError, match="differ from those of the Keras model"):
        export.export_one(ExportSpec(workdir=workdir), "saved_model", data_dir)
    assert sorted((workdir / "export/skincnn").iterdir()) == before


@pytest.mark.parametrize("name", ["saved_model", "onnx"])
def test_a_full_disk_does_not_affect_previous_exports(
    name: str, workdir: Path, data_dir: Path
) -> None:
    before = {path: path.stat().st_size for path in (workdir / "export").rglob("*")}
    flags = ("--data-dir", data_dir, "--formats", name)
    with limited_file_size(100_000):
        done = run_here("export.py", workdir, *flags, exit_code=2)
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
    before = list_versions(folder)
    command = [sys.executable, ROOT / "scripts/export.py", workdir, "--data-dir", data_dir]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list(folder.glob(".tmp-*/skincnn/saved_model.pb")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert list_versions(folder) == before
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate()[0].split()[-1] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    new = [folder / str(len(before) + number) for number in (1, 2)]
    assert paths == set(map(str, new))
    assert list_versions(folder) == [*before, *new]
    assert read_result(workdir, "export.saved_model", ParityResult).same_class == 1
