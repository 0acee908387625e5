"""The pipeline for many machines answers what predict.py answers, and loses no picture."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, run_here, run_script
from source_files import jpeg

from skincnn.errors import ConfigError
from skincnn.serving.images import MAX_BYTES, READ, UNREADABLE

Run = tuple[Path, object]
HAS_BEAM = importlib.util.find_spec("apache_beam") is not None
needs_beam = pytest.mark.skipif(not HAS_BEAM, reason="needs Apache Beam: make test-beam")


@pytest.fixture(scope="module")
def model(run: Run) -> Path:
    return run[0] / "export/skincnn"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pictures in three folders, and three files that are none."""
    folder = tmp_path_factory.mktemp("archive") / "of [2019] é"
    for number in range(9):
        path = folder / ("", "a", "a/b")[number % 3] / f"{number}, it is.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    (folder / "a/text.jpg").write_text("this is text")
    (folder / "empty.png").touch()
    (folder / "a/half.jpg").write_bytes(jpeg()[:300])
    (folder / "a/notes.txt").write_text("no picture by its name")
    return folder


def read_csv(paths: Sequence[Path]) -> pd.DataFrame:
    tables = [pd.read_csv(path, keep_default_na=False, na_values=[""]) for path in paths]
    return pd.concat(tables).sort_values("file").reset_index(drop=True)


