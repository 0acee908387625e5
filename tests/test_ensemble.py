"""Ensembles of evaluated runs."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import run_here
from run_dirs import (
    CONFIG,
    NAMES,
    Tables,
    make_dataset,
    make_info,
    make_table,
    make_tables,
    write_run,
)
from sklearn import metrics as reference

import skincnn
from skincnn.config import Config, DataConfig, ModelConfig
from skincnn.data.combined import open_datasets
from skincnn.data.leakage import SplitLeakage
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation import results
from skincnn.evaluation.aggregate import (
    MembersResult,
    read_evaluated_runs,
    worst_leakage,
    write_aggregate,
)
from skincnn.evaluation.ensemble import average_ood, combine_runs
from skincnn.evaluation.results import (
    OodResult,
    SplitResult,
    read_result,
    read_split_results,
    result_path,
)
from skincnn.inference.logit_adjustment import adjust_tables
from skincnn.inference.predictions import (
    read_predictions,
    table_path,
    write_predictions,
)
from skincnn.inference.run_dir import Provenance, read_run_info
from skincnn.presets import ENSEMBLES, PRESETS, vary_seed
from skincnn.records import Record, write_record
from skincnn.reporting.load import load_results
from skincnn.reporting.parity_result import read_parity
from skincnn.reporting.text.training_text import describe_training
from skincnn.serving.export_spec import find_runs
from skincnn.serving.predictor import load_predictor
from skincnn.training import run

PROBABILITIES = [f"probability_{name}" for name in NAMES]


def make_ood(seed: int, name: str = "noise", num_images: int = 20) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "set": name,
            "image_id": [f"{name} {n}" for n in range(num_images)],
            **dict(zip(PROBABILITIES, rng.dirichlet([1, 1, 1], num_images).T, strict=True)),
            "energy": 0.0,
            "distance": rng.gamma(16, 0.25, num_images),
        }
    )


def write_members(folder: Path, **variants: list[Tables]) -> list[Path]:
    """Writes three runs on the same images, whose predictions and row orders differ."""
    workdirs = []
    for seed, name in enumerate("abc"):
        workdir = write_run(
            folder / name,
            make_tables(0.6, seed=seed),
            {variant: tables[seed] for variant, tables in variants.items()},
            config=dataclasses.replace(CONFIG, seed=seed),
        )
        write_predictions(workdir, {"ood": make_ood(seed)})
        workdirs.append(workdir)
    return workdirs


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a directory with three runs and their ensemble."""
    folder = tmp_path_factory.mktemp("written")
    workdirs = write_members(
        folder,
        d4=[make_tables(0.7, seed=seed) for seed in (3, 4, 5)],
        adjusted=[make_tables(0.8, seed=seed) for seed in (6, 7, 8)],
    )
    write_aggregate(folder / "abc", combine_runs(workdirs))
    return folder


@pytest.fixture
def workdirs(written: Path, tmp_path: Path) -> list[Path]:
    return [Path(shutil.copytree(written / name, tmp_path / name)) for name in "abc"]


@pytest.fixture
def ensemble(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written / "abc", tmp_path / "abc"))


def accuracy_of(table: pd.DataFrame) -> float:
    y_pred = np.array(NAMES)[table[PROBABILITIES].to_numpy().argmax(axis=1)]
    return float(np.mean(y_pred == table["label"]))


@pytest.mark.parametrize("name", ["val", "test", "test.d4", "test.adjusted"])
def test_the_predictions_are_the_means_of_those_of_the_runs(
    name: str, workdirs: list[Path], ensemble: Path
) -> None:
    mean = read_predictions(table_path(ensemble, name)).set_index("image_id")
    tables = [
        read_predictions(table_path(workdir, name)).set_index("image_id")
        for workdir in workdirs
    ]
    assert not tables[0].index.equals(tables[1].index)
    for column in ("distance", *PROBABILITIES):
        expected = sum(table[column] for table in tables) / 3
        np.testing.assert_allclose(mean[column], expected[mean.index], rtol=1e-9)
    result = read_result(ensemble, name, SplitResult)
    y_pred = np.array(NAMES)[mean[PROBABILITIES].to_numpy().argmax(axis=1)]
    expected = reference.balanced_accuracy_score(mean["label"], y_pred)
    balanced = result.metrics["balanced_accuracy"].value
    assert balanced == pytest.approx(expected, abs=1e-6)


