from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import ROOT, run_here

from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.ensemble import combine_runs
from skincnn.serving import conversion, export
from skincnn.serving.export import ExportSpec, export_saved_model
from skincnn.serving.images import READ, UNREADABLE
from skincnn.serving.parity import agreement, choose_compared, decide, refuse_other
from skincnn.serving.postprocessing import DEFAULT_POINT, DecisionRule
from skincnn.serving.predictor import load_predictor
from skincnn.serving.runtimes import RUNTIMES, Runtime

AGREEMENT = agreement(np.array([0, 1]), np.eye(2), np.eye(2), ["a", "b"])
Run = tuple[Path, "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def workdir(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that tests may add exports to."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    return Path(shutil.copytree(run[0], folder))


def test_a_picture_that_cannot_be_read_has_no_answer_and_spoils_no_other(
    workdir: Path, data_dir: Path
) -> None:
    model = tf.saved_model.load(str(workdir / "export/skincnn/1"))
    ask = model.signatures["serving_default"]
    good = tf.io.encode_png(np.full((40, 50, 3), 99, np.uint8)).numpy()
    alone = {k: v.numpy() for k, v in ask(image_bytes=tf.constant([good])).items()}
    both = {k: v.numpy() for k, v in ask(image_bytes=tf.constant([b"no", good])).items()}
    assert both["status"].tolist() == [UNREADABLE.encode(), READ.encode()]
    assert both["class_name"][0] == b""
    assert both["refer"][0]
    assert not both["unknown"][0]
    for name in ("probabilities", "malignant_probability", "distance"):
        assert np.isnan(both[name][0]).all()
    for name, values in alone.items():
        if values.dtype.kind == "f":  # its last digits depend on the batch
            np.testing.assert_allclose(values[0], both[name][1], rtol=1e-5)
        else:
            np.testing.assert_array_equal(values[0], both[name][1])


def test_the_examples_of_requests_say_what_the_model_takes(workdir: Path) -> None:
    text = (workdir / "export/README.md").read_text()
    (body,) = re.findall(r"printf '(.*?)'", text)
    assert json.loads(body) == {"instances": [{"image_bytes": {"b64": "%s"}}]}
    model = tf.saved_model.load(str(workdir / "export/skincnn/1"))
    signature = model.signatures["serving_default"]
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(code, "README.md", "exec")
    for name in signature.structured_outputs:
        assert f"`{name}`" in text
    for name in signature.structured_input_signature[1]:
        assert f"| `{name}` |" in text
        assert f'request.inputs["{name}"]' in code


def test_the_card_tells_how_the_saved_model_agrees(workdir: Path) -> None:
    """As with the table of predictions: what train.py exported, and nothing else."""
    report = json.loads((workdir / "report.json").read_text())
    said = report["exports"]["saved_model"]
    written = workdir / "export/skincnn/1/assets.extra/metadata.json"
    differences = json.loads(written.read_text())["largest_difference"]
    assert said["largest_difference"] == pytest.approx(differences["probability"])
    assert said["largest_difference"] < 1e-5
    assert said["same_class"] == said["same_refer"] == 1
    # All pictures of so small a fold are asked about.
    tested = report["splits"]["test"]
    assert said["num_images"] == tested["num_images"]
    accuracy = tested["metrics"]["balanced_accuracy"]["value"]
    assert said["balanced_accuracy_after"] == pytest.approx(accuracy, abs=1e-6)
    card = (workdir / "README.md").read_text()
    assert re.search(rf"\| saved_model, .* MB \| all \| {said['num_images']} \|", card)
    assert "- saved_model: 1.000 of the pictures are referred or not as by" in card


@pytest.mark.slow
def test_orientations_and_ensembles_are_served_as_one_model(
    workdir: Path, data_dir: Path, tmp_path: Path
) -> None:
    where = ("--data-dir", data_dir)
    done = run_here("evaluate.py", workdir, *where, "--tta", "d4")
    assert done.returncode == 0, done.stderr
    done = run_here("export.py", workdir, *where, "--tta", "d4")
    assert done.returncode == 0, done.stderr
    served = workdir / "export/skincnn_d4/1/assets.extra/metadata.json"
    assert json.loads(served.read_text())["largest_difference"]["probability"] < 1e-5
    assert "# How to ask `skincnn`\n" in (workdir / "export/README.md").read_text()
    said = (workdir / "export/README_skincnn_d4.md").read_text()
    assert "# How to ask `skincnn_d4`\n" in said
    told = json.loads((workdir / "report.json").read_text())["exports"]
    assert told["saved_model_d4"]["largest_difference"] < 1e-5
    other = Path(shutil.copytree(workdir, tmp_path / "other"))
    together = tmp_path / "together"
    done = run_here("evaluate.py", workdir, other, "--ensemble", together)
    assert done.returncode == 0, done.stderr
    done = run_here("export.py", workdir, other, "--ensemble", together, *where)
    assert done.returncode == 0, done.stderr
    served = together / "export/skincnn/1/assets.extra/metadata.json"
    assert json.loads(served.read_text())["largest_difference"]["distance"] < 1e-3
    assert len(json.loads(served.read_text())["sha256"]) == 2
    assert "| saved_model, " in (together / "README.md").read_text()
    # The folder is given to other models: the export is not theirs.
    assert load_predictor(together).kind == "saved_model"
    for path in (other / "predictions").glob("*.csv"):
        table = pd.read_csv(path, keep_default_na=False)
        columns = [name for name in table if name.startswith("probability_")]
        table[columns] = np.roll(table[columns], 1, axis=1)
        table.to_csv(path, index=False)
    combine_runs(together, [workdir, other])
    with pytest.raises(DataError, match="from another table of predictions"):
        load_predictor(together)


@pytest.mark.parametrize("name", ["litert", "onnx"])
def test_a_copy_answers_as_the_network(name: str, workdir: Path, data_dir: Path) -> None:
    done = run_here("export.py", workdir, "--data-dir", data_dir, "--formats", name)
    assert done.returncode == 0, done.stderr
    said = json.loads((workdir / "report.json").read_text())["exports"][name]
    assert said["largest_difference"] < 1e-4
    # Of this network all distances are alike, at the limit: `unknown` is rounding.
    assert said["same_class"] == said["same_refer"] == 1
    assert 0 <= said["same_unknown"] <= 1
    card = (workdir / "README.md").read_text()
    assert f"- {name}: 1.000 of the pictures are referred or not as by" in card
    assert said["balanced_accuracy_before"] == said["balanced_accuracy_after"]
    assert f"| {name} | mel |" in (workdir / "README.md").read_text()
    path = workdir / f"export/skincnn{RUNTIMES[name].suffix}"
    beside = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert beside["file_sha256"] == export.sha256(path)


def test_evaluating_again_keeps_what_is_known_of_copies(
    workdir: Path, data_dir: Path
) -> None:
    path = workdir / "report.json"
    report = json.loads(path.read_text())
    report["exports"] = {"onnx": {**AGREEMENT, "bytes": 9}}
    path.write_text(json.dumps(report))
    done = run_here("evaluate.py", workdir, "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr
    assert json.loads(path.read_text())["exports"] == report["exports"]
    card = (workdir / "README.md").read_text()
    assert "| onnx, 0.0 MB |" in card
    tested = report["splits"]["test"]["num_images"]
    assert f"They are 2 of its {tested} pictures" in card
    assert "the balanced accuracy is this sample's" in card


def test_agreement_counts_by_class() -> None:
    before = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    after = np.array([[0.8, 0.2], [0.4, 0.6], [0.2, 0.8]])
    found = agreement(np.array([0, 0, 1]), before, after, ["a", "b", "c"][:2])
    assert found["same_class"] == pytest.approx(2 / 3)
    assert found["largest_difference"] == pytest.approx(0.2)
    assert found["balanced_accuracy_before"] == 1
    assert found["balanced_accuracy_after"] == pytest.approx(0.75)
    assert found["classes"]["a"]["recall_after"] == 0.5
    assert found["classes"]["b"]["same_class"] == 1


def test_rare_classes_are_compared_whole() -> None:
    counts = {"df": 11, "bcc": 52, "many": 400, "nv": 9000}
    labels = np.random.default_rng(0).permutation(np.repeat([*counts], [*counts.values()]))
    places = choose_compared(labels)
    np.testing.assert_array_equal(places, choose_compared(labels))
    assert len(set(places)) == len(places)
    at_equal_distances = places[:256]
    assert set(np.diff(at_equal_distances)) == {37, 38}
    names, found = np.unique(labels[places], return_counts=True)
    found = dict(zip(names, found, strict=True))
    assert (found["df"], found["bcc"]) == (11, 52)
    assert found["nv"] == (labels[at_equal_distances] == "nv").sum()
    # A class that is neither whole nor among them often does not make it take for ever.
    assert 100 <= found["many"] < 120
    few = labels[:30]
    np.testing.assert_array_equal(choose_compared(few), np.arange(30))


def test_what_is_decided_follows_from_probabilities_and_distances() -> None:
    rules = DecisionRule(("bkl", "mel", "nv"), 2.0, DEFAULT_POINT, 0.4, 1.5)
    y_prob = np.random.default_rng(0).dirichlet(np.ones(3), 40)
    distances = np.linspace(0, 2, 40)
    found = decide(y_prob, distances, rules)
    calibrated = np.sqrt(y_prob) / np.sqrt(y_prob).sum(axis=1, keepdims=True)
    assert found["unknown"].tolist() == (distances > 1.5).tolist()
    expected = (calibrated[:, 1] >= 0.4) | (distances > 1.5)
    assert found["refer"].tolist() == expected.tolist()


def test_a_copy_that_loses_a_class_is_refused() -> None:
    before, after = np.eye(2)[[0, 1, 1]], np.eye(2)[[0, 0, 0]]
    found = agreement(np.array([0, 1, 1]), before, after, ["a", "b"])
    called = [set(prob.argmax(axis=1)) for prob in (before, after)]
    with pytest.raises(DataError, match="as x never tells b"):
        refuse_other("x", found, called, None)
    found = agreement(np.array([0, 1, 1]), before, before * 0.999, ["a", "b"])
    refuse_other("x", found, [{0, 1}] * 2, 0.01)
    with pytest.raises(DataError, match=r"differs by 0.001"):
        refuse_other("x", found, [{0, 1}] * 2, 1e-4)


def test_a_refused_copy_leaves_nothing_of_itself_and_all_of_the_others(
    workdir: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer_always_the_first(path: Path) -> conversion.Ask:
        return lambda inputs: {
            "logits": np.eye(7)[[0] * len(inputs["images"])],
            "distance": np.ones(len(inputs["images"])),
        }

    blind = Runtime(
        ".blind",
        lambda m, i, path: path.write_bytes(b"x"),
        answer_always_the_first,
        None,
        (),
    )
    monkeypatch.setitem(RUNTIMES, "litert", blind)
    report = json.loads((workdir / "report.json").read_text())
    (workdir / "report.json").write_text(json.dumps({**report, "exports": {}}))
    versions = len(list((workdir / "export/skincnn").iterdir()))
    formats = ("onnx", "litert", "saved_model")
    done = run_here("export.py", workdir, "--data-dir", data_dir, "--formats", *formats)
    assert done.returncode == 3, done.stderr
    assert "as litert never tells" in done.stderr
    assert not list((workdir / "export").glob("*blind*"))
    # The SavedModel and the copy before it are there, and told of.
    assert f"{workdir}/export/skincnn/{versions + 1}" in done.stdout
    assert load_predictor(workdir / "export/skincnn.onnx").kind == "onnx"
    told = json.loads((workdir / "report.json").read_text())["exports"]
    assert set(told) == {"saved_model", "onnx"}
    assert "| onnx, " in (workdir / "README.md").read_text()


def test_what_cannot_be_exported_is_refused(workdir: Path, data_dir: Path) -> None:
    served = ExportSpec(workdir=workdir, operating_point="80 % luck")
    with pytest.raises(ConfigError, match="--operating-point must be one of: 90 % spec"):
        export_saved_model(served, data_dir)
    with pytest.raises(ConfigError, match="holds one network"):
        conversion.export_copies(ExportSpec(workdir=workdir, tta="d4"), ["onnx"], data_dir)
    with pytest.raises(ConfigError, match="cannot be read"):
        export_saved_model(ExportSpec(workdir=workdir / "none"), data_dir)


def test_packages_that_are_missing_are_named(
    workdir: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNTIMES, "strange", Runtime("", print, print, None, ("no_such",)))
    with pytest.raises(ConfigError, match=r"strange needs no_such.*\[export\]"):
        conversion.export_copies(ExportSpec(workdir=workdir), ["strange"], data_dir)


def test_an_export_that_differs_gets_no_version(
    workdir: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted((workdir / "export/skincnn").iterdir())
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(DataError, match="differs from the table"):
        export_saved_model(ExportSpec(workdir=workdir), data_dir)
    assert sorted((workdir / "export/skincnn").iterdir()) == before


@pytest.mark.parametrize("name", ["saved_model", "onnx"])
def test_a_full_disk_leaves_what_was_there(
    name: str, workdir: Path, data_dir: Path
) -> None:
    before = {path: path.stat().st_size for path in (workdir / "export").rglob("*")}
    flags = ("--data-dir", data_dir, "--formats", name)
    command = [sys.executable, ROOT / "scripts/export.py", workdir, *flags]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        [*map(str, command)], preexec_fn=limit, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    after = {path: path.stat().st_size for path in (workdir / "export").rglob("*")}
    assert after == before


def test_a_killed_export_is_never_served(workdir: Path, data_dir: Path) -> None:
    """The server takes whatever whole number it finds."""
    parent = workdir / "export/skincnn"
    (parent / ".tmp-mine").mkdir()
    before = sorted(path.name for path in parent.iterdir() if path.name.isdigit())
    command = [sys.executable, ROOT / "scripts/export.py", workdir]
    process = subprocess.Popen(
        [*map(str, command), "--data-dir", str(data_dir)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list(parent.glob(".tmp-*/saved_model.pb")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    names = {path.name for path in parent.iterdir() if path.name.isdigit()}
    assert sorted(names) == before
    done = run_here("export.py", workdir, "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr
    versions = [*before, str(len(before) + 1)]
    assert sorted(path.name for path in parent.iterdir()) == [".tmp-mine", *versions]
    (parent / ".tmp-mine").rmdir()


def test_two_exports_at_once_get_two_versions(workdir: Path, data_dir: Path) -> None:
    parent = workdir / "export/skincnn"
    before = {path.name for path in parent.iterdir()}
    command = [sys.executable, ROOT / "scripts/export.py", workdir, "--data-dir", data_dir]
    both = [
        subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[0].split()[-1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert {Path(path).name for path in said} == {
        path.name for path in parent.iterdir()
    } - before
    assert len(set(said)) == 2
    assert "saved_model" in json.loads((workdir / "report.json").read_text())["exports"]
