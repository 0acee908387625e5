"""The Beam pipeline writes the same predictions as predict.py, and loses no image."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, Run, deny_listing, run_here, run_script
from source_files import jpeg

from skincnn.errors import ConfigError
from skincnn.serving.images import MAX_BYTES, OK, TOO_LARGE, UNREADABLE

REASON = "needs Apache Beam: make test-beam"
io = pytest.importorskip("skincnn.serving.beam.io", reason=REASON)
pipeline = pytest.importorskip("skincnn.serving.beam.pipeline", reason=REASON)


@pytest.fixture(scope="module")
def model(run: Run) -> Path:
    return run[0] / "export/skincnn"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes nine images in three directories, and three unreadable files."""
    folder = tmp_path_factory.mktemp("archive") / "of [2019] é"
    for number in range(9):
        path = folder / ("", "a", "a/b")[number % 3] / f"{number}, an image.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    (folder / "a/text.jpg").write_text("this is text")
    (folder / "empty.png").touch()
    (folder / "a/half.jpg").write_bytes(jpeg()[:-200])
    (folder / "a/notes.txt").write_text("not an image by its name")
    return folder


def read_jsonl(paths: Sequence[Path]) -> pd.DataFrame:
    return pd.concat([pd.read_json(path, lines=True) for path in paths])


def read_csv(paths: Sequence[Path]) -> pd.DataFrame:
    types = {"out_of_distribution": "boolean"}  # its cells are empty for unreadable files
    tables = [
        pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=types)
        for path in paths
    ]
    return pd.concat(tables).sort_values("file").reset_index(drop=True)