def test_each_model_is_compared_with_the_ensemble(
    workdirs: list[Path], ensemble: Path
) -> None:
    result = read_result(ensemble, "members", MembersResult)
    assert result.split == "test"
    assert [member.name for member in result.members] == ["a", "b", "c"]
    accuracy = accuracy_of(read_predictions(table_path(ensemble, "test")))
    for member, workdir in zip(result.members, workdirs, strict=True):
        alone = accuracy_of(read_predictions(table_path(workdir, "test")))
        assert member.metrics["accuracy"].value == pytest.approx(alone, abs=1e-6)
        difference = member.differences["accuracy"]
        assert difference.value == pytest.approx(accuracy - alone, abs=2e-6)
        assert difference.low <= difference.value <= difference.high


def test_the_cost_is_that_of_all_models(ensemble: Path) -> None:
    results = read_split_results(ensemble)
    as_is, d4 = results["test"].cost, results["test.d4"].cost
    assert (as_is.num_views, d4.num_views) == (1, 4)
    assert as_is.seconds_per_image == pytest.approx(3 * 0.01)
    assert d4.seconds_per_image == pytest.approx(3 * 0.04)


def test_the_ensemble_has_the_variants_and_splits_of_all_runs(
    workdirs: list[Path], tmp_path: Path
) -> None:
    for name in ("val.adjusted", "test.adjusted"):
        result_path(workdirs[1], name).unlink()
    result_path(workdirs[2], "val.d4").unlink()
    for workdir in workdirs[:2]:
        extra = make_table("fold_3", 0.7)
        write_predictions(workdir, {"fold_3": extra})
        result = read_result(workdir, "test", SplitResult)
        record = result.model_copy(update={"split": "fold_3", "stored_in": "fold 3"})
        write_record(result_path(workdir, "fold_3"), record)
    assert set(combine_runs(workdirs).predictions) == {"val", "test", "ood"}
    two = combine_runs(workdirs[:2])
    names = {"val", "test", "fold_3", "val.d4", "test.d4", "ood"}
    assert set(two.predictions) == names
    assert set(two.results) == {*names, "fold_3.ood", "members"}
    fold = two.results["fold_3"]
    assert isinstance(fold, SplitResult)
    assert fold.stored_in == "fold 3"


def test_out_of_distribution_images_are_those_of_all_runs(
    workdirs: list[Path], ensemble: Path
) -> None:
    tables = [pd.read_csv(table_path(workdir, "ood")) for workdir in workdirs]
    mean = pd.read_csv(table_path(ensemble, "ood"))
    expected = np.mean([table["distance"] for table in tables], axis=0)
    np.testing.assert_allclose(mean["distance"], expected, rtol=1e-9)
    result = read_result(ensemble, "ood", OodResult)
    assert [(part.name, part.num_images) for part in result.sets] == [("noise", 20)]
    assert set(result.splits) == {"test"}
    # The user's folders are averaged over their common images.
    write_predictions(workdirs[0], {"ood.cats": make_ood(0, "cats")})
    write_predictions(workdirs[1], {"ood.cats": make_ood(1, "cats", 12).iloc[::-1]})
    runs = read_evaluated_runs(workdirs)
    assert list(average_ood(runs)) == ["ood"]
    cats = average_ood(runs[:2])["ood.cats"]
    assert len(cats) == 12
    expected = (
        make_ood(0, "cats")[:12]["distance"] + make_ood(1, "cats", 12)["distance"]
    ) / 2
    np.testing.assert_allclose(cats["distance"], expected, rtol=1e-9)
    # An empty file counts as missing.
    table_path(workdirs[2], "ood").write_text("")
    assert average_ood([runs[0], runs[2]]) == {}
    table_path(workdirs[2], "ood").unlink()
    assert average_ood([runs[0], runs[2]]) == {}


@pytest.mark.parametrize(
    "column", ["set", "image_id", "energy", "distance", "probability_mel"]
)
def test_a_table_of_ood_images_without_a_column_is_rejected(
    column: str, workdirs: list[Path]
) -> None:
    path = table_path(workdirs[1], "ood")
    pd.read_csv(path).drop(columns=column).to_csv(path, index=False)
    with pytest.raises(DataError, match=rf"ood\.csv: columns are missing: {column}\."):
        combine_runs(workdirs)


def test_an_unreadable_table_of_ood_images_is_rejected(workdirs: list[Path]) -> None:
    path = table_path(workdirs[1], "ood")
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=r"ood\.csv cannot be read.*skincnn evaluate"):
        combine_runs(workdirs)


