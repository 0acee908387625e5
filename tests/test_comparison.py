"""Comparison of evaluated runs."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import run_dirs
from conftest import run_here
from run_dirs import (
    CONFIG,
    NAMES,
    Tables,
    make_dataset,
    make_info,
    make_member,
    make_tables,
)
from sklearn import metrics as reference

from skincnn.classes import LesionClass
from skincnn.config import (
    Config,
    DataConfig,
    OptimizerConfig,
    StageConfig,
    TrainConfig,
)
from skincnn.errors import ConfigError
from skincnn.evaluation.aggregate import cross_validation_configs
from skincnn.evaluation.compared_runs import (
    ComparedRun,
    put_baseline_first,
    read_compared_run,
    variant_names,
)
from skincnn.evaluation.comparison import Row, compare
from skincnn.evaluation.scoring import MELANOMA_SCORES
from skincnn.inference.predictions import arrays, read_predictions, table_path
from skincnn.inference.run_dir import Member
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.calibration import fit_calibration
from skincnn.metrics.classification import METRICS
from skincnn.presets import to_command
from skincnn.presets.ours import mobilenet_160

STAGES = (StageConfig(trainable_blocks=-1, epochs=1, rate=0.5),)


def write_run(
    workdir: Path,
    accuracy: float,
    config: Config | None = None,
    *,
    seed: int = 0,
    num_images: int = 120,
    members: tuple[Member, ...] = (),
    variants: dict[str, Tables] | None = None,
    **info: object,
) -> Path:
    """Writes an evaluated run, or an ensemble or cross-validation with these members."""
    run_dirs.write_run(
        workdir,
        make_tables(accuracy, seed=seed, num_images=num_images),
        variants,
        config=dataclasses.replace(config or Config(), evaluate=CONFIG.evaluate),
        info=make_info(members=members, **info),
    )
    if members:
        (workdir / "config.json").unlink()
    return workdir


def make_recipe(**fields: object) -> Config:
    return dataclasses.replace(mobilenet_160(), evaluate=CONFIG.evaluate, **fields)


def read_runs(workdirs: list[Path], split: str = "test") -> list[ComparedRun]:
    return [read_compared_run(workdir, split) for workdir in workdirs]


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.name: row for row in rows}


def value(estimate: Estimate) -> float:
    assert estimate.value is not None
    return estimate.value


def test_runs_are_sorted_with_paired_differences(tmp_path: Path) -> None:
    worse, better = write_run(tmp_path / "worse", 0.6), write_run(tmp_path / "better", 0.95)
    runs = read_runs([worse, better])
    [rows] = compare(runs, "macro_f1", 400).values()
    assert [row.name for row in rows] == ["better", "worse"]
    scores = {}
    for row in rows:
        [run] = row.runs
        y_prob = run.predictions.filter(like="probability_").to_numpy()
        scores[row.name] = reference.f1_score(
            run.predictions["label"],
            np.array(NAMES)[y_prob.argmax(axis=1)],
            average="macro",
        )
        assert value(row.scores["macro_f1"]) == pytest.approx(scores[row.name], abs=1e-6)
        assert row.baseline == "worse"
    difference = rows[0].differences["macro_f1"].estimate
    assert difference.value == pytest.approx(scores["better"] - scores["worse"], abs=1e-6)
    assert difference.low is not None
    assert difference.low > 0
    assert not rows[1].differences  # the baseline
    for name, metric_difference in rows[0].differences.items():
        unpaired = value(rows[0].scores[name]) - value(rows[1].scores[name])
        assert metric_difference.estimate.value == pytest.approx(unpaired, abs=2e-6)
    # For metrics that are better when lower, the lowest value comes first.
    [rows] = compare(runs, "log_loss", 100).values()
    assert [row.name for row in rows] == ["better", "worse"]


def test_other_images_and_leaky_protocols_have_their_own_tables(tmp_path: Path) -> None:
    leaky = Config(data=DataConfig(split_by="image"))
    audit = dataclasses.replace(make_info().audit, num_shared_lesions=3)
    workdirs = [
        write_run(tmp_path / "clean", 0.7),
        write_run(tmp_path / "leaky", 0.9, leaky, audit=audit),
        # Lesions with a single image are in one split even in a split by image.
        write_run(tmp_path / "single", 0.9, leaky),
        write_run(tmp_path / "fewer", 0.8, num_images=90),
        write_run(
            tmp_path / "mixed",
            0.8,
            kind="ensemble",
            members=(make_member("clean", Config()), make_member("leaky", leaky)),
            audit=audit,
        ),
    ]
    tables = compare(read_runs(workdirs), "macro_f1", 100)
    assert [sorted(row.name for row in rows) for rows in tables.values()] == [
        ["clean", "single"],
        ["leaky", "mixed"],
        ["fewer"],
    ]
    rows = by_name([row for table in tables.values() for row in table])
    # The leaky run has the images of the clean run; the run with fewer images does not.
    assert not rows["clean"].differences
    assert not rows["fewer"].differences
    assert value(rows["leaky"].differences["macro_f1"].estimate) == pytest.approx(
        value(rows["leaky"].scores["macro_f1"]) - value(rows["clean"].scores["macro_f1"]),
        abs=2e-6,
    )


def test_synthetic_images_have_their_own_table(tmp_path: Path) -> None:
    workdirs = [
        write_run(tmp_path / "real", 0.7),
        write_run(tmp_path / "rendered", 0.7, datasets=(make_dataset(synthetic=True),)),
    ]
    both = make_dataset(), make_dataset("demo", synthetic=True)
    workdirs.append(write_run(tmp_path / "both", 0.7, datasets=both))
    real, rendered, mixed = compare(read_runs(workdirs), "macro_f1", 100)
    assert real.startswith("split by lesion, 120 images (")
    assert rendered == f"SYNTHETIC images, {real}"
    assert mixed == f"partly SYNTHETIC images, {real}"


@pytest.fixture(scope="module")
def six_runs(tmp_path_factory: pytest.TempPathFactory) -> list[ComparedRun]:
    """Returns runs with three seeds of each of two recipes, a and b."""
    folder = tmp_path_factory.mktemp("seeds")
    workdirs = [
        write_run(
            folder / f"{name}_{seed}",
            accuracy,
            make_recipe(seed=seed, optimizer=OptimizerConfig(learning_rate=rate)),
            seed=seed,
        )
        for name, accuracy, rate in (("a", 0.6, 1e-3), ("b", 0.8, 2e-3))
        for seed in (0, 1, 2)
    ]
    return read_runs(workdirs)


def test_seeds_are_averaged(six_runs: list[ComparedRun]) -> None:
    assert [run.config.seed for run in six_runs] == [0, 1, 2] * 2
    [rows] = compare(six_runs, "macro_f1", 100, average_seeds=True).values()
    assert len(rows) == 8
    named = by_name(rows)
    first = named["mean of a_0 and 2 other seeds"]
    second = named["mean of b_0 and 2 other seeds"]
    for mean, name in ((first, "a"), (second, "b")):
        each = [named[f"{name}_{seed}"].scores["macro_f1"] for seed in (0, 1, 2)]
        expected = np.mean([value(score) for score in each])
        assert value(mean.scores["macro_f1"]) == pytest.approx(expected, abs=1e-6)
        assert mean.scores["macro_f1"].low > min(score.low for score in each)
        assert [run.config.seed for run in mean.runs] == [0, 1, 2]
    assert not first.differences
    # Every row, including that of the first run, is compared with the mean of recipe a.
    for row in (second, named["a_0"], named["b_1"]):
        expected = value(row.scores["macro_f1"]) - value(first.scores["macro_f1"])
        assert value(row.differences["macro_f1"].estimate) == pytest.approx(
            expected, abs=2e-6
        )
    assert {row.baseline for row in rows} == {first.name}
    assert first.command == "skincnn compare runs/a_0 runs/a_1 runs/a_2 --average-seeds"


def test_recipes_are_compared_with_the_variance_between_seeds(
    six_runs: list[ComparedRun],
) -> None:
    [rows] = compare(six_runs, "macro_f1", 100, average_seeds=True).values()
    named = by_name(rows)
    second = named["mean of b_0 and 2 other seeds"]
    # A single seed of several does not stand for the recipe.
    assert [row.name for row in rows if row.recipe_differences] == [second.name]
    of_runs = second.differences["macro_f1"].estimate
    of_recipes = second.recipe_differences["macro_f1"].estimate
    assert of_recipes.value == of_runs.value
    assert 0 < of_recipes.low < of_recipes.value < of_recipes.high
    assert of_recipes != of_runs
    scores = [
        [value(named[f"{name}_{seed}"].scores["macro_f1"]) for seed in (0, 1, 2)]
        for name in "ab"
    ]
    deviation = np.sqrt(np.var(scores, axis=1, ddof=1).mean())
    for row in rows:
        assert row.spread is not None
        assert row.spread.standard_deviation("macro_f1") == pytest.approx(
            deviation, abs=1e-5
        )
        assert (row.spread.num_runs, row.spread.num_recipes) == (6, 2)


def test_seeds_are_averaged_only_on_request(six_runs: list[ComparedRun]) -> None:
    [rows] = compare(six_runs, "macro_f1", 100).values()
    named = by_name(rows)
    assert len(named) == 6
    first, other = named["a_0"], named["b_1"]
    expected = value(other.scores["macro_f1"]) - value(first.scores["macro_f1"])
    assert value(other.differences["macro_f1"].estimate) == pytest.approx(
        expected, abs=2e-6
    )
    assert {row.baseline for row in rows} == {"a_0"}
    assert not any(row.recipe_differences or row.spread for row in rows)
    # Runs that differ by more than their seed have no mean.
    runs = [six_runs[0], six_runs[4]]
    [rows] = compare(runs, "macro_f1", 100, average_seeds=True).values()
    assert len(rows) == 2


def test_a_run_without_a_preset_is_reproduced_from_its_config_file(tmp_path: Path) -> None:
    """Custom training stages have no flag."""
    workdirs = [
        write_run(
            tmp_path / f"my run {seed}",
            0.7,
            make_recipe(
                seed=seed,
                optimizer=OptimizerConfig(weight_decay=decay),
                train=TrainConfig(scenario="staged", stages=STAGES),
            ),
            seed=seed,
        )
        for seed, decay in ((0, 1e-3), (1, 1e-3), (2, 1e-1))
    ]
    runs = read_runs(workdirs)
    for seed, run in enumerate(runs):
        words = shlex.split(run.command)
        assert words[2:] == [
            *("--config", f"runs/my run {seed}/config.json"),
            *("--workdir", f"runs/my run {seed}"),
        ]
    [rows] = compare(runs, "macro_f1", 100, average_seeds=True).values()
    names = {row.name for row in rows}
    assert len(names) == 4
    assert "mean of my run 0 and 1 other seed" in names


def test_runs_of_every_kind_have_a_command_and_folds(tmp_path: Path) -> None:
    config = make_recipe(seed=3, train=TrainConfig(epochs=4))
    folds = cross_validation_configs(config, 2)
    own = make_recipe(train=TrainConfig(scenario="staged", stages=STAGES))
    workdirs = [
        write_run(tmp_path / "one", 0.6, config),
        write_run(
            tmp_path / "crossed",
            0.7,
            kind="cross_validation",
            members=tuple(make_member(f"model_{n}", c) for n, c in enumerate(folds, 1)),
        ),
        write_run(
            tmp_path / "mixed",
            0.8,
            kind="ensemble",
            members=(make_member("one", config), make_member("the other", config)),
        ),
        write_run(
            tmp_path / "own",
            0.7,
            kind="cross_validation",
            members=tuple(
                make_member(f"model_{n}", c)
                for n, c in enumerate(cross_validation_configs(own, 3), 1)
            ),
        ),
    ]
    runs = read_runs(workdirs)
    base = to_command(config)
    assert [run.command for run in runs] == [
        f"{base} --workdir runs/one",
        f"{base} --folds 2 --workdir runs/crossed",
        "skincnn evaluate runs/one 'runs/the other' --ensemble runs/mixed",
        "skincnn train --config runs/own/model_1/config.json --folds 3 --workdir runs/own",
    ]
    assert [run.folds for run in runs] == [
        "0 1 2 3 4 5 6 7 / 8 / 9",
        "1 to 9, out of fold by 2 models",
        "",
        "1 to 9, out of fold by 3 models",
    ]
    assert [run.config for run in runs] == [config, config, None, own]
    for run in runs:
        assert (run.info.training_seconds, run.info.num_parameters) == (60, 1234)
        assert not run.changed
        assert len(run.sha256) == len(run.fingerprint) == 64


def test_calibrated_scores_use_the_validation_table(tmp_path: Path) -> None:
    variants = {"augment": make_tables(0.8)}
    workdirs = [
        write_run(tmp_path / "a", 0.7, variants=variants),
        write_run(tmp_path / "b", 0.9),
    ]
    runs = [*read_runs(workdirs), read_compared_run(workdirs[0], "test", "augment")]
    [rows] = compare(runs, "macro_f1", 100).values()
    named = by_name(rows)
    for run in runs:
        assert run.validation is not None
        y_true, y_prob = arrays(run.validation, NAMES)
        calibration_map = fit_calibration(y_true, y_prob)
        scores, validation_scores = (
            calibration_map.apply(arrays(table, NAMES)[1])[:, 1]
            for table in (run.predictions, run.validation)
        )
        positive = run.predictions["label"] == "mel"
        others = validation_scores[run.validation["label"] != "mel"]
        flagged = scores >= np.quantile(others, 0.9, method="higher")
        expected = {
            "melanoma_auc": reference.roc_auc_score(positive, scores),
            "melanoma_sensitivity": flagged[positive].mean(),
            "melanoma_specificity": 1 - flagged[~positive].mean(),
        }
        for name, score in expected.items():
            assert value(named[run.name].scores[name]) == pytest.approx(score, abs=0.03)
        assert named[run.name].scores["calibrated_log_loss"].value is not None
    for path in workdirs:
        table_path(path, "val").unlink()
    [rows] = compare(read_runs(workdirs), "macro_f1", 100).values()
    for row in rows:
        assert row.scores["melanoma_auc"].value is None
        assert row.scores["macro_f1"].value is not None


def test_a_class_that_the_dataset_declares_as_melanoma_has_the_same_scores(
    tmp_path: Path,
) -> None:
    run = read_compared_run(write_run(tmp_path / "a", 0.7), "test")
    code = "class 7"
    tables = [
        table.replace({"label": {"mel": code}}).rename(
            columns={"probability_mel": f"probability_{code}"}
        )
        for table in (run.predictions, run.validation)
        if table is not None
    ]
    info = run.info.model_copy(
        update={"declared": {code: LesionClass("mel", "Melanom", True)}}
    )
    renamed = dataclasses.replace(
        run, predictions=tables[0], validation=tables[1], info=info
    )
    [[expected]] = compare([run], "macro_f1", 100).values()
    [[row]] = compare([renamed], "macro_f1", 100).values()
    for name in MELANOMA_SCORES:
        assert row.scores[name] == expected.scores[name], name


@pytest.fixture(scope="module")
def with_variants(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Returns an ensemble and its two runs, all with test-time augmentation."""
    folder = tmp_path_factory.mktemp("variants")
    augment = make_tables(0.95, seed=7)
    configs = [make_recipe(seed=seed) for seed in (0, 1)]
    variants = {
        "augment": augment,
        "adjusted": make_tables(0.9, seed=8),
        "augment_adjusted": make_tables(0.85, seed=9),
    }
    members = tuple(map(make_member, ("one", "two"), configs))
    return [
        write_run(
            folder / "mixed",
            0.8,
            kind="ensemble",
            members=members,
            variants={"augment": augment},
        ),
        write_run(folder / "one", 0.6, configs[0], variants=variants),
        write_run(folder / "two", 0.7, configs[1], variants={"augment": augment}),
    ]


