from __future__ import annotations

import functools
import io
import os
import re
import shutil
import sys
from collections.abc import Callable, Hashable
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import Run, deny_listing, jpeg, run_here
from PIL import Image
from web_models import make_model

from skincnn.cli.predict import find_images
from skincnn.data.combined import open_datasets
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.results import SplitResult, read_result, result_path
from skincnn.files import sha256
from skincnn.inference.predictions import arrays, read_predictions
from skincnn.inference.run_dir import RUN_FILE, read_run_info
from skincnn.records import write_record
from skincnn.serving.decision import explain_rule
from skincnn.serving.export import export
from skincnn.serving.export_spec import ExportSpec
from skincnn.serving.images import OK, TOO_LARGE, UNREADABLE
from skincnn.serving.predictor import columns, load_predictor
from skincnn.serving.prefetch import read_file
from tfds_ham10000 import image_files

NAMES = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
PROBABILITIES = [f"probability_{name}" for name in NAMES]
NO_IMAGE = "unreadable: not a JPEG/PNG/WEBP/BMP/GIF/TIFF file"


@pytest.fixture(scope="module")
def workdir(run: Run, tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    folder = shutil.copytree(run[0], tmp_path_factory.mktemp("predicted") / "run")
    spec = ExportSpec(workdir=folder)
    assert len(list(export(spec, ["onnx", "litert"], data_dir))) == 2
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
        ("export/skincnn.tflite", "litert"),
    ],
)
def test_each_format_is_detected_and_reproduces_the_evaluation(
    path: str, format_name: str, workdir: Path, images: Path, tmp_path: Path
) -> None:
    output, submission = tmp_path / "predictions.csv", tmp_path / "isic.csv"
    flags = ("--output", output, "--isic-csv", submission, "--batch-size", 4)
    done = run_here("predict.py", workdir / path, images, *flags, exit_code=3)
    assert "3 of 13 file(s) are unreadable" in done.stderr
    assert str(images / "half.jpg") in done.stderr
    assert "All other files were predicted." in done.stderr
    assert not list(tmp_path.glob(".tmp*"))
    table = pd.read_csv(output)
    assert table["file"].tolist() == [str(path) for path in sorted(images.iterdir())]
    unreadable = table[table["status"] != OK].set_index("image_id")
    assert sorted(unreadable.index) == ["empty", "half", "text"]
    assert set(unreadable["status"]) == {NO_IMAGE, UNREADABLE}
    assert unreadable[PROBABILITIES].isna().all(axis=None)
    readable = table[table["status"] == OK]
    stored = read_predictions(workdir / "predictions/test.csv").set_index("image_id")
    before = arrays(stored.loc[readable["image_id"]].reset_index(), NAMES)[1]
    result = read_test_result(workdir)
    calibrated = result.calibration_map.apply(before)
    np.testing.assert_allclose(readable[PROBABILITIES], calibrated, atol=1e-4)
    isic = pd.read_csv(submission)
    assert list(isic) == ["image", "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    assert isic["image"].tolist() == readable["image_id"].tolist()
    challenge = isic[[name.upper() for name in NAMES]].to_numpy()
    np.testing.assert_allclose(challenge, before, atol=1e-4)
    # The challenge scores the class with the highest probability.
    most_probable = [NAMES[index] for index in challenge.argmax(axis=1)]
    assert readable["predicted_class"].tolist() == most_probable
    # The decision for each readable in-distribution image follows from the printed rule.
    predictor = load_predictor(workdir / path)
    assert predictor.format == format_name
    rule = predictor.rule
    assert f"refer        {explain_rule(rule)}" in done.stderr.splitlines()
    threshold = result.thresholds["malignant"][rule.operating_point]
    assert rule.threshold == pytest.approx(threshold, rel=1e-6)
    is_ood = table["out_of_distribution"].eq(True)  # empty for unreadable files
    refer = ~(table["malignant_probability"] < threshold) | is_ood
    assert table["refer"].tolist() == refer.tolist()


def test_clinical_metadata_of_a_table_reach_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[dict[Hashable, object]] = []
    model = make_model(
        lambda _, metadata: received.extend(metadata.to_dict("records")),
        clinical_metadata=True,
    )
    load = "skincnn.serving.predictor.load_predictor"
    monkeypatch.setattr(load, lambda path: model.predictor)
    images, table = [tmp_path / "p0.jpg", tmp_path / "p1.jpg"], tmp_path / "table.csv"
    for path in images:
        path.write_bytes(jpeg())
    flags = (*images, "--clinical-metadata", table)
    table.write_text("image_id,age,sex,localization\nx0,85,M,back\nx1,20,F,back\n")
    done = run_here("predict.py", tmp_path, *flags, exit_code=3)
    message = r"error: .* has no row for any of the 2 image\(s\).*\n"
    assert re.fullmatch(message, done.stderr)
    assert (received, done.stdout) == ([], "")
    table.write_text("image_id,age,sex,localization\nP0.PNG,85,M,Torso\n")
    done = run_here("predict.py", tmp_path, *flags, exit_code=0)
    message = r"note: .* has rows for 1 of 2 images\..*\nrefer .*\n"
    assert re.fullmatch(message, done.stderr)
    assert received[0] == {"age": 85.0, "sex": "male", "localization": "trunk"}
    assert received[1]["sex"] == "unknown"


def test_help_explains_every_column() -> None:
    described = run_here("predict.py", "--help").stdout
    rule = SimpleNamespace(class_names=["<class>"], target="malignant")
    for name in columns(rule):  # type: ignore[arg-type]
        assert re.search(rf"^  .*{name}[ ,].* \w", described, re.MULTILINE), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{tmp}/empty",), "Expected image files"),
        (("none/",), "No image was found in: none/. Expected image files that exist"),
        (("{file}", "--output", "x.txt"), "must end in .csv or .jsonl"),
        (("{file}", "--clinical-metadata", "none.csv"), "metadata must be a table"),
        (("{file}", "--clinical-metadata", "{tmp}/a.csv"), "this model uses images only"),
        (("{file}", "--batch-size", "0"), "--batch-size must be in 1..256"),
        (("{file}", "--batch-size", "257"), "1..256. Received: 257"),
        (("{file}", "--output", "{tmp}/folder.csv"), "--output must be a file"),
        (("{file}", "--isic-csv", "{tmp}/folder.csv"), "--isic-csv must be a file"),
        (("{file}", "--output", "{tmp}/file/a.csv"), "{tmp}/file is a file"),
        (("{file}", "--grad-cam", "{tmp}/file"), "--grad-cam must be a directory"),
        (
            ("{file}", "--output", "{tmp}/a.csv", "--isic-csv", "{tmp}/b/../a.csv"),
            "different",
        ),
    ],
)
def test_invalid_arguments_are_rejected(
    arguments: tuple[str, ...], message: str, workdir: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "a.csv").write_text("image_id,age,sex,localization\nx,50,male,back\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.jpg").write_bytes(jpeg())
    names = {"tmp": tmp_path, "file": tmp_path / "x.jpg"}
    done = run_here("predict.py", workdir, *(x.format(**names) for x in arguments))
    assert done.returncode == 2
    assert message.format(**names) in done.stderr


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
    path = shutil.copytree(workdir, tmp_path / "run") / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
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
    changed = result.calibration_map.model_copy(update={"temperature": 9.0})
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
    with pytest.raises(DataError, match=r"have changed since .* was exported"):
        load_predictor(folder)
    assert load_predictor(folder / "export/skincnn").format == "saved_model"