def test_the_run_file_describes_all_models(workdirs: list[Path], tmp_path: Path) -> None:
    info = make_info()
    audit = dataclasses.replace(
        info.audit,
        num_images={"train": 7777, "val": 1, "test": 1},
        share_test_images=0.25,
        share_test_melanomas=0.5,
    )
    provenance = Provenance(code="fedcba9", processor="GPU host", cores=1, gpus=("H100",))
    other = make_info(
        audit=audit,
        provenance=provenance,
        datasets=(make_dataset("demo", synthetic=True),),
        num_parameters=66,
        best_epoch=9,
    )
    config = dataclasses.replace(
        CONFIG,
        model=ModelConfig(backbone="small_cnn"),
        data=DataConfig(split_by="image"),
    )
    write_run(tmp_path / "d", make_tables(0.7), config=config, info=other)
    write_aggregate(tmp_path / "ad", combine_runs([workdirs[0], tmp_path / "d"]))
    combined = read_run_info(tmp_path / "ad")
    assert combined.kind == "ensemble"
    assert combined.device == info.device
    assert combined.provenance is combined.best_epoch is None
    assert combined.partly_synthetic
    assert combined.num_parameters == 1234 + 66
    assert combined.training_seconds == 2 * 60.0
    assert combined.audit.num_images == {"train": 7777, "val": 100, "test": 100}
    assert combined.audit.share_test_images == 0.25
    assert combined.audit.share_test_melanomas == 0.5
    members = combined.members
    assert [member.name for member in members] == ["a", "d"]
    assert [member.best_epoch for member in members] == [3, 9]
    assert members[1].config == config
    assert members[1].audit == audit
    # A value that all runs share is kept.
    write_aggregate(tmp_path / "ab", combine_runs(workdirs[:2]))
    assert read_run_info(tmp_path / "ab").provenance == info.provenance


def test_the_largest_leakage_of_the_runs_is_kept(workdirs: list[Path]) -> None:
    for workdir, counts in zip(
        workdirs, [(1, 5, None, 0, 2), (3, 4, None, 0, 9)], strict=False
    ):
        result = read_result(workdir, "test", SplitResult)
        leaky = result.model_copy(update={"leakage": SplitLeakage(*counts)})
        write_record(result_path(workdir, "test"), leaky)
    runs = read_evaluated_runs(workdirs)
    assert worst_leakage(runs) == {"test": SplitLeakage(3, 5, None, 0, 9)}
    assert worst_leakage(runs[2:]) == {}
    combined = combine_runs(workdirs).results["test"]
    assert isinstance(combined, SplitResult)
    assert combined.leakage == SplitLeakage(3, 5, None, 0, 9)


def test_each_model_is_adjusted_by_its_own_strength(tmp_path: Path) -> None:
    tables = [make_tables(0.6, seed=seed) for seed in range(3)]
    counts = {"bkl": 100, "mel": 50, "nv": 650}
    adjusted = [
        adjust_tables(
            {split: table.assign(energy=0.0) for split, table in run.items()},
            NAMES,
            counts,
        )[0]
        for run in tables
    ]
    aggregate = combine_runs(write_members(tmp_path, adjusted=adjusted)[:2])
    result = aggregate.results["test.adjusted"]
    assert isinstance(result, SplitResult)
    assert (result.variant, result.logit_adjustment) == ("adjusted", None)
    assert result.triage is not None


def test_triage_uses_the_mean_predictions(ensemble: Path) -> None:
    result = read_result(ensemble, "test", SplitResult)
    tables = {
        split: read_predictions(table_path(ensemble, split)) for split in ("val", "test")
    }
    triage = result.triage
    assert triage is not None
    assert triage.max_distance == pytest.approx(
        np.quantile(tables["val"]["distance"], 0.95), abs=1e-12
    )
    y_prob = tables["test"][PROBABILITIES].to_numpy()
    melanoma = result.calibration_map.apply(y_prob)[:, NAMES.index("mel")]
    far = tables["test"]["distance"] > triage.max_distance
    referred = np.mean((melanoma >= triage.threshold) | far)
    assert triage.referred.value == pytest.approx(referred, abs=1e-6)
    assert 0 < far.mean() < referred


def test_files_of_an_earlier_ensemble_are_removed(
    workdirs: list[Path], ensemble: Path
) -> None:
    for name in ("report.html", "README.md"):
        (ensemble / name).write_text("of the earlier ensemble")
    (ensemble / "figures").mkdir()
    (ensemble / "figures/roc_test.png").write_text("of the earlier ensemble")
    (ensemble / "notes.txt").write_text("the user's")
    write_record(
        result_path(ensemble, "export.litert"), read_result(ensemble, "ood", OodResult)
    )
    for workdir in workdirs[:2]:
        result_path(workdir, "test.d4").unlink()
        table_path(workdir, "ood").unlink()
    write_aggregate(ensemble, combine_runs(workdirs[:2]))
    files = {str(path.relative_to(ensemble)) for path in ensemble.rglob("*.*")}
    names = {"val", "test", "val.adjusted", "test.adjusted"}
    assert files == {
        "notes.txt",
        "run.json",
        "results/members.json",
        *(f"predictions/{name}.csv" for name in names),
        *(f"results/{name}.json" for name in names),
    }
    assert len(read_run_info(ensemble).members) == 2