EVALUATE = "skincnn evaluate runs/"


def test_variants_have_their_own_commands(with_variants: list[Path]) -> None:
    mixed, one, two = with_variants
    assert variant_names(one, "test") == ["adjusted", "augment", "augment_adjusted"]
    assert variant_names(one, "val") == variant_names(one, "test")
    assert variant_names(one, "fold_3") == []
    commands = {
        (path.name, name): read_compared_run(path, "test", name).command
        for path in (one, mixed)
        for name in ["", *variant_names(path, "test")]
    }
    augment = "--tta augment --num-views 4"
    train = "skincnn train mobilenet_160 --evaluate.num-bootstrap 100"
    assert commands == {
        ("one", ""): f"{train} --workdir runs/one",
        ("one", "augment"): f"{EVALUATE}one {augment}",
        ("one", "adjusted"): f"{EVALUATE}one --logit-adjustment",
        ("one", "augment_adjusted"): f"{EVALUATE}one {augment} --logit-adjustment",
        ("mixed", ""): f"{EVALUATE}one runs/two --ensemble runs/mixed",
        ("mixed", "augment"): f"{EVALUATE}one {augment} && {EVALUATE}two {augment} && "
        f"{EVALUATE}one runs/two --ensemble runs/mixed",
    }
    assert two.name == "two"