def read_output(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the answers and the dead letters; there is nothing else."""
    found = [sorted(folder.glob(f"{name}-*-of-*.csv")) for name in ("answers", "unread")]
    assert sorted(folder.iterdir()) == [*found[0], *found[1]]
    answers, unread = map(read_csv, found)
    return answers, unread


def assert_same(expected: pd.DataFrame, answers: pd.DataFrame) -> None:
    """Compares the rows of predict.py that have answers with those of the pipeline."""
    read = expected[expected["status"] == READ].reset_index(drop=True)
    assert len(read) > 0
    pd.testing.assert_frame_equal(read, answers, atol=1e-6, rtol=0)


@needs_beam
def test_the_rows_are_those_of_predict(model: Path, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / pictures.name
    shutil.copytree(pictures, folder)
    (folder / "a/link.jpg").symlink_to("nowhere")
    (folder / "a/folder.jpg").mkdir()
    alone = run_here("predict.py", model, folder, "--output", tmp_path / "alone.csv")
    flags = ("--output", tmp_path / "many", "--batch-size", 4)
    many = run_here("batch_predict.py", model, folder, *flags)
    assert (alone.returncode, many.returncode) == (3, 3), many.stderr
    expected = read_csv([tmp_path / "alone.csv"])
    answers, unread = read_output(tmp_path / "many")
    assert len(answers) == 9
    assert_same(expected, answers)
    bad = expected[expected["status"] != READ]
    assert unread["file"].tolist() == bad["file"].tolist()
    told = unread["status"] != UNREADABLE
    opened = [str(folder / f"a/{name}.jpg") for name in ("folder", "link")]
    assert unread["file"][told].tolist() == opened
    assert unread["status"].str.startswith("not read: ").all()
    assert "5 of 14 file(s) could not be read" in many.stderr
    assert f"{tmp_path / 'many'}/unread-*.csv" in many.stderr


@needs_beam
def test_a_folder_elsewhere_may_have_the_name_of_a_pattern() -> None:
    from apache_beam.io.filesystem import FileMetadata
    from apache_beam.io.localfilesystem import LocalFileSystem

    from skincnn.serving.beam.io import list_files

    names = [f"bucket://b/{name}" for name in ("[1]/a/x.JPG", "[1]/y.txt", "(1)/z.jpg")]

    class Bucket(LocalFileSystem):
        """Beam finds it among the subclasses."""

        @classmethod
        def scheme(cls) -> str:
            return "bucket"

        def _list(self, dir_or_prefix: str) -> list[FileMetadata]:
            return [FileMetadata(name, 1) for name in names]

    assert Bucket in LocalFileSystem.get_all_subclasses()
    assert [one.path for one in list_files("bucket://b/[1]/")] == names[:1]


@needs_beam
def test_each_name_of_a_list_is_answered_or_told(
    model: Path, pictures: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    good = sorted(pictures.rglob("*.JPG"))
    names = [*good, large, tmp_path / "none.jpg", pictures, "no-such-system://x.jpg"]
    listed = tmp_path / "names.txt"
    listed.write_text("\n\n".join(map(str, names)), encoding="utf-8")
    flags = ("--names", listed, "--output", tmp_path / "out", "--format", "jsonl")
    done = run_here("batch_predict.py", model, *flags)
    assert done.returncode == 3, done.stderr
    answers, unread = (
        [
            json.loads(line)
            for path in (tmp_path / "out").glob(f"{name}-*.jsonl")
            for line in path.read_text(encoding="utf-8").splitlines()
        ]
        for name in ("answers", "unread")
    )
    assert sorted(row["file"] for row in answers) == list(map(str, good))
    probabilities = [value for key, value in answers[0].items() if key.startswith("prob")]
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    reasons = {row["file"]: row["status"] for row in unread}
    assert sorted(reasons) == sorted(map(str, names[9:]))
    assert f"Received: {MAX_BYTES + 1}" in reasons[str(large)]
    assert "does not exist" in reasons[str(names[-3])]
    assert all(reason.startswith("not read: ") for reason in reasons.values())


@needs_beam
def test_pictures_in_archives_are_answered(
    model: Path, pictures: Path, tmp_path: Path
) -> None:
    files = sorted(path for path in pictures.rglob("*") if path.is_file())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in files:
            archive.write(path, path.relative_to(pictures))
        archive.writestr("bomb.jpg", bytes(MAX_BYTES + 1), zipfile.ZIP_DEFLATED)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"0, it is.JPG") + 40] ^= 0xFF  # in its bytes
    (tmp_path / "a.zip").write_bytes(content)
    (tmp_path / "b.ZIP").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("notes.txt", "no picture")
    flags = ("--output", tmp_path / "out", "--batch-size", 5)
    done = run_here("batch_predict.py", model, tmp_path / "*.[zZ]*", *flags)
    assert done.returncode == 3, done.stderr
    answers, unread = read_output(tmp_path / "out")
    reasons = {
        Path(row.file).relative_to(tmp_path): row.status for row in unread.itertuples()
    }
    assert f"Received: {MAX_BYTES + 1}" in reasons.pop(Path("a.zip/bomb.jpg"))
    assert "CRC" in reasons.pop(Path("a.zip/0, it is.JPG"))
    assert "not a zip file" in reasons.pop(Path("b.ZIP"))
    assert "no picture is in" in reasons.pop(Path("c.zip"))
    assert set(reasons.values()) == {UNREADABLE}
    assert len(reasons) == 3
    first = run_here("predict.py", model, pictures, "--output", tmp_path / "alone.csv")
    assert first.returncode == 3
    expected = read_csv([tmp_path / "alone.csv"]).iloc[1:].reset_index(drop=True)
    inside = f"{tmp_path / 'a.zip'}/"
    expected["file"] = expected["file"].str.replace(f"{pictures}/", inside, regex=False)
    assert_same(expected, answers)


@needs_beam
def test_a_damaged_member_costs_no_other(tmp_path: Path) -> None:
    from skincnn.serving.beam.io import Picture, Place, Problem, look_into, read

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("lzma.jpg", bytes(100), zipfile.ZIP_LZMA)
        archive.writestr("é.jpg", jpeg(1))
        archive.writestr("good.jpg", jpeg(2))
        damaged = archive.getinfo("lzma.jpg").header_offset + 30 + len("lzma.jpg")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[damaged + 4] = 0xFF  # properties of LZMA, which follow its version
    content[content.index("é".encode())] = 0xFF  # in the header before the picture
    (tmp_path / "a.zip").write_bytes(content)
    name = f"{tmp_path / 'a.zip'}"
    (place,) = look_into(Place(name, len(content)))
    lost, mangled, good = read(place)
    assert isinstance(lost, Problem)
    assert lost.file == f"{name}/lzma.jpg"
    assert "not read: Invalid or unsupported options" in lost.status
    assert isinstance(mangled, Problem)
    assert mangled.file == f"{name}/é.jpg"
    assert "not read: 'utf-8' codec can't decode" in mangled.status
    assert good == Picture(f"{name}/good.jpg", jpeg(2))


@needs_beam
def test_two_members_of_one_name_are_two_pictures(tmp_path: Path) -> None:
    from skincnn.serving.beam.io import Picture, Place, look_into, read

    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no picture")
        archive.writestr("x.jpg", jpeg(1))
        with pytest.warns(match="Duplicate name"):
            archive.writestr("x.jpg", jpeg(2))
    (place,) = look_into(Place(str(path), path.stat().st_size))
    assert list(read(place)) == [Picture(f"{path}/x.jpg", jpeg(n)) for n in (1, 2)]


@needs_beam
def test_an_archive_that_changes_after_it_was_found_is_told(tmp_path: Path) -> None:
    from skincnn.serving.beam.io import Place, Problem, look_into, read

    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1.jpg", jpeg(1))
        archive.writestr("2.jpg", jpeg(2))
    (place,) = look_into(Place(str(path), path.stat().st_size))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("2.jpg", jpeg(2))
    changed = list(read(place))
    path.unlink()
    for found in (changed, list(read(place))):
        assert all(isinstance(one, Problem) for one in found)
        assert [one[0] for one in found] == [f"{path}/1.jpg", f"{path}/2.jpg"]
        assert all(one[1].startswith("not read: ") for one in found)


@needs_beam
def test_a_batch_that_fails_costs_one_picture(
    model: Path, pictures: Path, tmp_path: Path
) -> None:
    from skincnn.serving.beam import pipeline
    from skincnn.serving.beam.io import Picture, Problem

    class Handler(pipeline.PictureHandler):
        """Has memory for all but one picture."""

        def _ask(
            self, batch: Sequence[Picture], model: pipeline.Loaded
        ) -> list[str | Problem]:
            if any("4, it" in picture.name for picture in batch):
                raise MemoryError("out of\nmemory")
            return super()._ask(batch, model)

    handler = Handler(model, None, 9, "jsonl")
    paths = sorted(pictures.rglob("*.JPG"))
    batch = [Picture(str(path), path.read_bytes()) for path in paths]
    lines = handler.run_inference(batch, handler.load_model())
    lost = str(pictures / "a/4, it is.JPG")
    found = {path.name: line for path, line in zip(paths, lines, strict=True)}
    because = "not answered: MemoryError: out of memory"
    assert found.pop("4, it is.JPG") == Problem(lost, because)
    assert {Path(json.loads(line)["file"]).name for line in found.values()} == set(found)
    # And so does the pipeline. It is of a pattern, of which two stars are any folders.
    pattern, output = f"{pictures.parent}/**/*it*", tmp_path / "out"
    counts = pipeline.run(handler, [pattern], None, str(output), ("file",), ())
    assert counts == {"answers": 8, "unread": 1}
    (unread,) = output.glob("unread-*")
    assert json.loads(unread.read_text()) == {"file": lost, "status": because}


@needs_beam
def test_one_star_is_one_folder(model: Path, pictures: Path, tmp_path: Path) -> None:
    pattern = f"{pictures.parent}/*/*.JPG"
    done = run_script("batch_predict.py", model, pattern, "--output", tmp_path / "flat")
    assert done.returncode == 0, done.stderr
    answers, refer = done.stderr.splitlines()
    assert answers == f"answers  {tmp_path / 'flat'}/answers-*.csv"
    assert refer.startswith("refer    from a malignant probability of ")
    assert len(pd.read_csv(next((tmp_path / "flat").glob("answers-*")))) == 3


@needs_beam
def test_links_that_lead_nowhere_are_told(model: Path, tmp_path: Path) -> None:
    """Of a pattern, and by their names; they end no pipeline and cost no other picture."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "good.jpg").write_bytes(jpeg(1))
    (folder / "linked.jpg").symlink_to("good.jpg")
    (folder / "lost.jpg").symlink_to("nowhere")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "lost.zip").symlink_to("nowhere")
    (tmp_path / "named.jpg").symlink_to("nowhere")
    patterns = (folder / "*.jpg", folder / "*.zip", tmp_path / "named.jpg")
    flags = ("--output", tmp_path / "out")
    done = run_here("batch_predict.py", model, *patterns, *flags)
    assert done.returncode == 3, done.stderr
    answers, unread = read_output(tmp_path / "out")
    names = [folder / "good.jpg", folder / "linked.jpg"]
    assert answers["file"].tolist() == list(map(str, names))
    reasons = dict(zip(unread["file"], unread["status"], strict=True))
    lost = [folder / "lost.jpg", folder / "lost.zip", tmp_path / "named.jpg"]
    assert reasons.keys() == {*map(str, lost), str(folder / "loop.jpg")}
    assert all("No such file" in reasons[str(path)] for path in lost)
    assert "Too many levels" in reasons[str(folder / "loop.jpg")]
    assert "4 of 6 file(s) could not be read" in done.stderr