def test_grad_cam_overlays_are_written(workdir: Path, images: Path, tmp_path: Path) -> None:
    flags = ("--grad-cam", tmp_path, "--output", tmp_path / "predictions.csv")
    done = run_here("predict.py", workdir, images, *flags, exit_code=3)
    table = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False)
    names = [
        f"{number:05d}_{row.image_id}_{row.predicted_class}.png"
        for number, row in enumerate(table.itertuples())
        if row.status == OK
    ]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == names
    with Image.open(tmp_path / names[0]) as image:
        assert image.size == (128, 64)
    # Overlays of an earlier command, in the searched directory, are not predicted.
    maps = tmp_path / "searched/maps"
    maps.mkdir(parents=True)
    shutil.move(tmp_path / names[0], maps)
    shutil.copy(min(images.glob("DEMO*")), maps.with_name(f"{'é' * 120}.jpg"))
    done = run_here("predict.py", workdir, maps.parent, "--grad-cam", maps, exit_code=0)
    assert f"not used (in the directory --grad-cam): {maps / names[0]}\n" in done.stderr
    assert len(list(maps.iterdir())) == 2
    assert len(list(maps.glob(f"00000_{'é' * 50}_*.png"))) == 1
    done = run_here("predict.py", workdir / "export/skincnn", images, *flags, exit_code=2)
    assert "requires the feature maps of the Keras model" in done.stderr


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_lists_of_names_from_windows_are_decoded(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(tmp_path / name) for name in ("é.jpg", "a b.jpg")]
    mark = "\ufeff" if encoding == "utf-16-be" else ""  # Python writes the others
    lines = mark + "\r\n".join([names[0], "", names[1], ""])
    file = io.TextIOWrapper(io.BytesIO(lines.encode(encoding)))
    monkeypatch.setattr("sys.stdin", file)
    Path(names[0]).touch()
    assert find_images(["-"]) == [*map(Path, names)]