def test_the_command_evaluates_another_split(tmp_path: Path) -> None:
    tables = make_tables(0.6)
    tables = {**tables, "test_official": tables["test"]}
    workdir = run_dirs.write_run(tmp_path / "one", tables, config=make_recipe())
    command = read_compared_run(workdir, "test_official").command
    assert command.startswith("skincnn train mobilenet_160 ")
    end = f" --workdir runs/one && {EVALUATE}one --split test_official"
    assert command.endswith(end)


def test_runs_inside_the_directory_of_an_ensemble_have_its_path(tmp_path: Path) -> None:
    tables = {"augment": make_tables(0.95, seed=7)}
    configs = [make_recipe(seed=seed) for seed in (0, 1)]
    names = ("model_1", "model_2")
    members = tuple(map(make_member, names, configs))
    workdir = tmp_path / "my ensemble"
    write_run(workdir, 0.8, kind="ensemble", members=members, variants=tables)
    for name, config in zip(names, configs, strict=True):
        write_run(workdir / name, 0.7, config)
    one, two = ("'runs/my ensemble/model_1'", "'runs/my ensemble/model_2'")
    average = f"{one} {two} --ensemble 'runs/my ensemble'"
    command = read_compared_run(workdir, "test").command
    assert command == f"skincnn evaluate {average}"
    command = read_compared_run(workdir, "test", "augment").command
    assert command == " && ".join(
        f"skincnn evaluate {part}"
        for part in (
            f"{one} --tta augment --num-views 4",
            f"{two} --tta augment --num-views 4",
            average,
        )
    )


