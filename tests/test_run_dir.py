"""Run directories: their content, and the errors for damaged ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from run_dirs import make_info, make_member, make_tables, write_run, write_run_dir

import skincnn
from skincnn.config import Config, DataConfig
from skincnn.errors import ConfigError
from skincnn.evaluation.aggregate import check_workdir
from skincnn.files import write_json
from skincnn.inference.run_dir import read_history, read_run
from skincnn.records import to_json, write_record
from skincnn.reporting.load import load_results
from skincnn.reporting.report import draw_figures, render_report
from skincnn.serving.predictor import load_predictor


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return write_run_dir(tmp_path / "run")


def require_one_line(workdir: Path, *expected: str) -> None:
    """Checks that the error is one line with the directory, the fix and these texts."""
    with pytest.raises(ConfigError) as caught:
        read_run(workdir)
    message = str(caught.value)
    assert str(workdir) in message
    assert "skincnn train" in message
    assert "\n" not in message
    for text in expected:
        assert text in message, message


def test_runs_one_level_below_are_named(workdir: Path) -> None:
    for read in (read_run, load_predictor):
        with pytest.raises(ConfigError, match=rf"the run\(s\) run\. Use .*{workdir}$"):
            read(workdir.parent)


def test_a_complete_directory_is_read(workdir: Path) -> None:
    assert read_run(workdir) == (make_info(), Config())
    assert read_history(workdir)["loss"].tolist() == [1.0, 0.6, 0.5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"class_names": ["mel"', "run.json cannot be read"),
        ("", "run.json cannot be read"),
        ("[]", "run.json must contain a JSON object. Received: list."),
        ("null", "run.json must contain a JSON object. Received: NoneType."),
        ("{}", "Expected schema_version 3. Received: None."),
        ('{"schema_version": 1}', "Expected schema_version 3. Received: 1."),
        ('{"schema_version": 3}', "run.json: `skincnn`: Field required."),
    ],
)
def test_a_damaged_run_file_is_rejected(content: str, message: str, workdir: Path) -> None:
    (workdir / "run.json").write_text(content)
    advice = "Restore the file from a backup or", "train again with --overwrite"
    require_one_line(workdir, message, *advice)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": "red"}, "`extra`: Extra inputs are not permitted. Received: 'red'."),
        ({"best_epoch": "last"}, "`best_epoch`: Input should be a valid integer"),
        ({"kind": "fold"}, "`kind`: Input should be 'run', 'ensemble' or"),
        ({"audit": {"num_images": {}}}, "`audit.num_lesions`: Field required."),
    ],
)
def test_an_invalid_field_is_rejected(
    change: dict[str, object], message: str, workdir: Path
) -> None:
    write_json(workdir / "run.json", {**to_json(make_info()), **change})
    require_one_line(workdir, message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "config.json, the configuration of the run, is missing. Restore"),
        ("model.keras", "model.keras is missing. Restore the file from a backup"),
        ("run.json", "contains no finished run: run.json is missing. Finish the run: "),
    ],
)
def test_a_missing_file_is_named_with_its_fix(
    name: str, message: str, workdir: Path
) -> None:
    (workdir / name).unlink()
    with pytest.raises(ConfigError) as caught:
        read_run(workdir)
    assert f"{workdir}" in str(caught.value)
    assert message in str(caught.value)


def test_each_use_of_a_missing_or_damaged_configuration_names_the_fix(
    tmp_path: Path,
) -> None:
    workdir = write_run(tmp_path / "run", make_tables(0.7))
    uses: list[Callable[[], object]] = [
        lambda: skincnn.load(workdir).config,
        lambda: load_results(workdir),
        lambda: skincnn.compare([workdir]),
    ]
    (workdir / "config.json").write_text("")
    require_restored(uses)
    (workdir / "config.json").unlink()
    require_restored([*uses, lambda: skincnn.train(Config(), workdir, overwrite=True)])
    with pytest.raises(ConfigError, match=r"contains a run\. Expected a new"):
        check_workdir(workdir)


def require_restored(uses: Sequence[Callable[[], object]]) -> None:
    for use in uses:
        with pytest.raises(ConfigError, match=r"config\.json.*Restore the file from a"):
            use()


def test_an_unfinished_run_is_finished_by_the_printed_command(workdir: Path) -> None:
    (workdir / "model.keras").unlink()
    uses: tuple[Callable[[Path], object], ...] = (read_run, load_predictor)
    for use in uses:
        with pytest.raises(
            ConfigError, match=r"model\.keras is missing\. Restore the file"
        ):
            use(workdir)
    (workdir / "run.json").unlink()
    flags = f"--config {workdir}/config.json --workdir {workdir} --resume"
    for use in uses:
        with pytest.raises(ConfigError, match=f"Finish the run: skincnn train {flags}$"):
            use(workdir)


def test_a_directory_of_several_models_is_not_a_single_run(workdir: Path) -> None:
    member = make_member("model_1", Config())
    write_record(workdir / "run.json", make_info(kind="ensemble", members=(member,)))
    (workdir / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"an ensemble. Expected a single .*: model_1\."):
        read_run(workdir)


def test_the_layout_of_an_earlier_version_is_rejected(workdir: Path) -> None:
    (workdir / "run.json").rename(workdir / "metadata.json")
    require_one_line(workdir, "layout of an earlier version", "instead of run.json")


def test_a_different_preprocessing_is_rejected(workdir: Path) -> None:
    config = Config(data=DataConfig(crop_border=True))
    write_json(workdir / "config.json", config.to_dict())
    message = "run.json: the training images were preprocessed with {"
    require_one_line(workdir, message, "Expected {")


HISTORIES = [
    "",
    "epoch,loss\n",
    "\n",
    "a,b\n1,2\n",
    "epoch,loss\n1,x\n",
    "epoch,loss\n1,0.5\n2,x",
    "\0" * 50,
]


@pytest.mark.parametrize("content", HISTORIES)
def test_a_damaged_history_is_rejected(content: str, workdir: Path) -> None:
    (workdir / "history.csv").write_text(content)
    with pytest.raises(ConfigError, match=r"history\.csv .*Restore the file from a backup"):
        read_history(workdir)


@pytest.mark.parametrize("content", [None, *HISTORIES, "epoch,loss,val_a\n1,0.5,0.2\n2,"])
def test_a_report_without_a_usable_history_lacks_only_the_curves(
    content: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    no_figures: None,
) -> None:
    workdir = write_run(tmp_path / "run", make_tables(0.7))
    (workdir / "history.csv").unlink()
    if content is not None:
        (workdir / "history.csv").write_text(content)
    is_usable = content is not None and "val_a" in content
    figures = draw_figures(load_results(workdir))
    assert ("learning_curves" in figures) == is_usable
    error = capsys.readouterr().err
    assert error.count("\n") == (not is_usable)
    if not is_usable:
        assert error.startswith("warning: The report has no learning curves. ")
        assert str(workdir / "history.csv") in error
    assert render_report(workdir).is_file()


def test_a_trained_run_is_described(run: tuple[Path, object]) -> None:
    info, config = read_run(run[0])
    assert (info.kind, info.members) == ("run", ())
    assert info.synthetic
    assert info.class_counts.keys() == set(info.class_names)
    assert info.data_fingerprint.keys() >= {"val", "test"}
    assert config.data.datasets == ("demo_tiny",)
    values = json.loads((run[0] / "run.json").read_text())
    assert to_json(info) == values
