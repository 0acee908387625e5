from __future__ import annotations

import concurrent.futures
import functools
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import run_here
from PIL import Image

from skincnn.data.combined import open_datasets
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.results import SplitResult, read_result, result_path
from skincnn.files import sha256
from skincnn.inference.predictions import arrays, read_predictions
from skincnn.inference.run_dir import RUN_FILE, read_run_info
from skincnn.records import write_record
from skincnn.serving import conversion
from skincnn.serving.decision import explain_rule
from skincnn.serving.export import ExportSpec
from skincnn.serving.images import OK, TOO_LARGE, UNREADABLE
from skincnn.serving.predictor import columns, load_predictor, predict_files
from skincnn.serving.prefetch import read_file
from skincnn.serving.tables import select_clinical_metadata
from tfds_ham10000 import image_files

Run = tuple[Path, "subprocess.CompletedProcess[str]"]
NAMES = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
PROBABILITIES = [f"probability_{name}" for name in NAMES]
NO_IMAGE = "unreadable: not a JPEG/PNG/WEBP/BMP/GIF/TIFF file"


@pytest.fixture(scope="module")
def workdir(run: Run, tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("predicted") / "run"
    shutil.copytree(run[0], folder)
    spec = ExportSpec(workdir=folder)
    assert len(list(conversion.export(spec, ["onnx"], data_dir))) == 1
    return folder


@pytest.fixture(scope="module")
def images(workdir: Path, tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """Writes ten files of the test split, and three unreadable files."""
    folder = tmp_path_factory.mktemp("images")
    table = read_predictions(workdir / "predictions/test.csv").head(10)
    files = open_datasets(["demo_tiny"], data_dir).read_files(table)
    for name, content in zip(table["image_id"], files, strict=True):
        (folder / f"{name}.jpg").write_bytes(content)
    (folder / "text.jpg").write_text("this is text")
    (folder / "empty.png").touch()
    (folder / "half.jpg").write_bytes(files[0][: len(files[0]) // 2])
    return folder


def stored(workdir: Path, image_ids: list[str]) -> np.ndarray:
    """Returns the probabilities before calibration."""
    table = read_predictions(workdir / "predictions/test.csv").set_index("image_id")
    return arrays(table.loc[image_ids].reset_index(), NAMES)[1]


def expected(workdir: Path, image_ids: list[str]) -> np.ndarray:
    calibration_map = read_test_result(workdir).calibration_map
    return calibration_map.apply(stored(workdir, image_ids))


def read_test_result(workdir: Path) -> SplitResult:
    return read_result(workdir, "test", SplitResult)


@pytest.mark.parametrize(
    ("path", "format_name"),
    [
        ("", "saved_model"),
        ("export/skincnn", "saved_model"),
        ("export/skincnn/1", "saved_model"),
        ("model.keras", "keras"),
        ("export/skincnn.onnx", "onnx"),
    ],
)
def test_each_format_is_detected_and_reproduces_the_evaluation(
    path: str, format_name: str, workdir: Path, images: Path
) -> None:
    predictor = load_predictor(workdir / path)
    assert predictor.format == format_name
    paths = sorted(images.iterdir())
    metadata = select_clinical_metadata(paths, None)
    table = predict_files(predictor, paths, list(map(read_file, paths)), metadata)
    readable = table[table["status"] == OK]
    assert len(readable) == 10
    probabilities = readable[PROBABILITIES].to_numpy()
    reference = expected(workdir, list(readable["image_id"]))
    np.testing.assert_allclose(probabilities, reference, atol=1e-4)
    before = stored(workdir, list(readable["image_id"])).argmax(axis=1)
    assert [NAMES[index] for index in before] == list(readable["predicted_class"])
    unreadable = table[table["status"] != OK].set_index("image_id")
    assert sorted(unreadable.index) == ["empty", "half", "text"]
    assert set(unreadable["status"]) == {NO_IMAGE, UNREADABLE}
    assert unreadable[PROBABILITIES].isna().all(axis=None)
    assert unreadable["refer"].all()


def test_the_command_predicts_readable_files_and_lists_unreadable_ones(
    workdir: Path, images: Path, tmp_path: Path
) -> None:
    output, submission = tmp_path / "predictions.csv", tmp_path / "isic.csv"
    flags = ("--output", output, "--isic-csv", submission, "--batch-size", 4)
    done = run_here("predict.py", workdir, images, *flags)
    assert done.returncode == 3
    assert "3 of 13 file(s) are unreadable" in done.stderr
    assert str(images / "half.jpg") in done.stderr
    assert "All other files were predicted." in done.stderr
    table = pd.read_csv(output)
    assert table["file"].tolist() == [str(path) for path in sorted(images.iterdir())]
    isic = pd.read_csv(submission)
    assert list(isic) == ["image", "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    readable = table[table["status"] == OK]
    assert isic["image"].tolist() == readable["image_id"].tolist()
    # The challenge scores the class with the highest probability.
    challenge = isic[[name.upper() for name in NAMES]].to_numpy()
    assert [NAMES[index] for index in challenge.argmax(axis=1)] == list(
        readable["predicted_class"]
    )
    np.testing.assert_allclose(
        challenge, stored(workdir, list(readable["image_id"])), atol=1e-4
    )
    assert not list(tmp_path.glob(".tmp*"))


def set_stdin(monkeypatch: pytest.MonkeyPatch, *lines: bytes) -> None:
    content = b"".join(line + b"\n" for line in lines)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize("path", ["", "export/skincnn.onnx"])
def test_the_referral_rule_is_printed(
    path: str, workdir: Path, images: Path, tmp_path: Path
) -> None:
    """The decision for each readable in-distribution image follows from the threshold."""
    output = tmp_path / "predictions.csv"
    done = run_here("predict.py", workdir / path, images, "--output", output)
    rule = load_predictor(workdir / path).rule
    assert f"refer        {explain_rule(rule)}" in done.stderr.splitlines()
    threshold = read_test_result(workdir).thresholds["malignant"][rule.operating_point]
    assert rule.threshold == pytest.approx(threshold, rel=1e-6)
    table = pd.read_csv(output)
    is_ood = table["out_of_distribution"].eq(True)  # empty for unreadable files
    refer = ~(table["malignant_probability"] < threshold) | is_ood
    assert table["refer"].tolist() == refer.tolist()


def test_help_explains_every_column() -> None:
    described = run_here("predict.py", "--help").stdout
    rule = SimpleNamespace(class_names=["<class>"], target="malignant")
    for name in columns(rule):  # type: ignore[arg-type]
        assert re.search(rf"^  .*{name}[ ,].* \w", described, re.MULTILINE), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{empty}",), "Expected image files"),
        (("x.jpg", "--output", "x.txt"), "must end in .csv or .jsonl"),
        (
            ("x.jpg", "--clinical-metadata", "none.csv"),
            "--clinical-metadata must be a table",
        ),
        (("x.jpg", "--clinical-metadata", "{empty}/a.csv"), "this model uses images only"),
        (("x.jpg", "--batch-size", "0"), "--batch-size must be in 1..256"),
        (("x.jpg", "--batch-size", "257"), "1..256. Received: 257"),
        (("x.jpg", "--output", "{empty}/folder.csv"), "--output must be a file"),
        (("x.jpg", "--isic-csv", "{empty}/folder.csv"), "--isic-csv must be a file"),
        (("x.jpg", "--output", "{empty}/file/a.csv"), "{empty}/file is a file"),
        (("x.jpg", "--grad-cam", "{empty}/file"), "--grad-cam must be a directory"),
        (
            ("x.jpg", "--output", "{empty}/a.csv", "--isic-csv", "{empty}/b/../a.csv"),
            "must be different files",
        ),
    ],
)
def test_invalid_arguments_are_rejected(
    arguments: tuple[str, ...],
    message: str,
    workdir: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "a.csv").write_text("image_id,age,sex,localization\nx,50,male,back\n")
    filled = [argument.format(empty=tmp_path) for argument in arguments]
    done = run_here("predict.py", workdir, *filled)
    assert done.returncode == 2
    assert message.format(empty=tmp_path) in done.stderr


def test_a_path_without_a_model_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"12345678")
    (tmp_path / "other.keras").write_bytes(b"12345678")
    for path in (tmp_path, *tmp_path.iterdir(), tmp_path / "none"):
        with pytest.raises(ConfigError, match="MODEL must be a SavedModel"):
            load_predictor(path)


@pytest.mark.parametrize(
    "name",
    ["model.keras", "export/skincnn.onnx", "export/skincnn/1/saved_model.pb"],
)
def test_a_changed_byte_is_rejected(name: str, workdir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(workdir, tmp_path / "run")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    path = folder / name
    with pytest.raises(DataError, match="SHA-256"):
        load_predictor(path.parent if path.suffix == ".pb" else path)


def test_a_model_with_embedded_code_is_rejected(workdir: Path, tmp_path: Path) -> None:
    """The model is rejected even if run.json has its SHA-256."""
    folder = shutil.copytree(workdir, tmp_path / "run")
    inputs = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D(name="pooling")(inputs)
    outputs = keras.layers.Lambda(lambda x: x)(keras.layers.Dense(7)(pooled))
    path = folder / "model.keras"
    keras.Model(inputs, outputs).save(path)
    assert zipfile.is_zipfile(path)
    info = read_run_info(folder)
    hashes = {**info.sha256, "model.keras": sha256(path)}
    write_record(folder / RUN_FILE, info.model_copy(update={"sha256": hashes}))
    with pytest.raises(DataError, match="without Lambda layers") as caught:
        load_predictor(path)
    assert "Lambda" in str(caught.value.__cause__)


def test_an_export_of_another_model_is_not_used_for_a_run(
    workdir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(workdir, tmp_path / "run")
    for name in ("7", "\u00b2"):  # Directories that are not versions are ignored.
        (folder / "export/skincnn" / name).mkdir()
    assert load_predictor(folder).format == "saved_model"
    result = read_test_result(folder)
    bias = (result.calibration_map.bias[0] + 0.01, *result.calibration_map.bias[1:])
    changed = result.calibration_map.model_copy(update={"bias": bias})
    updated = result.model_copy(update={"calibration_map": changed})
    write_record(result_path(folder, "test"), updated)
    predictor = load_predictor(folder)
    assert (predictor.format, predictor.rule.calibration_map) == ("keras", changed)
    write_record(result_path(folder, "test"), result)
    shutil.copy(folder / "config.json", folder / "model.keras")
    with pytest.raises(DataError, match="SHA-256"):
        load_predictor(folder)
    assert load_predictor(folder / "export/skincnn").format == "saved_model"


def test_an_export_of_other_models_is_not_used_for_an_ensemble(
    workdir: Path, tmp_path: Path
) -> None:
    """The directory of an ensemble has no model, only results, predictions and exports."""
    folder = tmp_path / "ensemble"
    for name in ("results", "export"):
        shutil.copytree(workdir / name, folder / name)
    shutil.copy(workdir / RUN_FILE, folder / RUN_FILE)
    assert load_predictor(folder).format == "saved_model"
    result = read_test_result(workdir)
    changed = result.model_copy(update={"predictions_sha256": "0" * 64})
    write_record(result_path(folder, "test"), changed)
    with pytest.raises(DataError, match="from a different predictions table"):
        load_predictor(folder)
    assert load_predictor(folder / "export/skincnn").format == "saved_model"


def test_grad_cam_overlays_are_written(workdir: Path, images: Path, tmp_path: Path) -> None:
    flags = ("--grad-cam", tmp_path, "--output", tmp_path / "predictions.csv")
    done = run_here("predict.py", workdir, images, *flags)
    assert done.returncode == 3  # because of the unreadable files
    table = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False)
    names = [
        f"{number:05d}_{row.image_id}_{row.predicted_class}.png"
        for number, row in enumerate(table.itertuples())
        if row.status == OK
    ]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == names
    with Image.open(tmp_path / names[0]) as image:
        assert image.size == (128, 64)
    long_name = tmp_path / f"{'é' * 120}.jpg"
    shutil.copy(min(images.glob("DEMO*")), long_name)
    done = run_here("predict.py", workdir, long_name, "--grad-cam", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob(f"00000_{'é' * 50}_*.png"))) == 1
    done = run_here("predict.py", workdir / "export/skincnn", images, *flags)
    assert done.returncode == 2
    assert "requires the feature maps of the Keras model" in done.stderr


def test_only_files_are_opened(tmp_path: Path) -> None:
    """Opening a pipe without a writer blocks; reading a device may never end."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "good.jpg").write_bytes(b"good")
    paths = [*sorted(tmp_path.iterdir()), tmp_path]
    future = concurrent.futures.ThreadPoolExecutor(1).submit(
        lambda: list(map(read_file, paths))
    )
    try:
        contents = future.result(timeout=10)
    finally:
        # A blocked thread would keep the test process from ending.
        os.close(os.open(tmp_path / "pipe.jpg", os.O_RDWR))
    assert contents[0] == b"good"
    assert all("expected a file" in str(reason) for reason in contents[1:])


def test_a_file_without_a_known_size_is_read_up_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "MAX_BYTES", 4)
    paths = [Path("/proc/self/stat"), tmp_path / "four.jpg", tmp_path / "five.jpg"]
    paths[1].write_bytes(b"1234")
    paths[2].write_bytes(b"12345")
    assert paths[0].stat().st_size == 0
    assert list(map(read_file, paths)) == [TOO_LARGE, b"1234", TOO_LARGE]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_unusual_file_names_are_read_or_reported(
    suffix: str,
    workdir: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Names are not in UTF-8, are too long, or have a NUL or spaces at their ends."""
    good = min(images.glob("DEMO*")).read_bytes()
    for name in (b"bad\xff.jpg", b" outer spaces.jpg "):
        (tmp_path / os.fsdecode(name)).write_bytes(good)
    monkeypatch.chdir(tmp_path)
    lines = (b"bad\xff.jpg", b" ", b" outer spaces.jpg ", b"with\0NUL.jpg", b"x" * 300)
    set_stdin(monkeypatch, *(os.fsencode(tmp_path) + b"/" + line for line in lines))
    output = tmp_path / f"predictions{suffix}"
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
    readable = [True, True, False, True, False, False, False]
    assert (table["status"] == OK).tolist() == readable
    assert table["image_id"][0] == "bad\\xff"


def test_the_status_explains_why_a_file_cannot_be_opened(
    workdir: Path, tmp_path: Path
) -> None:
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "text.jpg").write_text("this is text")
    paths = [tmp_path / name for name in ("none.jpg", "text.jpg/x.jpg", "loop.jpg")]
    model = workdir / "export/skincnn.onnx"
    done = run_here("predict.py", model, *paths, tmp_path / "text.jpg")
    assert done.returncode == 3
    assert pd.read_csv(io.StringIO(done.stdout))["status"].tolist() == [
        "unreadable: No such file or directory",
        "unreadable: Not a directory",
        "unreadable: Too many levels of symbolic links",
        NO_IMAGE,
    ]
    assert "4 of 4 file(s) are unreadable" in done.stderr
    assert "No file was predicted." in done.stderr


def test_help_and_the_installation_hint_of_batch_predict_need_no_beam(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    described = run_here("batch_predict.py", "--help")
    assert described.returncode == 0
    assert "--direct_num_workers" in described.stdout
    done = run_here("batch_predict.py", "model", "x.jpg", "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "Apache Beam is not installed" in done.stderr
    assert "make beam" in done.stderr
    assert not (tmp_path / "out").exists()
