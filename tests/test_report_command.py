"""The report command renders the same files from the same results of any run."""

from __future__ import annotations

import base64
import dataclasses
import errno
import json
import shutil
from pathlib import Path

import pytest
from conftest import run_here
from matplotlib.figure import Figure
from report_runs import (
    CORRUPTIONS,
    EXTERNAL,
    OOD,
    PARITY,
    TABLES,
    VARIANT,
    WITH_OFFICIAL,
    Page,
    make_table,
)
from run_dirs import CONFIG, make_info, write_run

from skincnn.cli import common
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.aggregate import OUT_OF_FOLD, pool, write_aggregate
from skincnn.evaluation.ensemble import combine_runs
from skincnn.evaluation.evaluate import Evaluation, write_evaluation
from skincnn.evaluation.results import SplitResult, read_result, result_path
from skincnn.files import replacing, write_json
from skincnn.inference.ood import FeatureGaussian
from skincnn.records import write_record
from skincnn.reporting import report
from skincnn.reporting.load import load_results
from skincnn.reporting.report import render_report


def read_rendered(workdir: Path) -> dict[str, bytes]:
    """Returns the contents of the rendered files by name."""
    files = [workdir / "report.html", workdir / "README.md", *workdir.glob("figures/*")]
    return {path.name: path.read_bytes() for path in files}


def test_deleted_reports_are_rendered_again(tmp_path: Path) -> None:
    workdir = write_run(tmp_path / "run", TABLES)
    path = render_report(workdir)
    assert path == workdir / "report.html"
    first = read_rendered(workdir)
    kept = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    page = Page(path.read_text())
    shown = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    pngs = [content for name, content in first.items() if name.endswith(".png")]
    uris = ["data:image/png;base64," + base64.b64encode(png).decode() for png in pngs]
    assert sorted(shown) == sorted(uris)
    (workdir / "report.html").unlink()
    (workdir / "README.md").unlink()
    shutil.rmtree(workdir / "figures")
    done = run_here("report.py", workdir)
    assert done.returncode == 0, done.stderr
    assert "test split (fold 9): 120 images of 60 lesions" in done.stdout
    assert done.stdout.endswith(f"report  {path}\n")
    assert read_rendered(workdir) == first
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == kept


def test_figures_of_deleted_results_are_deleted(no_figures: None, tmp_path: Path) -> None:
    workdir = write_run(tmp_path, TABLES)
    (workdir / "figures").mkdir()
    for name in ("corruptions_test.png", "notes.txt"):
        (workdir / "figures" / name).touch()
    render_report(workdir)
    assert [path.name for path in (workdir / "figures").iterdir()] == ["notes.txt"]


def test_another_split_can_be_the_headline(no_figures: None, tmp_path: Path) -> None:
    workdir = write_run(tmp_path / "run", WITH_OFFICIAL)
    write_record(result_path(workdir, "test.corruptions"), CORRUPTIONS)
    assert list(load_results(workdir).splits) == ["test", "test_official", "val"]
    results = load_results(workdir, "test_official")
    assert list(results.splits) == ["test_official", "test", "val"]
    assert results.headline.split == "test_official"
    assert results.corruptions is None  # they are results of test
    done = run_here("report.py", workdir, "--headline", "test_official")
    assert done.returncode == 0, done.stderr
    assert "\nofficial test split: 120 images" in done.stdout.split("test split (")[0]


@pytest.mark.parametrize("headline", ["fold_3", "val"])
def test_an_unknown_headline_is_an_error(headline: str, tmp_path: Path) -> None:
    workdir = write_run(tmp_path / "run", TABLES)
    done = run_here("report.py", workdir, "--headline", headline)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: The headline split must be one of: test. Received: {headline}."
    )


def test_a_directory_without_results_is_an_error(tmp_path: Path) -> None:
    workdir = write_run(tmp_path / "run", TABLES)
    shutil.rmtree(workdir / "results")
    with pytest.raises(ConfigError, match=r"was not evaluated: .*test\.json is missing"):
        load_results(workdir)
    (workdir / "run.json").unlink()
    with pytest.raises(ConfigError, match=r"run\.json is missing"):
        load_results(workdir)
    done = run_here("report.py")
    assert done.returncode == 2
    assert "Expected the directory of a run" in done.stderr