def test_seeds_are_averaged_with_the_same_variant(with_variants: list[Path]) -> None:
    runs = [
        read_compared_run(path, "test", name)
        for path in with_variants[1:]
        for name in ["", *variant_names(path, "test")]
    ]
    [rows] = compare(runs, "macro_f1", 100, average_seeds=True).values()
    average = "skincnn compare runs/one runs/two"
    assert {row.name: row.command for row in rows if len(row.runs) > 1} == {
        "mean of one (augment) and 1 other seed": f"{average} --variants --average-seeds",
        "mean of one and 1 other seed": f"{average} --average-seeds",
    }
    # Variants of a run are not recipes.
    assert not any(row.recipe_differences for row in rows)
    on_validation = read_runs(with_variants[1:], "val")
    [rows] = compare(on_validation, "macro_f1", 100, average_seeds=True).values()
    [command] = [row.command for row in rows if len(row.runs) > 1]
    assert command == f"{average} --split val --average-seeds"


def test_an_ensemble_has_no_recipe(with_variants: list[Path]) -> None:
    runs = read_runs(with_variants)
    [rows] = compare(runs, "macro_f1", 100, average_seeds=True).values()
    assert len(rows) == 4
    assert not any(row.recipe_differences for row in rows)


def test_any_variant_of_the_first_run_is_the_baseline(with_variants: list[Path]) -> None:
    runs = [
        read_compared_run(path, "test", name)
        for path in with_variants
        for name in ["", "augment"]
    ]
    ordered = put_baseline_first(runs, "augment")
    assert [run.name for run in ordered[:3]] == ["mixed (augment)", "mixed", "one"]
    assert put_baseline_first(runs, "") == runs
    [rows] = compare(ordered, "macro_f1", 100, average_seeds=True).values()
    named = by_name(rows)
    assert {row.baseline for row in rows} == {"mixed (augment)"}
    assert not named["mixed (augment)"].differences
    expected = value(named["mixed"].scores["accuracy"]) - value(
        named["mixed (augment)"].scores["accuracy"]
    )
    difference = value(named["mixed"].differences["accuracy"].estimate)
    assert difference == pytest.approx(expected, abs=2e-6)
    expected_message = r"first run, mixed \(variants: augment\)\. Received: adjusted\."
    with pytest.raises(ConfigError, match=expected_message):
        put_baseline_first(runs, "adjusted")
    with pytest.raises(
        ConfigError, match=r"\(variants: none\)\. Received: d4\..*--tta augment"
    ):
        put_baseline_first(runs[:1], "d4")


