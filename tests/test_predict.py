from __future__ import annotations

import concurrent.futures
import functools
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import IO, Any

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, run_here
from PIL import Image

from skincnn.data import datasets, pipeline
from skincnn.errors import ConfigError, DataError
from skincnn.inference.predictions import arrays, read_predictions
from skincnn.metrics.calibration import apply_temperature
from skincnn.serving import predictor as predictor_module
from skincnn.serving.images import READ, UNREADABLE
from skincnn.serving.isic import find_year, submission
from skincnn.serving.postprocessing import DecisionRule
from skincnn.serving.predictor import (
    columns,
    find_patients,
    load_predictor,
    predict,
    read_files,
)

Run = tuple[Path, "subprocess.CompletedProcess[str]"]
NAMES = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
PROBABILITIES = [f"probability_{name}" for name in NAMES]


def write_to(file: IO[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs predict.py in a process of its own, with `file` as its standard output."""
    return subprocess.run(
        [sys.executable, ROOT / "scripts/predict.py", *map(str, arguments)],
        stdout=file,
        stderr=subprocess.PIPE,
        text=True,
        timeout=100,
    )


@pytest.fixture(scope="module")
def workdir(run: Run, tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("predicted") / "run"
    shutil.copytree(run[0], folder)
    done = run_here("export.py", folder, "--data-dir", data_dir, "--formats", "onnx")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pictures(
    workdir: Path, tmp_path_factory: pytest.TempPathFactory, data_dir: Path
) -> Path:
    """Ten files of the test fold, and three that are no pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    table = read_predictions(workdir / "predictions/test.csv").head(10)
    files = pipeline.read_files(datasets.open_dataset("demo_tiny", data_dir), table)
    for name, content in zip(table["image_id"], files, strict=True):
        (folder / f"{name}.jpg").write_bytes(content)
    (folder / "text.jpg").write_text("this is text")
    (folder / "empty.png").touch()
    (folder / "half.jpg").write_bytes(files[0][:500])
    return folder


def expected(workdir: Path, image_ids: list[str]) -> np.ndarray:
    table = read_predictions(workdir / "predictions/test.csv").set_index("image_id")
    report = json.loads((workdir / "report.json").read_text())
    probabilities = arrays(table.loc[image_ids].reset_index(), NAMES)[1]
    return apply_temperature(probabilities, report["temperature"])


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("", "saved_model"),
        ("export/skincnn", "saved_model"),
        ("export/skincnn/1", "saved_model"),
        ("model.keras", "keras"),
        ("export/skincnn.onnx", "onnx"),
    ],
)
def test_each_form_is_told_and_answers_what_was_evaluated(
    form: str, kind: str, workdir: Path, pictures: Path
) -> None:
    predictor = load_predictor(workdir / form)
    assert predictor.kind == kind
    paths = sorted(pictures.iterdir())
    table = predict(predictor, paths, read_files(paths), find_patients(paths, None))
    read = table[table["status"] == READ]
    assert len(read) == 10
    found = read[PROBABILITIES].to_numpy()
    np.testing.assert_allclose(found, expected(workdir, list(read["image_id"])), atol=1e-4)
    bad = table[table["status"] == UNREADABLE]
    assert sorted(bad["image_id"]) == ["empty", "half", "text"]
    assert bad[PROBABILITIES].isna().all(axis=None)
    assert bad["refer"].all()