def read_output(
    folder: Path, read: Callable[[Sequence[Path]], pd.DataFrame] = read_csv
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Returns the rows and, for each file that was not predicted, the reason."""
    paths = sorted(folder.glob("predictions-*-of-*.*"))
    assert sorted(folder.iterdir()) == paths
    table = read(paths)
    failed = table[table["status"] != OK]
    return table, dict(zip(failed["file"], failed["status"], strict=True))


def assert_same(expected: pd.DataFrame, predictions: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(expected, predictions, atol=1e-6, rtol=0)


def test_the_rows_equal_those_of_predict(model: Path, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / images.name
    shutil.copytree(images, folder)
    (folder / "a/link.jpg").symlink_to("nowhere")
    (folder / "a/folder.jpg").mkdir()
    (folder / ".hidden").mkdir()
    (folder / ".hidden/1.jpg").write_bytes(jpeg(1))
    alone = run_here("predict.py", model, folder, "--output", tmp_path / "alone.csv")
    flags = ("--output", tmp_path / "many", "--batch-size", 4)
    many = run_here("batch_predict.py", model, folder, *flags)
    assert (alone.returncode, many.returncode) == (3, 3), many.stderr
    expected = read_csv([tmp_path / "alone.csv"])
    assert (expected["status"] == OK).sum() == 9
    assert_same(expected, read_output(tmp_path / "many")[0])
    assert "4 of 13 file(s) could not be read or predicted" in many.stderr
    for note in (str(folder / ".hidden"), str(folder / "a/notes.txt")):
        assert note in alone.stderr
        assert note in many.stderr


def test_each_name_of_a_list_is_predicted_or_reported(
    model: Path, images: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    good = sorted(images.rglob("*.JPG"))
    names = [*good, large, tmp_path / "none.jpg", images, "no-such-system://x.jpg"]
    listed = tmp_path / "names.txt"
    # As PowerShell writes it.
    listed.write_text("\n\n".join(map(str, names)), encoding="utf-16", newline="\r\n")
    output = tmp_path / "out"
    flags = ("--names", listed, "--output", output, "--format", "jsonl")
    run_here("batch_predict.py", model, *flags, exit_code=3)
    table, reasons = read_output(output, read_jsonl)
    assert sorted(table["file"]) == sorted(map(str, names))
    assert sorted(reasons) == sorted(map(str, names[9:]))
    predictions = table[table["status"] == OK]
    probabilities = predictions.filter(like="probability_").sum(axis=1)
    np.testing.assert_allclose(probabilities, 1, atol=1e-5)
    assert reasons[str(large)] == TOO_LARGE
    assert reasons[str(names[-3])] == "unreadable: No such file or directory"
    assert all(reason.startswith("unreadable: ") for reason in reasons.values())


def test_images_in_archives_are_predicted(
    model: Path, images: Path, tmp_path: Path
) -> None:
    files = sorted(path for path in images.rglob("*") if path.is_file())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in files:
            archive.write(path, path.relative_to(images))
        archive.writestr("bomb.jpg", bytes(MAX_BYTES + 1), zipfile.ZIP_DEFLATED)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"0, an image.JPG") + 40] ^= 0xFF  # in its content
    (tmp_path / "a.zip").write_bytes(content)
    (tmp_path / "b.ZIP").write_text("not an archive")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("notes.txt", "not an image")
    flags = ("--output", tmp_path / "out", "--batch-size", 5)
    run_here("batch_predict.py", model, tmp_path / "*.[zZ]*", *flags, exit_code=3)
    table, reasons = read_output(tmp_path / "out")
    expected = {
        "a.zip/bomb.jpg": TOO_LARGE,
        "a.zip/0, an image.JPG": "CRC",
        "b.ZIP": "not a zip file",
        "c.zip": "contains no images",
    }
    for name, text in expected.items():
        assert text in reasons.pop(str(tmp_path / name))
    assert reasons[str(tmp_path / "a.zip/a/half.jpg")] == UNREADABLE
    assert len(reasons) == 3
    alone = run_here("predict.py", model, images, "--output", tmp_path / "alone.csv")
    assert alone.returncode == 3
    rows = read_csv([tmp_path / "alone.csv"]).iloc[1:].reset_index(drop=True)
    inside = f"{tmp_path / 'a.zip'}/"
    rows["file"] = rows["file"].str.replace(f"{images}/", inside, regex=False)
    assert_same(rows, table[table["file"].isin(rows["file"])].reset_index(drop=True))


def test_a_damaged_member_does_not_affect_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("lzma.jpg", bytes(100), zipfile.ZIP_LZMA)
        archive.writestr("é.jpg", jpeg(1))
        archive.writestr("good.jpg", jpeg(2))
        damaged = archive.getinfo("lzma.jpg").header_offset + 30 + len("lzma.jpg")
    content = bytearray(path.read_bytes())
    content[damaged + 4] = 0xFF  # the properties of LZMA, which follow its version
    content[content.index("é".encode())] = 0xFF  # in the local file header
    path.write_bytes(content)
    (ref,) = io.list_members(io.FileRef(str(path)))
    *unreadable, good = io.read(ref)
    assert [file[0] for file in unreadable] == [f"{path}/lzma.jpg", f"{path}/é.jpg"]
    assert "unreadable: Invalid or unsupported options" in unreadable[0].content
    assert "unreadable: 'utf-8' codec can't decode" in unreadable[1].content
    assert good == io.ImageFile(f"{path}/good.jpg", jpeg(2))


def test_a_batch_that_fails_loses_one_image(
    model: Path, images: Path, tmp_path: Path
) -> None:
    class Handler(pipeline.ImageHandler):
        """Runs out of memory for one of the images."""

        def _predict(
            self, batch: Sequence[io.ImageFile], model: pipeline.LoadedModel
        ) -> pd.DataFrame:
            if any("4, an image" in image.name for image in batch):
                raise MemoryError("out of\nmemory")
            return super()._predict(batch, model)

    metadata = tmp_path / "metadata.csv"
    metadata.write_text('image_id,age,sex,localization\n"1, an image",50,male,back\n')
    handler = Handler(model, metadata, 9, "jsonl")
    # ** matches any text, including slashes.
    pattern, output = f"{images.parent}/**/*an image*", tmp_path / "out"
    counts = pipeline.run(handler, [pattern], None, str(output), ("file",), ())
    assert counts == pipeline.Counts(predicted=8, failed=1, without_metadata=8)
    table, reasons = read_output(output, read_jsonl)
    failed = str(images / "a/4, an image.JPG")
    assert reasons == {failed: "not predicted: MemoryError: out of memory"}
    assert set(table["file"]) == {*map(str, images.rglob("*.JPG"))}
    assert table.set_index("file")["refer"][failed]


def test_one_star_matches_one_directory(model: Path, images: Path, tmp_path: Path) -> None:
    pattern = f"{images.parent}/*/*.JPG"
    done = run_script("batch_predict.py", model, pattern, "--output", tmp_path / "flat")
    assert done.returncode == 0, done.stderr
    predictions, refer, _ = done.stderr.splitlines()
    assert predictions == f"predictions  {tmp_path / 'flat'}/predictions-*.csv"
    assert refer.startswith("refer        The model refers images for which the ")
    assert len(pd.read_csv(next((tmp_path / "flat").glob("predictions-*")))) == 3


def test_a_directory_that_cannot_be_listed_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    deny_listing(monkeypatch, tmp_path / "a")
    (ref,) = io.match(str(tmp_path))
    assert list(io.read(ref)) == [(str(tmp_path / "a"), "unreadable: Permission denied")]


def test_relative_patterns_match_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jpg", "a/b.jpg", "a/b/[1].jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert io.list_files("*.jpg") == ["./a.jpg"]
    assert len(io.list_files("**")) == 3
    assert len(io.list_files("**", 2)) == 2
    assert sorted(io.list_files("a/**.jpg")) == ["a/b.jpg", "a/b/[1].jpg"]
    assert io.list_files("a/**/*.jpg") == ["a/b/[1].jpg"]
    assert io.list_files("a/b/[1].jpg") == ["a/b/[1].jpg"]
    assert io.list_files("none.jpg") == []


@pytest.mark.slow
def test_processes_predict_in_parallel(model: Path, images: Path, tmp_path: Path) -> None:
    alone = run_here("predict.py", model, images, "--output", tmp_path / "alone.csv")
    processes = "-- --direct_num_workers 2 --direct_running_mode multi_processing".split()
    arguments = (model, images, "--output", tmp_path / "many", *processes)
    many = run_here("batch_predict.py", *arguments)
    assert (alone.returncode, many.returncode) == (3, 3), many.stderr
    assert_same(read_csv([tmp_path / "alone.csv"]), read_output(tmp_path / "many")[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{tmp}/empty/",), "Expected image files"),
        (("{tmp}/*.jpg", "{tmp}/x.jpg"), "Expected image files"),
        (("--names", "{tmp}/blank.txt"), "Expected image files"),
        (("--names", "{tmp}/none.txt"), "cannot be listed"),
        (("no-such-system://x",), "cannot be listed"),
        (("{tmp}", "--output", "{tmp}/old"), "without predictions"),
        (("{tmp}", "--output", "{tmp}/blank.txt"), "must be a directory"),
        (("{tmp}", "--output", "{tmp}/[1]"), "must not contain"),
        (("{tmp}", "--output", "no-such-system://x"), "--output directory no-such-sys"),
        (("{tmp}", "--batch-size", "0"), "--batch-size must be >= 1"),
        (("{tmp}/x.png", "--", "--runner", "None"), "Beam rejects the arguments after --"),
    ],
)
def test_invalid_arguments_are_rejected(
    arguments: tuple[str, ...], message: str, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "old").mkdir()
    (tmp_path / "old/predictions-00001-of-00003.jsonl").touch()
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "x.png").touch()
    before = sorted(tmp_path.rglob("*"))
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    if "--output" not in filled:
        filled = ["--output", str(tmp_path / "out"), *filled]
    done = run_here("batch_predict.py", model, *filled, exit_code=2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failure_leaves_no_files(images: Path, tmp_path: Path) -> None:
    handler = pipeline.ImageHandler(tmp_path / "no model", None, 4, "csv")
    with pytest.raises(ConfigError, match="MODEL must be a SavedModel"):
        pipeline.run(handler, [str(images)], None, str(tmp_path / "out"), ("file",), ())
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code", "message"),
    [(signal.SIGTERM, 143, "terminated\n"), (signal.SIGINT, 130, "interrupted\n")],
)
def test_an_interruption_leaves_no_files(
    sent: signal.Signals,
    code: int,
    message: str,
    model: Path,
    images: Path,
    tmp_path: Path,
) -> None:
    listed, output = tmp_path / "names.txt", tmp_path / "out"
    listed.write_text(f"{min(images.rglob('*.JPG'))}\n" * 20_000, encoding="utf-8")
    script = ROOT / "scripts/batch_predict.py"
    command = [sys.executable, script, model, "--names", listed, "--output", output]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and not list(output.rglob("*.csv")):
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(0.1)
        process.send_signal(sent)
        try:
            stderr = process.communicate(timeout=120)[1]
        finally:
            process.kill()
    assert (process.returncode, stderr) == (code, message)
    assert not list(output.iterdir())