@needs_beam
def test_patterns_mean_what_beam_takes_them_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apache_beam.io.filesystems import FileSystems

    from skincnn.serving.beam.io import list_files

    for name in ("a.jpg", "b.JPG", "a/c.jpg", "a/b/d.jpg", "a/b/[1].jpg", "é/e.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    patterns = ["./*", "./*.jpg", "./**", "a/*.jpg", "a/**", "a/b/[d-e]*", "?/*", "./n*"]
    for pattern in [*patterns, f"{tmp_path}/**.jpg", f"{tmp_path}/a/b/?1?.jpg"]:
        expected = FileSystems.match([pattern])[0].metadata_list
        found = [(one.path, one.size_in_bytes) for one in list_files(pattern)]
        assert sorted(found) == sorted((one.path, one.size_in_bytes) for one in expected)
    assert len(list_files("**")) == 6
    assert len(list_files("**", 2)) == 2
    assert list_files("none.jpg") == []


@needs_beam
def test_what_stands_after_two_dashes_goes_to_beam(
    model: Path, pictures: Path, tmp_path: Path
) -> None:
    threads = "-- --direct_num_workers 2 --direct_running_mode multi_threading".split()
    arguments = (model, pictures, "--output", tmp_path / "out", *threads)
    done = run_here("batch_predict.py", *arguments)
    assert done.returncode == 3, done.stderr
    assert len(list((tmp_path / "out").glob("answers-*-of-00002.csv"))) == 2
    assert sum(map(len, read_output(tmp_path / "out"))) == 12
    arguments = (model, pictures, "--output", tmp_path / "no", "--", "--runner", "None")
    done = run_here("batch_predict.py", *arguments)
    assert done.returncode == 2
    assert "Beam cannot take what stands after --: Unexpected pipeline" in done.stderr


@needs_beam
@pytest.mark.slow
def test_processes_share_the_work(model: Path, pictures: Path, tmp_path: Path) -> None:
    alone = run_here("predict.py", model, pictures, "--output", tmp_path / "alone.csv")
    processes = "-- --direct_num_workers 2 --direct_running_mode multi_processing".split()
    arguments = (model, pictures, "--output", tmp_path / "many", *processes)
    many = run_here("batch_predict.py", *arguments)
    assert (alone.returncode, many.returncode) == (3, 3), many.stderr
    assert_same(read_csv([tmp_path / "alone.csv"]), read_output(tmp_path / "many")[0])


@needs_beam
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{tmp}/empty/",), "Give files of pictures"),
        (("{tmp}/*.jpg", "{tmp}/x.jpg"), "Give files of pictures"),
        (("--names", "{tmp}/blank.txt"), "Give files of pictures"),
        (("--names", "{tmp}/none.txt"), "cannot be looked for"),
        (("no-such-system://x",), "cannot be looked for"),
        (("{tmp}", "--output", "{tmp}/old"), "without earlier answers"),
        (("{tmp}", "--output", "{tmp}/blank.txt"), "must be a folder"),
        (("{tmp}", "--output", "{tmp}/[1]"), "must have no"),
        (("{tmp}", "--output", "no-such-system://x"), "cannot be looked at"),
        (
            ("{tmp}", "--clinical-metadata", "{tmp}/blank.txt"),
            "--clinical-metadata must be a CSV",
        ),
        (
            ("{tmp}", "--clinical-metadata", "{tmp}/fifty.csv"),
            "Unable to parse string 'fifty'",
        ),
        (("{tmp}", "--batch-size", "0"), "--batch-size must be >= 1"),
    ],
)
def test_what_cannot_be_asked_is_told(
    arguments: tuple[str, ...], message: str, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "old").mkdir()
    (tmp_path / "old/unread-00001-of-00003.jsonl").touch()
    (tmp_path / "blank.txt").write_text("\n \n")
    columns = "image_id,age,sex,localization"
    (tmp_path / "fifty.csv").write_text(f"{columns}\nx,fifty,male,back\n")
    if arguments[0] == "{tmp}":
        (tmp_path / "x.jpg").touch()
    before = sorted(tmp_path.rglob("*"))
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    if "--output" not in filled:
        filled += ["--output", str(tmp_path / "out")]
    done = run_here("batch_predict.py", model, *filled)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@needs_beam
def test_a_failure_leaves_nothing(pictures: Path, tmp_path: Path) -> None:
    from skincnn.serving.beam import pipeline

    handler = pipeline.PictureHandler(tmp_path / "no model", None, 4, "csv")
    with pytest.raises(ConfigError, match="MODEL must be a SavedModel"):
        pipeline.run(handler, [str(pictures)], None, str(tmp_path / "out"), ("file",), ())
    assert not list((tmp_path / "out").rglob("*"))


@needs_beam
@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code", "message"),
    [(signal.SIGTERM, 143, "terminated\n"), (signal.SIGINT, 130, "interrupted\n")],
)
def test_what_is_stopped_leaves_nothing(
    sent: signal.Signals,
    code: int,
    message: str,
    model: Path,
    pictures: Path,
    tmp_path: Path,
) -> None:
    listed, output = tmp_path / "names.txt", tmp_path / "out"
    listed.write_text(f"{min(pictures.rglob('*.JPG'))}\n" * 20_000, encoding="utf-8")
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
            said = process.communicate(timeout=120)[1]
        finally:
            process.kill()
    assert (process.returncode, said) == (code, message)
    assert not list(output.iterdir())


def test_help_and_the_way_to_beam_need_no_beam(
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