def test_the_command_answers_the_good_and_lists_the_bad(
    workdir: Path, pictures: Path, tmp_path: Path
) -> None:
    output, handed_in = tmp_path / "answers.csv", tmp_path / "isic.csv"
    flags = ("--output", output, "--isic-csv", handed_in, "--batch-size", 4)
    done = run_here("predict.py", workdir, pictures, *flags)
    assert done.returncode == 3
    assert "3 of 13 file(s) could not be read" in done.stderr
    assert str(pictures / "half.jpg") in done.stderr
    assert "The others are answered" in done.stderr
    assert f"3 of 13 picture(s) are missing from {handed_in}" in done.stderr
    table = pd.read_csv(output)
    assert table["file"].tolist() == [str(path) for path in sorted(pictures.iterdir())]
    isic = pd.read_csv(handed_in)
    assert list(isic) == ["image", "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    read = table[table["status"] == READ]
    assert isic["image"].tolist() == read["image_id"].tolist()
    np.testing.assert_allclose(isic["BKL"], read["probability_bkl"])
    assert not list(tmp_path.glob(".tmp*"))


def type_in(monkeypatch: pytest.MonkeyPatch, *lines: bytes) -> None:
    content = b"".join(line + b"\n" for line in lines)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_names_on_standard_input_and_lines_of_json(
    workdir: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(pictures.iterdir())[:3]
    type_in(monkeypatch, *map(os.fsencode, names), b"")
    output = tmp_path / "answers.jsonl"
    done = run_here("predict.py", workdir / "export/skincnn.onnx", "-", "--output", output)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["file"] for row in rows] == [str(name) for name in names]
    assert sum(rows[0][name] for name in PROBABILITIES) == pytest.approx(1, abs=1e-5)


def test_without_an_output_the_answers_go_to_standard_output(
    workdir: Path, pictures: Path
) -> None:
    done = run_here("predict.py", workdir, min(pictures.glob("DEMO*")))
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(io.StringIO(done.stdout))) == 1


@pytest.mark.parametrize("form", ["", "export/skincnn.onnx"])
def test_what_makes_it_refer_is_said(
    form: str, workdir: Path, pictures: Path, tmp_path: Path
) -> None:
    """Each row that was read and is not unknown is by the threshold that is named."""
    output = tmp_path / "answers.csv"
    done = run_here("predict.py", workdir / form, pictures, "--output", output)
    (line,) = (one for one in done.stderr.splitlines() if one.startswith("refer "))
    said = re.search(r"probability of (\S+) on, .* chosen for (.*) on validation", line)
    assert said is not None, line
    report = json.loads((workdir / "report.json").read_text())
    threshold = report["thresholds"]["malignant"][said[2]]
    assert float(said[1]) == pytest.approx(threshold, rel=1e-3)
    table = pd.read_csv(output)
    expected = ~(table["malignant_probability"] < threshold) | table["unknown"]
    assert table["refer"].tolist() == expected.tolist()


def test_a_model_without_a_threshold_says_so() -> None:
    nothing = DecisionRule(("benign", "scar"), 1.0, "90 % sensitivity", math.nan, 1.0)
    assert nothing.referral == (
        "where it is unknown or was not read. This model has no threshold for malignant "
        "lesions."
    )


def test_help_explains_every_column() -> None:
    described = run_here("predict.py", "--help").stdout
    for name in columns(["<class>"]):
        assert re.search(rf"^  .*{name}[ ,].* \w", described, re.MULTILINE), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{empty}",), "Give files of pictures"),
        (("x.jpg", "--output", "x.txt"), "must end in .csv or .jsonl"),
        (("x.jpg", "--clinical-metadata", "none.csv"), "--clinical-metadata must be a CSV"),
        (("x.jpg", "--batch-size", "0"), "--batch-size must be >= 1"),
        (("x.jpg", "--batch-size", "257"), "<= 256. Received: 257"),
        (("x.jpg", "--output", "{empty}/folder.csv"), "--output must be a file"),
        (("x.jpg", "--isic-csv", "{empty}/folder.csv"), "--isic-csv must be a file"),
        (("x.jpg", "--output", "{empty}/file/a.csv"), "{empty}/file is a file"),
        (("x.jpg", "--grad-cam", "{empty}/file"), "--grad-cam must be a folder"),
        (
            ("a/x.jpg", "y.jpg", "b/x.png", "--isic-csv", "{empty}/a.csv"),
            "More than one is named x. Give",
        ),
        (
            ("x.jpg", "--output", "{empty}/a.csv", "--isic-csv", "{empty}/b/../a.csv"),
            "must be two files",
        ),
    ],
)
def test_what_cannot_be_asked_is_told(
    arguments: tuple[str, ...],
    message: str,
    workdir: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    filled = [argument.format(empty=tmp_path) for argument in arguments]
    done = run_here("predict.py", workdir, *filled)
    assert done.returncode == 2
    assert message.format(empty=tmp_path) in done.stderr


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"12345678")
    for path in (tmp_path, tmp_path / "x.onnx", tmp_path / "none"):
        with pytest.raises(ConfigError, match="MODEL must be a SavedModel"):
            load_predictor(path)


