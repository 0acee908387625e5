"""Evaluations that add results to a run, and options that cannot be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run_here
from PIL import Image
from run_dirs import make_table

from skincnn.evaluation.evaluate import (
    EvaluateOptions,
    evaluate,
    remove_replaced,
    write_evaluation,
)
from skincnn.evaluation.results import (
    OodResult,
    SplitResult,
    read_result,
    read_split_results,
)
from skincnn.inference.logit_adjustment import adjust_tables
from skincnn.inference.ood_images import GENERATED, IMAGES_PER_SET, RUINED
from skincnn.inference.predictions import read_predictions, table_path
from skincnn.inference.run_dir import read_run_info


@pytest.fixture
def workdir(run: tuple[Path, object], tmp_path: Path) -> Path:
    return Path(shutil.copytree(run[0], tmp_path / "run"))


def read_files(workdir: Path) -> dict[str, bytes]:
    """Returns the content of all predictions and results."""
    return {
        str(path.relative_to(workdir)): path.read_bytes()
        for folder in ("predictions", "results")
        for path in sorted((workdir / folder).iterdir())
    }


def comparable(content: bytes) -> dict[str, Any]:
    return {**json.loads(content), "cost": None, "position": None}


def require_unchanged(
    before: Mapping[str, bytes], after: Mapping[str, bytes], predicted: set[str]
) -> None:
    """Checks that files are unchanged, except for two fields of the results `predicted`.

    The cost is measured again, and the position depends on runs of other tests.
    """
    for name, content in before.items():
        if Path(name).stem in predicted and name.endswith(".json"):
            assert comparable(after[name]) == comparable(content), name
        else:
            assert after[name] == content, name


def add(workdir: Path, data_dir: Path, **options: Any) -> None:
    """Does what the command does, except for the report."""
    evaluation = evaluate(workdir, data_dir, options=EvaluateOptions(**options))
    write_evaluation(workdir, evaluation)


VARIANTS = ("d4", "augment", "adjusted", "d4_adjusted", "augment_adjusted")


@pytest.mark.usefixtures("no_figures")
def test_variants_add_files_and_change_no_others(workdir: Path, data_dir: Path) -> None:
    folder = workdir.parent / "cats" / "below"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (40, 30), (number, 200, 0)).save(folder / f"{number}.PNG")
    (folder / "notes.txt").write_text("no image")
    trained = read_files(workdir)
    flags = ("--tta", "d4", "augment", "--num-views", 2, "--logit-adjustment")
    flags = (*flags, "--ood-dir", folder.parent)
    done = run_here("evaluate.py", workdir, "--data-dir", data_dir, *flags)
    assert done.returncode == 0, done.stderr
    first = read_files(workdir)
    require_unchanged(trained, first, {"val", "test"})
    names = {f"{split}.{variant}" for split in ("val", "test") for variant in VARIANTS}
    names.add("ood.cats")
    assert set(first) - set(trained) == {
        *(f"predictions/{name}.csv" for name in names),
        *(f"results/{name}.json" for name in names),
    }
    check_variants(workdir)
    check_ood(workdir)
    # One view fewer replaces the augmentation and removes its adjusted predictions.
    add(workdir, data_dir, tta=("augment",), num_views=1)
    second = read_files(workdir)
    replaced = {name: first[name] for name in first if ".augment." in name}
    adjusted = {name for name in first if ".augment_adjusted." in name}
    assert (len(replaced), len(adjusted)) == (4, 4)
    kept = {n: c for n, c in first.items() if n not in {*replaced, *adjusted}}
    assert set(second) == {*kept, *replaced}
    require_unchanged(kept, second, {"val", "test"})
    assert all(second[name] != content for name, content in replaced.items())
    augment = read_result(workdir, "test.augment", SplitResult)
    assert (augment.variant, augment.cost.num_views) == ("augment", 1)
    # The augmentation of an earlier evaluation is adjusted without new predictions.
    add(workdir, data_dir, logit_adjustment=True, corruptions=True)
    third = read_files(workdir)
    assert set(third) == {*second, *adjusted, "results/test.corruptions.json"}
    require_unchanged(second, third, {"val", "test", "val.adjusted", "test.adjusted"})
    result = read_result(workdir, "test.augment_adjusted", SplitResult)
    assert result.cost == augment.cost
    check_variants(workdir)


def check_variants(workdir: Path) -> None:
    """Checks the results of the variants against their tables, and the adjustment."""
    results = read_split_results(workdir)
    as_is = read_predictions(table_path(workdir, "test"))
    before = results["test"].metrics["accuracy"].value
    for name in VARIANTS:
        table = read_predictions(table_path(workdir, f"test.{name}"))
        labels = table["label"].astype("category").cat.codes
        y_prob = table.filter(like="probability_").to_numpy()
        accuracy = (y_prob.argmax(axis=1) == labels).mean()
        result = results[f"test.{name}"]
        value = result.metrics["accuracy"].value
        assert value == pytest.approx(accuracy, abs=1e-6)
        assert value is not None
        difference = result.differences["accuracy"].value
        assert difference == pytest.approx(value - before, abs=2e-6)
        assert table["image_id"].equals(as_is["image_id"])
    counts = read_run_info(workdir).class_counts
    columns = [f"probability_{name}" for name in counts]
    for variant in ("", "d4", "augment"):
        names = {s: f"{s}.{variant}" if variant else s for s in ("val", "test")}
        tables = {s: read_predictions(table_path(workdir, n)) for s, n in names.items()}
        expected, strength = adjust_tables(tables, list(counts), counts)
        adjusted = f"{variant}_adjusted" if variant else "adjusted"
        assert results[f"test.{adjusted}"].logit_adjustment == strength
        for split in ("val", "test"):
            table = read_predictions(table_path(workdir, f"{split}.{adjusted}"))
            np.testing.assert_allclose(expected[split][columns], table[columns], atol=1e-6)


def check_ood(workdir: Path) -> None:
    """Checks the number of images of each set, and that the threshold is the same."""
    built_in = read_result(workdir, "ood", OodResult)
    sizes = {images.name: images.num_images for images in built_in.sets}
    num_ruined = min(IMAGES_PER_SET, len(read_predictions(table_path(workdir, "val"))))
    expected = dict.fromkeys(GENERATED, IMAGES_PER_SET)
    assert sizes == expected | dict.fromkeys(RUINED, num_ruined)
    cats = read_result(workdir, "ood.cats", OodResult)
    assert [(images.name, images.num_images) for images in cats.sets] == [("cats", 3)]
    assert cats.limit == built_in.limit
    assert cats.splits == built_in.splits
    triage = read_result(workdir, "test", SplitResult).triage
    assert triage is not None
    assert triage.max_distance == (built_in.limit if built_in.is_on else None)


VAL, TEST = (make_table(split, 0.7, num_images=30) for split in ("val", "test"))


def write_names(workdir: Path, names: set[str]) -> set[Path]:
    paths = {
        path
        for name in names
        for path in (table_path(workdir, name), workdir / "results" / f"{name}.json")
    }
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text(TEST.to_csv(index=False))
    return paths


@pytest.mark.parametrize("tta", ["augment", "d4"])
def test_a_replaced_augmentation_removes_what_depends_on_it(
    tta: str, tmp_path: Path
) -> None:
    depend = {f"test.{tta}_adjusted", f"fold_3.{tta}", f"fold_3.{tta}_adjusted"}
    other = "d4" if tta == "augment" else "augment"
    rest = {"test", "test.adjusted", f"test.{tta}", f"test.{other}", f"ood.{tta}"}
    rest |= {f"fold_3.ood.{tta}", f"test.{other}_adjusted", "val.adjusted"}
    stale, kept = write_names(tmp_path, depend), write_names(tmp_path, rest)
    same = {f"test.{tta}": TEST, f"val.{tta}": VAL}
    remove_replaced(tmp_path, {**same, "test": VAL, f"ood.{tta}": VAL})
    assert all(path.exists() for path in {*stale, *kept})
    remove_replaced(tmp_path, {f"test.{tta}": VAL})
    assert not any(path.exists() for path in stale)
    assert all(path.exists() for path in kept)
    # Results are kept if the new evaluation will overwrite them.
    stale = write_names(tmp_path, depend)
    new = dict.fromkeys({f"test.{tta}", *depend}, VAL)
    remove_replaced(tmp_path, new)
    assert all(path.exists() for path in {*stale, *kept})


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--ood-dir", "broken"], 3, "broken.jpg"),
        (
            ["--tta", "augment", "--num-views", "0"],
            2,
            "`num_views` must be an integer, 1",
        ),
        (["--split", "fold_8"], 2, "fold_8, which was used for validation"),
    ],
)
def test_options_that_cannot_be_used_are_rejected_in_one_line(
    arguments: list[str], code: int, message: str, workdir: Path, data_dir: Path
) -> None:
    before = read_files(workdir)
    (workdir.parent / "broken").mkdir()
    (workdir.parent / "broken" / "broken.jpg").write_text("<html>")
    flags = [workdir.parent / flag if flag == "broken" else flag for flag in arguments]
    done = run_here("evaluate.py", workdir, "--data-dir", data_dir, *flags)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert read_files(workdir) == before


def test_a_damaged_earlier_result_is_rejected_before_any_prediction(
    workdir: Path, data_dir: Path
) -> None:
    (workdir / "results/test.d4.json").write_text('{"schema_version": 0}')
    done = run_here("evaluate.py", workdir, "--data-dir", data_dir, "--logit-adjustment")
    assert done.returncode == 2, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "test.d4.json has the format of a different version of skincnn" in line
    assert "Delete the file, then run: " in line