def test_a_directory_that_cannot_be_listed_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its images have no rows, so the exit code must be 3, not 0."""
    for name in ("a/x.jpg", "b/x.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    deny_listing(monkeypatch, tmp_path / "b")
    paths = find_images([str(tmp_path)])
    assert paths == [tmp_path / "a/x.jpg", tmp_path / "b"]
    assert read_file(paths[1]) == "unreadable: Permission denied"


def test_a_file_without_a_known_size_is_read_up_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "MAX_BYTES", 4)
    paths = [Path("/proc/self/stat"), tmp_path / "four.jpg", tmp_path / "five.jpg"]
    paths[1].write_bytes(b"1234")
    paths[2].write_bytes(b"12345")
    assert paths[0].stat().st_size == 0
    assert list(map(read_file, paths)) == [TOO_LARGE, b"1234", TOO_LARGE]


@pytest.mark.parametrize(
    ("suffix", "read_table"),
    [(".csv", pd.read_csv), (".jsonl", functools.partial(pd.read_json, lines=True))],
)
def test_unusual_file_names_are_read_or_reported(
    suffix: str,
    read_table: Callable[[Path], pd.DataFrame],
    workdir: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Names are not in UTF-8, are too long, or have a NUL or spaces at their ends."""
    good = min(images.glob("DEMO*")).read_bytes()
    for name in (b"bad\xff.jpg", b" outer spaces.jpg "):
        (tmp_path / os.fsdecode(name)).write_bytes(good)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "text").write_text("this is text")
    monkeypatch.chdir(tmp_path)
    lines = [b"bad\xff.jpg", b" ", b" outer spaces.jpg ", b"with\0NUL.jpg", b"x" * 300]
    lines += [b"none.jpg", b"text/x.jpg", b"loop", b"text"]
    paths = b"".join(os.fsencode(tmp_path) + b"/" + line + b"\n" for line in lines)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(paths)))
    output = tmp_path / f"predictions{suffix}"
    model = workdir / "export/skincnn.onnx"
    done = run_here("predict.py", model, tmp_path, "-", "y" * 300, "--output", output)
    assert done.returncode == 3, done.stderr
    table = read_table(output).set_index("file")
    bad, outer = f"{tmp_path}/bad\\xff.jpg", f"{tmp_path}/ outer spaces.jpg "
    assert table["image_id"].iloc[0] == "bad\\xff"
    statuses = table["status"].items()
    with pytest.raises(ValueError, match="embedded null") as info:
        os.stat("\0")
    assert list(statuses) == [
        (bad, OK),
        (bad, OK),
        (f"{tmp_path}/ ", "unreadable: No such file or directory"),
        (outer, OK),
        (f"{tmp_path}/with\0NUL.jpg", f"unreadable: {info.value}"),
        (f"{tmp_path}/{'x' * 300}", "unreadable: File name too long"),
        (f"{tmp_path}/none.jpg", "unreadable: No such file or directory"),
        (f"{tmp_path}/text/x.jpg", "unreadable: Not a directory"),
        (f"{tmp_path}/loop", "unreadable: Too many levels of symbolic links"),
        (f"{tmp_path}/text", NO_IMAGE),
        (f"{'y' * 300}", "unreadable: File name too long"),
    ]


def test_the_installation_hint_of_batch_predict_needs_no_beam(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    done = run_here("batch_predict.py", "model", "x.jpg", "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "Apache Beam is not installed" in done.stderr
    assert "make beam" in done.stderr
    assert not (tmp_path / "out").exists()