@pytest.mark.parametrize(
    "name",
    ["model.keras", "export/skincnn.onnx", "export/skincnn/1/saved_model.pb"],
)
def test_a_changed_byte_is_refused(name: str, workdir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(workdir, tmp_path / "run")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    path = folder / name
    with pytest.raises(DataError, match="SHA-256"):
        load_predictor(path.parent if path.suffix == ".pb" else path)


def test_a_model_with_code_in_it_is_refused(workdir: Path, tmp_path: Path) -> None:
    """Even where somebody wrote its hash down as well."""
    folder = shutil.copytree(workdir, tmp_path / "run")
    inputs = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D(name="pooling")(inputs)
    outputs = keras.layers.Lambda(lambda x: x)(keras.layers.Dense(7)(pooled))
    path = folder / "model.keras"
    keras.Model(inputs, outputs).save(path)
    assert zipfile.is_zipfile(path)
    metadata = json.loads((folder / "metadata.json").read_text())
    from skincnn.files import sha256

    metadata["sha256"]["model.keras"] = sha256(path)
    (folder / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(DataError, match="without code") as refused:
        load_predictor(path)
    assert "Lambda" in str(refused.value.__cause__)


def test_an_export_of_another_model_does_not_answer_for_a_run(
    workdir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(workdir, tmp_path / "run")
    assert load_predictor(folder).kind == "saved_model"
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Dense(7)(inputs)).save(folder / "model.keras")
    with pytest.raises(DataError, match="was exported from another model"):
        load_predictor(folder)
    assert load_predictor(folder / "export/skincnn").kind == "saved_model"
    # Nor one of another report, from which its thresholds are.
    shutil.copy(workdir / "model.keras", folder / "model.keras")
    assert load_predictor(folder).kind == "saved_model"
    report = json.loads((folder / "report.json").read_text())
    report["temperature"] *= 1.5
    (folder / "report.json").write_text(json.dumps(report))
    with pytest.raises(DataError, match="was exported from another report"):
        load_predictor(folder)
    # A folder that is no version hides none.
    shutil.copy(workdir / "report.json", folder / "report.json")
    for name in ("7", "\u00b2"):
        (folder / "export/skincnn" / name).mkdir()
    assert load_predictor(folder).kind == "saved_model"


def test_an_export_of_other_models_does_not_answer_for_an_ensemble(
    workdir: Path, pictures: Path, tmp_path: Path
) -> None:
    """Its folder has no model: a table, a report and an export."""
    folder = tmp_path / "ensemble"
    for name in ("predictions", "export"):
        shutil.copytree(workdir / name, folder / name)
    written = json.loads((workdir / "report.json").read_text())

    def ask(report: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        (folder / "report.json").write_text(json.dumps(report))
        return run_here("predict.py", folder, min(pictures.glob("DEMO*")))

    assert ask(written).returncode == 0
    tables = {"test": {**written["splits"]["test"], "sha256": "0" * 64}}
    for changed, other in (
        ({"splits": tables}, "table of predictions"),
        ({"temperature": 1.5 * written["temperature"]}, "report"),
    ):
        done = ask({**written, **changed})
        assert done.returncode == 3, done.stderr
        assert f"was exported from another {other} than lies in {folder}" in done.stderr
        assert load_predictor(folder / "export/skincnn").kind == "saved_model"


def test_another_model_beside_a_run_s_is_not_answered_for(
    workdir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(workdir, tmp_path / "run")
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Dense(7)(inputs)).save(folder / "other.keras")
    with pytest.raises(DataError, match=r"other\.keras is not the file"):
        load_predictor(folder / "other.keras")
    shutil.copy(folder / "model.keras", folder / "copy.keras")
    assert load_predictor(folder / "copy.keras").kind == "keras"
    alone = shutil.copy(folder / "other.keras", tmp_path / "other.keras")
    with pytest.raises(ConfigError, match="MODEL must be a SavedModel, a run's folder"):
        load_predictor(Path(alone))


def test_submissions_have_the_official_columns() -> None:
    names = ["ak", "bcc", "bkl", "df", "mel", "nv", "scc", "vasc"]
    answers = pd.DataFrame(
        {"image_id": ["a", "b"], "unknown": [False, True]}
        | {f"probability_{name}": [0.125, 0.125] for name in names}
    )
    found = submission(answers, names)
    header = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
    assert list(found) == header.split(",")
    assert found["UNK"].tolist() == [0, 1]
    assert find_year(NAMES) == "2018"
    with pytest.raises(ConfigError, match="needs the classes of the challenge"):
        find_year(["benign", "malignant"])


def test_what_spoke_for_an_answer_is_drawn(
    workdir: Path, pictures: Path, tmp_path: Path
) -> None:
    flags = ("--grad-cam", tmp_path, "--output", tmp_path / "answers.csv")
    done = run_here("predict.py", workdir, pictures, *flags)
    assert done.returncode == 3  # of the bad ones
    table = pd.read_csv(tmp_path / "answers.csv", keep_default_na=False)
    named = [
        f"{number:05d}_{row.image_id}_{row.class_name}.png"
        for number, row in enumerate(table.itertuples())
        if row.status == READ
    ]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == named
    with Image.open(tmp_path / named[0]) as drawn:
        assert drawn.size == (128, 64)
    done = run_here("predict.py", workdir / "export/skincnn", pictures, *flags)
    assert done.returncode == 2
    assert "needs the feature maps of a run" in done.stderr


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe without a writer never begins; nor would a device end."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "good.jpg").write_bytes(b"good")
    paths = [*sorted(tmp_path.iterdir()), tmp_path]
    asked = concurrent.futures.ThreadPoolExecutor(1).submit(read_files, paths)
    try:
        found = asked.result(timeout=10)
    finally:
        # The thread would wait for ever, and so would the end of the tests.
        os.close(os.open(tmp_path / "pipe.jpg", os.O_RDWR))
    assert found[0] == b"good"
    assert all("expected a file" in str(reason) for reason in found[1:])


def test_a_file_that_says_nothing_of_its_size_is_read_no_further_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor_module, "MAX_BYTES", 4)
    paths = [Path("/proc/self/stat"), tmp_path / "four.jpg", tmp_path / "five.jpg"]
    paths[1].write_bytes(b"1234")
    paths[2].write_bytes(b"12345")
    assert paths[0].stat().st_size == 0
    assert read_files(paths) == [b"", b"1234", b""]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_strange_names_spoil_no_answer(
    suffix: str,
    workdir: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not in UTF-8, too long, with a NUL, with spaces around; in folders and as lines."""
    good = min(pictures.glob("DEMO*")).read_bytes()
    for name in (b"bad\xff.jpg", b" outer spaces.jpg "):
        (tmp_path / os.fsdecode(name)).write_bytes(good)
    monkeypatch.chdir(tmp_path)
    lines = (b"bad\xff.jpg", b" ", b" outer spaces.jpg ", b"with\0NUL.jpg", b"x" * 300)
    type_in(monkeypatch, *(os.fsencode(tmp_path) + b"/" + line for line in lines))
    output = tmp_path / f"answers{suffix}"
    model = workdir / "export/skincnn.onnx"
    done = run_here("predict.py", model, tmp_path, "-", "y" * 300, "--output", output)
    assert done.returncode == 3, done.stderr
    read_table = (
        pd.read_csv if suffix == ".csv" else functools.partial(pd.read_json, lines=True)
    )
    table = read_table(output)
    names = [Path(name).name for name in table["file"]]
    assert names == [
        "bad\\xff.jpg",
        "bad\\xff.jpg",
        " ",
        " outer spaces.jpg ",
        "with\0NUL.jpg",
        "x" * 300,
        "y" * 300,
    ]
    read = [True, True, False, True, False, False, False]
    assert (table["status"] == READ).tolist() == read
    assert table["image_id"][0] == "bad\\xff"


def test_files_that_cannot_be_opened_are_told_why(workdir: Path, tmp_path: Path) -> None:
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "text.jpg").write_text("this is text")
    asked = [tmp_path / name for name in ("none.jpg", "text.jpg/x.jpg", "loop.jpg")]
    model = workdir / "export/skincnn.onnx"
    done = run_here("predict.py", model, *asked, tmp_path / "text.jpg")
    assert done.returncode == 3
    assert pd.read_csv(io.StringIO(done.stdout))["status"].tolist() == [
        "not read: No such file or directory",
        "not read: Not a directory",
        "not read: Too many levels of symbolic links",
        UNREADABLE,
    ]
    assert "4 of 4 file(s) could not be read" in done.stderr
    assert "None is answered" in done.stderr


def test_a_full_disk_is_told_in_a_line(workdir: Path, pictures: Path) -> None:
    model, picture = workdir / "export/skincnn.onnx", min(pictures.glob("DEMO*"))
    with Path("/dev/full").open("w") as full:
        done = write_to(full, model, picture)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: The answers could not be written:")
    assert "No space left on device" in said


def test_who_reads_no_more_is_told_nothing(workdir: Path, pictures: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as closed:
        picture = min(pictures.glob("DEMO*"))
        done = write_to(closed, workdir / "export/skincnn.onnx", picture)
    assert done.returncode == 128 + signal.SIGPIPE
    assert not done.stderr


def test_explanations_of_long_names_are_written(
    workdir: Path, pictures: Path, tmp_path: Path
) -> None:
    good = min(pictures.glob("DEMO*"))
    for name in ("a" * 245, "é" * 120):
        shutil.copy(good, tmp_path / f"{name}.jpg")
    output, drawn = tmp_path / "answers.csv", tmp_path / "drawn"
    done = run_here(
        "predict.py", workdir, tmp_path, "--grad-cam", drawn, "--output", output
    )
    assert done.returncode == 0, done.stderr
    classes = pd.read_csv(output)["class_name"]
    assert sorted(path.name for path in drawn.iterdir()) == [
        f"00000_{'a' * 100}_{classes[0]}.png",
        f"00001_{'é' * 50}_{classes[1]}.png",
    ]


def test_pictures_are_found_in_folders_below(
    workdir: Path, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    picture = Image.new("RGB", (9, 9))
    picture.save(tmp_path / "a/b/x.PNG")
    picture.save(tmp_path / "a/y.jfif", format="JPEG")
    (tmp_path / "a/notes.txt").touch()
    done = run_here("predict.py", workdir / "export/skincnn.onnx", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "x.PNG" in done.stdout
    assert "y.jfif" in done.stdout
    assert "notes" not in done.stdout


def test_where_nothing_is_read_no_submission_is_written(
    workdir: Path, tmp_path: Path
) -> None:
    """A TIFF, which is not read, is told of: it is not passed over."""
    Image.new("RGB", (9, 9)).save(tmp_path / "x.tif")
    (tmp_path / "isic.csv").write_text("mine")
    done = run_here("predict.py", workdir, tmp_path, "--isic-csv", tmp_path / "isic.csv")
    assert done.returncode == 3
    assert "1 of 1 file(s) could not be read" in done.stderr
    assert "none was written" in done.stderr
    assert f"answers  {tmp_path}" not in done.stderr
    assert (tmp_path / "isic.csv").read_text() == "mine"


def test_patients_of_whom_a_model_is_not_told_are_refused(
    workdir: Path, pictures: Path, tmp_path: Path
) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("image_id,age,sex,localization\nx,50,male,back\n")
    done = run_here("predict.py", workdir, pictures, "--clinical-metadata", table)
    assert done.returncode == 2
    assert "the model sees pictures alone" in done.stderr
    assert not done.stdout