def test_a_changed_table_is_detected(tmp_path: Path) -> None:
    workdir = write_run(tmp_path / "a", 0.7, variants={"d4": make_tables(0.8)})
    for variant in ("", "d4"):
        path = table_path(workdir, f"test.{variant}" if variant else "test")
        assert not read_compared_run(workdir, "test", variant).changed
        path.write_text(path.read_text() + "i120,l60,l60,mel,0,1,0,0.5\n")
        assert read_compared_run(workdir, "test", variant).changed


def test_an_undefined_score_is_none(tmp_path: Path) -> None:
    workdir = write_run(tmp_path / "a", 0.7)
    path = table_path(workdir, "test")
    read_predictions(path).query("label == 'nv'").to_csv(path, index=False)
    [[row]] = compare(read_runs([workdir]), "macro_auc", 100).values()
    assert row.scores["macro_auc"] == Estimate(None, None, None)


@pytest.mark.parametrize("metric", ["macro_auc", "log_loss"])
def test_an_undefined_score_is_the_worst(metric: str) -> None:
    ranks = [METRICS[metric].rank(value) for value in (0.2, 0.7, None)]
    best = [0.7, 0.2, None] if METRICS[metric].higher_is_better else [0.2, 0.7, None]
    values = [0.2, 0.7, None]
    assert [value for _, value in sorted(zip(ranks, values, strict=True))] == best


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sort", "f1"], "`sort` must be one of"),
        (["--split", "other"], "a was not evaluated on other: "),
        (
            ["--num-bootstrap", "0"],
            "`num_bootstrap` must be an integer, 100 or more.",
        ),
        (["nowhere"], "nowhere does not exist. Expected a run directory"),
        (["--baseline", "d4"], "must be a variant of the first run, a (variants: none)."),
    ],
)
def test_invalid_arguments_are_rejected_in_one_line(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = run_here("compare.py", write_run(tmp_path / "a", 0.5), *arguments)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_run_that_is_given_twice_is_rejected(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / "run", 0.7)] * 2)
    with pytest.raises(ConfigError, match=r"run once\. Received several times: run\."):
        compare(runs, "macro_f1", 100)