@pytest.mark.parametrize("name", ["export.saved_model", "test", "test.ood"])
def test_files_that_another_process_is_writing_are_ignored(
    name: str, tmp_path: Path
) -> None:
    workdir = write_run(tmp_path / "run", TABLES)
    before = load_results(workdir).splits
    with replacing(result_path(workdir, name)) as temporary:
        temporary.write_text("{", encoding="utf-8")
        results = load_results(workdir)
        temporary.write_bytes(result_path(workdir, "test").read_bytes())
    assert results.splits == before
    assert not results.ood


@pytest.mark.parametrize(
    ("name", "copy"),
    [
        ("test", "test_old"),
        ("test", "test.sync-conflict-20260101"),
        ("test.d4", "test_old.d4"),
        ("ood", "ood.sync-conflict-20260101"),
        ("ood", "ood (1)"),
        ("test_official.ood", "test_official (1).ood"),
        ("external.clinic", "external.clinic (1)"),
        ("export.litert", "export.litert~1"),
    ],
)
def test_a_copy_of_a_result_is_not_used_and_noted(
    name: str, copy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = write_run(tmp_path / "run", WITH_OFFICIAL, {"d4": VARIANT})
    [rejected] = OOD.splits.values()
    official = OOD.model_copy(update={"splits": {"test_official": rejected}})
    results = {"ood": OOD, "test_official.ood": official}
    results |= {"external.clinic": EXTERNAL, "export.litert": PARITY}
    for key, result in results.items():
        write_record(result_path(workdir, key), result)
    before = dataclasses.astuple(load_results(workdir))
    assert not capsys.readouterr().err
    values = json.loads(result_path(workdir, name).read_text())
    changes = {"num_images": 7, "limit": 3.0, "num_bootstrap": 7}
    values |= {key: value for key, value in changes.items() if key in values}
    for part in values.get("splits", {}).values():
        part["num_images"] = 7
    write_json(result_path(workdir, copy), values)
    assert dataclasses.astuple(load_results(workdir)) == before
    load_results(workdir)
    note = f"note: {result_path(workdir, copy)} is not used, because its content is that of"
    error = capsys.readouterr().err
    assert error.count("note: ") == 1
    assert error.startswith(f"{note} a file with the name {name}.json. Move")


@pytest.mark.parametrize("name", ["Copy of ood", "members (1)", "test.corruptions copy"])
def test_an_unknown_copy_of_a_result_is_not_used(name: str, tmp_path: Path) -> None:
    workdir = write_run(tmp_path / "run", WITH_OFFICIAL, {"d4": VARIANT})
    before = dataclasses.astuple(load_results(workdir))
    write_record(result_path(workdir, name), OOD)
    assert dataclasses.astuple(load_results(workdir)) == before


@pytest.mark.parametrize(
    "name", ["figures/roc.png", "report.html", "README.md", "checklists/tripod-ai.md"]
)
def test_a_full_disk_names_the_file_and_the_command_to_repeat(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = write_run(tmp_path / "a run", TABLES)
    monkeypatch.setattr(report, "draw_figures", lambda _: {"roc": Figure(figsize=(1, 1))})

    def fail(path: Path) -> None:
        if path.name.endswith(f"-{Path(name).name}"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("skincnn.files._sync", fail)
    with pytest.raises(ConfigError) as caught:
        common.show_report(workdir, checklists=["tripod-ai"])
    text = str(caught.value)
    assert text.startswith(
        (f"The report in {workdir} could not", f"{workdir / name} could")
    )
    assert "The disk is full. Free disk space" in text
    flags = " --checklist tripod-ai" if name.startswith("checklists/") else ""
    assert text.endswith(f"afterward, run: skincnn report '{workdir}'{flags}")
    assert not list(workdir.rglob(".tmp*"))


def test_a_full_disk_during_an_evaluation_names_the_command_to_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = write_run(tmp_path / "run", TABLES)

    def fail(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    evaluation = Evaluation("test", {}, FeatureGaussian(()), {}, {}, {})
    monkeypatch.setattr("skincnn.files._sync", fail)
    with pytest.raises(ConfigError, match=f"run: skincnn evaluate {workdir}$"):
        write_evaluation(workdir, evaluation)


def test_changed_predictions_are_an_error(tmp_path: Path) -> None:
    workdir = write_run(tmp_path, TABLES)
    path = workdir / "predictions/test.csv"
    path.write_text(path.read_text(), newline="\r\n")  # as Git writes it on Windows
    render_report(workdir)
    path.write_text(path.read_text().replace("i119", "i120"))
    with pytest.raises(ConfigError, match=r"test\.csv has changed since .*test\.json"):
        render_report(workdir)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        render_report(workdir)


def test_results_on_the_user_s_ood_images_follow_the_built_in_ones(
    no_figures: None, tmp_path: Path
) -> None:
    workdir = write_run(tmp_path, TABLES)
    [photographs] = OOD.sets
    user = photographs.model_copy(update={"name": "<i>cats"})
    cats = OOD.model_copy(update={"sets": (user,)})
    write_record(result_path(workdir, "ood.<i>cats"), cats)
    write_record(result_path(workdir, "ood"), OOD)
    names = [images.name for result in load_results(workdir).ood for images in result.sets]
    assert names == ["photographs", "<i>cats"]
    page = render_report(workdir).read_text()
    assert "<i>cats" not in page
    assert "<i>cats" in Page(page).text
    assert "<i>" not in (workdir / "README.md").read_text()


def test_ood_results_are_those_of_the_headline_split(
    no_figures: None, tmp_path: Path
) -> None:
    workdir = write_run(tmp_path, TABLES)
    [photographs] = OOD.sets
    [test_split] = OOD.splits.values()
    official = OOD.model_copy(
        update={
            "splits": {"test_official": test_split.model_copy(update={"num_images": 77})},
            "sets": (photographs.model_copy(update={"auc": 0.123}),),
        }
    )
    write_record(result_path(workdir, "ood"), OOD)
    result = read_result(workdir, "test", SplitResult)
    other = result.model_copy(update={"split": "test_official"})
    write_record(result_path(workdir, "test_official"), other)
    write_record(result_path(workdir, "test_official.ood"), official)
    user = photographs.model_copy(update={"name": "cats"})
    with_cats = official.model_copy(update={"sets": (user,)})
    write_record(result_path(workdir, "test_official.ood.cats"), with_cats)
    [ood] = load_results(workdir).ood
    assert ood.sets == OOD.sets
    assert list(ood.splits) == ["test", "test_official"]
    assert ood.splits["test_official"].num_images == 77
    first, cats = load_results(workdir, "test_official").ood
    assert (first.sets, cats.sets) == (official.sets, (user,))
    assert list(first.splits) == ["test_official", "test"]


def test_an_ensemble_has_a_report(tmp_path: Path) -> None:
    other = dataclasses.replace(CONFIG, seed=1)
    runs = [
        write_run(tmp_path / "a", TABLES, {"d4": VARIANT}, num_views=8),
        write_run(
            tmp_path / "b",
            {"val": make_table(5), "test": make_table(6)},
            {"d4": VARIANT},
            num_views=8,
            config=other,
        ),
    ]
    workdir = tmp_path / "ab"
    write_aggregate(workdir, combine_runs(runs))
    page = Page(render_report(workdir).read_text()).words
    assert "The ensemble averages the probabilities of 2 models (a, b)." in page
    assert "Individual models" in page
    assert "paired, ensemble minus model" in page
    assert "test-time augmentation (d4)" in page
    assert "None" not in page
    card = (workdir / "README.md").read_text()
    assert "Together, the networks have 2,468 parameters" in card
    assert not (workdir / "figures/learning_curves.png").exists()


def test_a_cross_validation_has_a_report(tmp_path: Path) -> None:
    runs = []
    for number in range(2):
        tables = {
            split: make_table(2 * number + n).assign(
                image_id=[f"{split}{number}_{i}" for i in range(120)]
            )
            for n, split in enumerate(("val", "test"))
        }
        runs.append(write_run(tmp_path / f"model_{number}", tables))
    workdir = tmp_path / "cv"
    write_aggregate(workdir, pool(runs))
    results = load_results(workdir)
    assert results.headline.split == OUT_OF_FOLD
    page = Page(render_report(workdir).read_text()).words
    assert "Cross-validation trained 2 models, each on 800 images." in page
    assert "out-of-fold predictions: 240 images of 60 lesions" in page
    assert "minus model" not in page
    assert "The referral rule refers an image to a dermatologist if the prob" in page
    assert "Validation folds of all models" in page
    assert make_info().attribution in page