def test_an_interrupted_ensemble_is_written_again(
    workdirs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble, combined = tmp_path / "abc", combine_runs(workdirs)

    def interrupt(path: Path, record: Record) -> None:
        if path.stem == "val":
            raise KeyboardInterrupt
        write_record(path, record)

    with monkeypatch.context() as patch:
        patch.setattr(results, "write_record", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_aggregate(ensemble, combined)
    with pytest.raises(ConfigError, match=r"was not evaluated: .*val\.json is missing"):
        load_results(ensemble)
    write_aggregate(ensemble, combined)
    assert load_results(ensemble).members is not None


@pytest.mark.parametrize("kind", ["run", "readme"])
def test_no_other_directory_is_overwritten(
    kind: str, workdirs: list[Path], tmp_path: Path
) -> None:
    aggregate = combine_runs(workdirs[:2])
    target = workdirs[2]
    if kind == "readme":
        target = tmp_path / "project"
        (target / "predictions").mkdir(parents=True)
        (target / "README.md").write_text("# My project")
    before = {path: path.read_bytes() for path in target.rglob("*.*")}
    with pytest.raises(ConfigError, match=f"{target.name} contains .*new directory"):
        write_aggregate(target, aggregate)
    assert {path: path.read_bytes() for path in target.rglob("*.*")} == before


def test_runs_with_different_numbers_of_views_are_rejected(
    workdirs: list[Path], tmp_path: Path
) -> None:
    tables = make_tables(0.7)
    write_run(tmp_path / "d", tables, {"d4": tables}, num_views=8)
    with pytest.raises(ConfigError, match=r"\(d4\): 4, 8\. .*same --num-views"):
        combine_runs([workdirs[0], tmp_path / "d"])


def test_runs_with_different_columns_are_rejected(workdirs: list[Path]) -> None:
    path = table_path(workdirs[0], "test")
    pd.read_csv(path).assign(energy=0.0).to_csv(path, index=False)
    with pytest.raises(ConfigError, match=r"b differs from the first run in .* columns"):
        combine_runs(workdirs)


def test_the_command_writes_an_ensemble(workdirs: list[Path], tmp_path: Path) -> None:
    done = run_here("evaluate.py", *workdirs, "--ensemble", tmp_path / "abc")
    assert done.returncode == 0, done.stderr
    expected = combine_runs(workdirs)
    assert read_run_info(tmp_path / "abc") == expected.info
    for name, result in expected.results.items():
        assert read_result(tmp_path / "abc", name, type(result)) == result


def test_invalid_ensembles_are_rejected(workdirs: list[Path], tmp_path: Path) -> None:
    path = table_path(workdirs[1], "test")
    pd.read_csv(path).iloc[1:].to_csv(path, index=False)
    shutil.copytree(workdirs[0], tmp_path / "untested")
    result_path(tmp_path / "untested", "test").unlink()
    target = tmp_path / "e"
    for arguments, message in (
        ([workdirs[0], "--ensemble", target], "two or more different runs. Received: a."),
        ([workdirs[0]] * 2 + ["--ensemble", target], "two or more different runs"),
        ([*workdirs[:2], "--ensemble", target], "differs from the first run in the images"),
        ([workdirs[0], workdirs[2], "--ensemble", workdirs[1]], "contains a run"),
        (
            [*workdirs, "--ensemble", target, "--tta", "augment"],
            "--tta cannot be used with --ensemble, which averages",
        ),
        (
            [*workdirs, "--ensemble", target, "--corruptions", "--external", "isic2019"],
            "--corruptions, --external cannot be used with --ensemble: ensembles have no",
        ),
        (
            [workdirs[0], tmp_path / "no", "--ensemble", target],
            "no does not exist. Expected a run directory",
        ),
        ([workdirs[0], tmp_path / "untested", "--ensemble", target], "was not evaluated"),
        ([], "Expected the directory of a run"),
    ):
        done = run_here("evaluate.py", *arguments)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    assert not target.exists()


def test_the_models_of_an_ensemble_preset_are_changes_of_its_first_model() -> None:
    for name, vary in ENSEMBLES.items():
        config = dataclasses.replace(PRESETS[f"{name}_member"](), seed=7)
        first, *others = vary(config)
        assert first == config
        assert len({str(member) for member in (first, *others)}) == 1 + len(others)
        assert {member.seed for member in others} == {7}
        # A cross-validation or other seeds would be a different protocol.
        assert {member.data.test_folds for member in others} == {config.data.test_folds}
    seeds = [member.seed for member in vary_seed(config, 3)]
    assert seeds == [7, 8, 9]
    assert dataclasses.replace(vary_seed(config, 3)[2], seed=7) == config


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("ensemble5 --folds 2", "Use one of --folds, --ensemble and"),
        ("quickstart --ensemble 2 --folds 2", "Use one of --folds, --ensemble and"),
        ("quickstart --ensemble 1", "must be 2 or more. Received: 1"),
        ("ensemble6", "Did you mean"),
    ],
)
def test_impossible_ensembles_are_rejected(
    flags: str, message: str, tmp_path: Path
) -> None:
    done = run_here("train.py", *flags.split(), "--workdir", tmp_path / "e")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "e").exists()