def test_a_command_without_runs_is_rejected() -> None:
    done = run_here("compare.py")
    assert done.returncode == 2, done.stderr
    assert "error: Expected the directories of evaluated runs" in done.stderr


@pytest.mark.parametrize("name", ["run.json", "results/test.json"])
def test_a_damaged_record_is_rejected_with_its_fix(name: str, tmp_path: Path) -> None:
    """`test_records.py` tests other kinds of damage."""
    workdir = write_run(tmp_path / "a", 0.5)
    (workdir / name).write_text('{"split_by"')
    fix = r"cannot be read: .*(Recreate the directory|Delete the file, then run:).*skincnn "
    with pytest.raises(ConfigError, match=fix) as caught:
        read_compared_run(workdir, "test")
    assert str(caught.value).startswith(str(workdir / name))


def test_comparison_does_not_import_tensorflow() -> None:
    code = "import sys; from skincnn.evaluation import compared_runs, comparison; "
    code += "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_command_compares_runs_and_variants(
    with_variants: list[Path], tmp_path: Path
) -> None:
    flags = ("--num-bootstrap", 100, "--output", tmp_path / "out")
    done = run_here("compare.py", with_variants[1], "--variants", *flags)
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(tmp_path / "out/compare.csv")
    assert frame["run"].tolist() == [
        "one (augment)",
        "one (adjusted)",
        "one (augment_adjusted)",
        "one",
    ]
    assert (tmp_path / "out/compare.md").read_text() in done.stdout
    assert (tmp_path / "out/compare.png").read_bytes().startswith(b"\x89PNG")
    # --baseline implies --variants.
    flags = (*flags, "--baseline", "augment", "--sort", "accuracy")
    done = run_here("compare.py", *with_variants[:2], *flags)
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(tmp_path / "out/compare.csv").set_index("run")
    assert len(frame) == 6
    assert frame["accuracy"].is_monotonic_decreasing
    assert np.isnan(frame.loc["mixed (augment)", "accuracy_difference_value"])
    expected = frame.loc["mixed", "accuracy"] - frame.loc["mixed (augment)", "accuracy"]
    difference = frame.loc["mixed", "accuracy_difference_value"]
    assert difference == pytest.approx(expected, abs=2e-6)