FLAGS = (
    "--data.datasets demo_tiny --data.image-size 32 --model.backbone small_cnn "
    "--model.width-multiplier 0.25 --train.epochs 1 --evaluate.num-bootstrap 100 "
    "--ensemble 2 --model.batch-norm-momentum 0.5"
).split()


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_one_command_trains_and_exports_an_ensemble(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is interrupted before the second model, and resumed."""
    workdir = tmp_path / "two"
    train, started = run.train, []

    def interrupt(config: Config, folder: Path, *args: Any, **flags: Any) -> None:
        started.append(config.seed)
        if len(started) == 2:
            raise KeyboardInterrupt
        train(config, folder, *args, **flags)

    monkeypatch.setattr(run, "train", interrupt)
    command = ("train.py", "--workdir", workdir, "--data-dir", data_dir, *FLAGS)
    assert run_here(*command).returncode == 130
    model = workdir / "model_1/model.keras"
    written = model.stat().st_mtime_ns
    done = run_here(*command, "--resume")
    assert done.returncode == 0, done.stderr
    assert started == [0, 1, 0, 1]
    assert model.stat().st_mtime_ns == written
    assert [x.config.seed for x in read_run_info(workdir).members] == [0, 1]
    # The export refers the same share of images as the evaluation of the ensemble.
    assert f"model   {workdir}/export/skincnn/1" in done.stdout
    (parity,) = read_parity(workdir)
    assert parity.largest_difference < 1e-5
    assert parity.same_refer == 1
    predictor = load_predictor(workdir)
    table = read_predictions(table_path(workdir, "test"))
    dataset = open_datasets(["demo_tiny"], data_dir)
    contents = dataset.read_files(table)
    outputs = predictor.predict(contents, pd.DataFrame())
    expected = read_result(workdir, "test", SplitResult)
    assert expected.triage is not None
    referred = expected.triage.referred.value
    assert outputs["refer"].mean() == pytest.approx(referred, abs=1e-6)
    assert read_result(workdir, "test.adjusted", SplitResult).variant == "adjusted"
    # export.py finds the runs in the directory of the ensemble.
    assert find_runs(workdir) == (workdir / "model_1", workdir / "model_2")
    assert find_runs(workdir / "model_1") == ()
    shutil.rmtree(workdir / "model_2")
    with pytest.raises(ConfigError, match="directories of its runs model_2"):
        find_runs(workdir)


def test_members_in_directories_of_the_same_name_are_distinguished(tmp_path: Path) -> None:
    tables = make_tables(0.7)
    runs = [
        write_run(
            tmp_path / name / "run", tables, config=dataclasses.replace(CONFIG, seed=seed)
        )
        for seed, name in enumerate("ab")
    ]
    workdir = tmp_path / "ab"
    write_aggregate(workdir, combine_runs(runs))
    assert [member.name for member in skincnn.load(workdir).info.members] == [
        "a/run",
        "b/run",
    ]
    results = load_results(workdir)
    assert results.members is not None
    assert [member.name for member in results.members.members] == ["a/run", "b/run"]
    assert "(a/run, b/run)" in describe_training(results)
    compared = skincnn.compare([*runs, workdir], num_bootstrap=100)
    frame = compared.to_frame()
    assert sorted(frame["run"]) == ["a/run", "ab", "b/run"]
    [command] = frame.loc[frame["run"] == "ab", "command"]
    assert command == "skincnn evaluate runs/a/run runs/b/run --ensemble runs/ab"
