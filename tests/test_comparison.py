from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import run_here, run_script
from scipy.special import softmax
from sklearn import metrics as reference

from skincnn.config import Config, OptimizerConfig, StageConfig, TrainConfig
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.comparison import compare, read_run, variant_names
from skincnn.evaluation.cross_validation import cross_validation_configs
from skincnn.files import sha256
from skincnn.inference.predictions import read_predictions
from skincnn.presets import to_command
from skincnn.presets.ours import mobilenet_160
from skincnn.reporting.comparison_tables import plot_comparison, to_frame, to_markdown
from skincnn.reporting.plots import to_png

NAMES = ["bkl", "mel", "nv"]


def write_run(
    folder: Path, right: float, *, split_by: str = "lesion", seed: int = 0, num: int = 120
) -> Path:
    """A run's folder whose predictions are right in this share of the pictures."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 3
    (folder / "predictions").mkdir(parents=True)
    for split in ("test", "val"):
        logits = rng.normal(0, 1, (num, 3))
        logits[np.arange(num), labels] += np.where(rng.random(num) < right, 4, -4)
        y_prob = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        table = pd.DataFrame(
            {
                "image_id": [f"{split}{n}" for n in range(num)],
                "lesion_id": [f"l{n // 2}" for n in range(num)],
                "label": np.array(NAMES)[labels],
                **{f"probability_{name}": y_prob[:, i] for i, name in enumerate(NAMES)},
            }
        )
        # The order of the rows is no difference.
        table.sample(frac=1, random_state=seed).to_csv(
            folder / f"predictions/{split}.csv", index=False
        )
    report = {"split_by": split_by, "training_seconds": 90.0, "num_parameters": 1234}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_runs_are_ranked_with_paired_differences(tmp_path: Path) -> None:
    worse = write_run(tmp_path / "worse", 0.6)
    better = write_run(tmp_path / "better", 0.95)
    runs = [read_run(path, "test") for path in (worse, better)]
    [rows] = compare(runs, "macro_f1", 400).values()
    assert [row.name for row in rows] == ["better", "worse"]
    scores = {}
    for row in rows:
        predicted = (
            row.runs[0].predictions.filter(like="probability_").to_numpy().argmax(axis=1)
        )
        scores[row.name] = reference.f1_score(
            row.runs[0].predictions["label"], np.array(NAMES)[predicted], average="macro"
        )
        assert row.scores["macro_f1"].value == pytest.approx(scores[row.name], abs=1e-6)
    difference = rows[0].differences["macro_f1"]
    assert difference.value == pytest.approx(scores["better"] - scores["worse"], abs=1e-6)
    assert difference.low is not None
    assert difference.low > 0
    assert not rows[1].differences  # the first that was named
    for name, gained in rows[0].differences.items():
        plain = rows[0].scores[name].value - rows[1].scores[name].value
        assert gained.value == pytest.approx(plain, abs=2e-6)
    # Of what is better when lower, the lowest stands on top.
    [rows] = compare(runs, "log_loss", 100).values()
    assert [row.name for row in rows] == ["better", "worse"]


def test_other_pictures_and_a_leaky_protocol_are_ranked_apart(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "honest", 0.7),
        write_run(tmp_path / "leaky", 0.9, split_by="image"),
        write_run(tmp_path / "fewer", 0.8, num=90),
    ]
    tables = compare([read_run(path, "test") for path in folders], "macro_f1", 100)
    assert [[row.name for row in rows] for rows in tables.values()] == [
        ["honest"],
        ["leaky"],
        ["fewer"],
    ]
    frame = to_frame(tables).set_index("run")
    assert frame["protocol"].nunique() == 3
    # Of the same pictures, what the leak is worth; of others, nothing.
    differences = frame["macro_f1_difference_value"]
    assert differences.isna().tolist() == [True, False, True]
    assert differences["leaky"] == pytest.approx(
        frame["macro_f1"]["leaky"] - frame["macro_f1"]["honest"], abs=2e-6
    )


def configure(folder: Path, config: Config) -> Path:
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder


def test_seeds_are_averaged_and_told_from_seeds(tmp_path: Path) -> None:
    folders = [
        configure(
            write_run(tmp_path / f"{name}_{seed}", right, seed=seed),
            dataclasses.replace(
                mobilenet_160(), seed=seed, optimizer=OptimizerConfig(learning_rate=rate)
            ),
        )
        for name, right, rate in (("a", 0.6, 1e-3), ("b", 0.8, 2e-3))
        for seed in (0, 1, 2)
    ]
    runs = [read_run(path, "test") for path in folders]
    assert [run.seed for run in runs] == [0, 1, 2] * 2
    [rows] = compare(runs, "macro_f1", 100, average_seeds=True).values()
    frame = to_frame({"": rows}).set_index("run")
    assert len(frame) == 8
    first = frame.loc["mean of a_0 and 2 other seeds"]
    second = frame.loc["mean of b_0 and 2 other seeds"]
    for mean, name in ((first, "a"), (second, "b")):
        each = frame.loc[[f"{name}_{seed}" for seed in (0, 1, 2)]]
        assert mean["macro_f1"] == pytest.approx(each["macro_f1"].mean(), abs=1e-6)
        assert mean["macro_f1_low"] > each["macro_f1_low"].min()
        assert mean["seed"] == "0 1 2"
    assert np.isnan(first["macro_f1_difference_value"])
    assert second["macro_f1_difference_value"] == pytest.approx(
        second["macro_f1"] - first["macro_f1"], abs=2e-6
    )
    # A single run, the first one too, is told from the mean of the first run's seeds.
    for name in ("a_0", "b_1"):
        assert frame["macro_f1_difference_value"][name] == pytest.approx(
            frame["macro_f1"][name] - first["macro_f1"], abs=2e-6
        )
    assert (frame["against"] == "mean of a_0 and 2 other seeds").all()
    text = to_markdown({"": rows})
    assert "Less mean of a_0 and 2 other seeds, paired:" in text
    assert first["command"] == (
        "python scripts/compare.py runs/a_0 runs/a_1 runs/a_2 --average-seeds"
    )
    assert f"| 0 1 2 | {runs[0].folds} |  | `{first['command']}` |" in text
    # Recipes are told apart where their seeds leave room: those of one are not rows.
    assert (
        "Less mean of a_0 and 2 other seeds, as recipes: other seeds are counted in, by "
        "what they do to 6 runs of 2 recipes; bold where that leaves out 0:" in text
    )
    wider = frame.filter(regex="^macro_f1_recipe").dropna()
    assert wider.index.tolist() == ["mean of b_0 and 2 other seeds"]
    assert second["macro_f1_recipe_difference_low"] < second["macro_f1_difference_low"]
    assert second["macro_f1_recipe_difference_high"] > second["macro_f1_difference_high"]
    assert second["macro_f1_recipe_difference_low"] > 0
    assert f"| **+{second['macro_f1_difference_value']:.3f} [" in text
    within = frame["macro_f1"][[f"{name}_{seed}" for name in "ab" for seed in (0, 1, 2)]]
    deviation = np.sqrt(within.to_numpy().reshape(2, 3).var(axis=1, ddof=1).mean())
    assert f"| standard deviation of a seed | {deviation:.4f} |" in text
    [rows] = compare(runs, "macro_f1", 100).values()
    frame = to_frame({"": rows}).set_index("run")
    assert frame["macro_f1_difference_value"]["b_1"] == pytest.approx(
        frame["macro_f1"]["b_1"] - frame["macro_f1"]["a_0"], abs=2e-6
    )
    assert (frame["against"] == "a_0").all()
    assert "as recipes" not in to_markdown({"": rows})
    # Runs that differ by more than their seed have no mean.
    [rows] = compare([runs[0], runs[4]], "macro_f1", 100, average_seeds=True).values()
    assert len(rows) == 2


def test_the_chart_has_room_for_the_mean_of_many_seeds(tmp_path: Path) -> None:
    runs = [
        read_run(
            configure(
                write_run(tmp_path / f"cpu_seed_{seed}", 0.7, seed=seed),
                dataclasses.replace(mobilenet_160(), seed=seed),
            ),
            "test",
        )
        for seed in range(8)
    ]
    figure = plot_comparison(compare(runs, "macro_f1", 100, average_seeds=True), "macro_f1")
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().width > 0.5


def test_stages_of_one_s_own_are_told_by_their_file(tmp_path: Path) -> None:
    """No flag gives them; runs that differ by more than the seed have no mean."""
    stages = (StageConfig(trainable_blocks=-1, epochs=1, rate=0.5),)
    folders = [
        configure(
            write_run(tmp_path / f"my run {seed}", 0.7, seed=seed),
            dataclasses.replace(
                mobilenet_160(),
                seed=seed,
                optimizer=OptimizerConfig(weight_decay=decay),
                train=TrainConfig(scenario="staged", stages=stages),
            ),
        )
        for seed, decay in ((0, 1e-3), (1, 1e-3), (2, 1e-1))
    ]
    runs = [read_run(path, "test") for path in folders]
    for seed, run in enumerate(runs):
        words = shlex.split(run.command)
        assert words[3] == f"runs/my run {seed}/config.json"
        assert words[4:] == ["--workdir", f"runs/my run {seed}"]
    [rows] = compare(runs, "macro_f1", 100, average_seeds=True).values()
    names = {row.name for row in rows}
    assert len(names) == 4
    assert "mean of my run 0 and 1 other seed" in names


def test_the_table_says_how_each_was_made(tmp_path: Path) -> None:
    config = dataclasses.replace(mobilenet_160(), seed=3, train=TrainConfig(epochs=4))
    run = configure(write_run(tmp_path / "one", 0.6), config)
    crossed = write_run(tmp_path / "crossed", 0.7)
    for number, part in enumerate(cross_validation_configs(config, 2), 1):
        (crossed / f"model_{number}").mkdir()
        configure(crossed / f"model_{number}", part)
    mixed = write_run(tmp_path / "mixed", 0.8)
    for folder, names in ((crossed, ["model_1", "model_2"]), (mixed, ["one", "two"])):
        report = json.loads((folder / "report.json").read_text())
        report["models"] = [{"name": name} for name in names]
        (folder / "report.json").write_text(json.dumps(report))
    runs = [read_run(path, "test") for path in (run, crossed, mixed)]
    base = f"{to_command(config)}"
    assert [found.command for found in runs] == [
        f"{base} --workdir runs/one",
        f"{base} --folds 2 --workdir runs/crossed",
        "python scripts/evaluate.py runs/one runs/two --ensemble runs/mixed",
    ]
    assert [found.folds for found in runs] == [
        "0 1 2 3 4 5 6 7 / 8 / 9",
        "all, out of fold by 2 models",
        "",
    ]
    text = to_markdown(compare(runs, "macro_f1", 100))
    for found in runs:
        assert f"`{found.command}`" in text
        assert f"| {found.name} | {found.sha256[:8]} |" in text


def test_who_trained_stands_beside_the_command(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, 0.7) for name in ("told", "untold")]
    configure(folders[0], mobilenet_160())
    report = json.loads((folders[0] / "report.json").read_text())
    found = {"code": "0123abc", "processor": "Some CPU", "cores": 2, "gpus": []}
    (folders[0] / "report.json").write_text(json.dumps({**report, "provenance": found}))
    tables = compare([read_run(path, "test") for path in folders], "macro_f1", 100)
    said = "0123abc, 2 cores of Some CPU"
    frame = to_frame(tables).set_index("run")
    assert frame["trained_by"].to_dict() == {"told": said, "untold": ""}
    assert f"| {said} | `python" in to_markdown(tables)
    # Of a mean, each that trained a part of it.
    configure(folders[1], dataclasses.replace(mobilenet_160(), seed=1))
    runs = [read_run(path, "test") for path in folders]
    [rows] = compare(runs, "macro_f1", 100, average_seeds=True).values()
    [mean] = [row for row in rows if len(row.runs) > 1]
    assert f"| {said}; not known | `{mean.command}` |" in to_markdown({"": rows})


def add_variant(run: Path, name: str, right: float, num_views: int) -> None:
    """Has a run answer in another way as well."""
    other = write_run(run.parent / f"{run.name}-{name}", right)
    table = run / f"predictions/test_{name}.csv"
    (other / "predictions/test.csv").rename(table)
    (other / "predictions/val.csv").rename(run / f"predictions/val_{name}.csv")
    report = json.loads((run / "report.json").read_text())
    found = {"name": name, "num_views": num_views, "sha256": {"test": sha256(table)}}
    report.setdefault("variants", []).append(found)
    (run / "report.json").write_text(json.dumps(report))


def test_what_needs_calibration_has_a_table_of_its_own(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / n, right) for n, right in (("a", 0.7), ("b", 0.9))]
    add_variant(folders[0], "augment", 0.8, 4)
    runs = [read_run(path, "test") for path in folders]
    runs.append(read_run(folders[0], "test", "augment"))
    tables = compare(runs, "macro_f1", 100)
    frame = to_frame(tables).set_index("run")
    columns = [f"probability_{name}" for name in NAMES]
    for run in runs:
        losses = {
            t: reference.log_loss(
                run.validation["label"],
                softmax(np.log(run.validation[columns]) / t, axis=1),
            )
            for t in np.geomspace(0.5, 5, 200)
        }
        temperature = min(losses, key=losses.get)
        scores, of_validation = (
            softmax(np.log(table[columns].to_numpy()) / temperature, axis=1)[:, 1]
            for table in (run.predictions, run.validation)
        )
        positive = run.predictions["label"] == "mel"
        others = of_validation[run.validation["label"] != "mel"]
        called = scores >= np.quantile(others, 0.9, method="higher")
        expected = {
            "melanoma_auc": reference.roc_auc_score(positive, scores),
            "melanoma_sensitivity": called[positive].mean(),
            "melanoma_specificity": 1 - called[~positive].mean(),
        }
        for name, value in expected.items():
            assert frame[name][run.name] == pytest.approx(value, abs=0.03), name
    text = to_markdown(tables)
    names = ("AUC", "sensitivity", "specificity")
    header = (
        f"| run | {' | '.join(f'melanoma {name}' for name in names)} | calibrated ECE |"
    )
    assert text.count(f"{header}\n") == 2
    assert "the threshold that gave 90 % specificity there:\n\n| run | melanoma AUC" in text
    # Without its table of validation nothing is calibrated.
    for path in folders:
        (path / "predictions/val.csv").unlink()
    tables = compare([read_run(path, "test") for path in folders], "macro_f1", 100)
    assert to_frame(tables)["melanoma_auc"].isna().all()
    assert "melanoma AUC" not in to_markdown(tables)


def test_other_ways_to_predict_get_a_row_and_a_command(tmp_path: Path) -> None:
    one = configure(write_run(tmp_path / "one", 0.6), mobilenet_160())
    two = configure(
        write_run(tmp_path / "two", 0.7), dataclasses.replace(mobilenet_160(), seed=1)
    )
    mixed = write_run(tmp_path / "mixed", 0.8)
    report = json.loads((mixed / "report.json").read_text())
    models = [{"name": "one"}, {"name": "two"}]
    (mixed / "report.json").write_text(json.dumps(report | {"models": models}))
    for run in (one, two, mixed):
        add_variant(run, "augment", 0.95, 4)
    add_variant(one, "adjusted", 0.9, 1)
    add_variant(one, "augment_adjusted", 0.85, 4)
    assert variant_names(one, "test") == ["augment", "adjusted", "augment_adjusted"]
    assert variant_names(one, "val") == []
    train = "python scripts/train.py mobilenet_160 --workdir runs/one"
    ask = "python scripts/evaluate.py runs/"
    runs = {
        (path.name, name): read_run(path, "test", name)
        for path in (one, two, mixed)
        for name in ["", *variant_names(path, "test")]
    }
    assert {key: runs[key].command for key in runs if key[0] != "two"} == {
        ("one", ""): train,
        ("one", "augment"): f"{ask}one --tta augment --num-views 4",
        ("one", "adjusted"): f"{ask}one --logit-adjustment",
        (
            "one",
            "augment_adjusted",
        ): f"{ask}one --tta augment --num-views 4 --logit-adjustment",
        ("mixed", ""): f"{ask}one runs/two --ensemble runs/mixed",
        (
            "mixed",
            "augment",
        ): f"{ask}one --tta augment --num-views 4 && {ask}two --tta augment "
        f"--num-views 4 && {ask}one runs/two --ensemble runs/mixed",
    }
    # Seeds are averaged with seeds that were asked in the same way.
    [rows] = compare(list(runs.values()), "macro_f1", 100, average_seeds=True).values()
    average = "python scripts/compare.py runs/one runs/two"
    assert {row.name: row.command for row in rows if len(row.runs) > 1} == {
        "mean of one (augment) and 1 other seed": f"{average} --variants --average-seeds",
        "mean of one and 1 other seed": f"{average} --average-seeds",
    }
    # An ensemble is no draw of a recipe, and a run that is asked otherwise no other one.
    assert not any(row.recipe_differences for row in rows)
    plain = [runs[path.name, ""] for path in (mixed, one, two)]
    [rows] = compare(plain, "macro_f1", 100, average_seeds=True).values()
    assert not any(row.recipe_differences for row in rows)
    of_validation = [read_run(path, "val") for path in (one, two)]
    [rows] = compare(of_validation, "macro_f1", 100, average_seeds=True).values()
    [command] = [row.command for row in rows if len(row.runs) > 1]
    assert command == f"{average} --split val --average-seeds"
    assert not any(run.changed for run in runs.values())
    path = one / "predictions/test_augment.csv"
    path.write_text(path.read_text() + "\n")
    assert read_run(one, "test", "augment").changed
    done = run_script(
        "compare.py",
        one,
        "--variants",
        "--num-bootstrap",
        100,
        "--output",
        tmp_path / "out",
    )
    assert done.returncode == 0, done.stderr
    names = pd.read_csv(tmp_path / "out/compare.csv")["run"].tolist()
    assert names == ["one (augment)", "one (adjusted)", "one (augment_adjusted)", "one"]
    # Others can be told from what the first folder says when it is asked otherwise.
    flags = ("--num-bootstrap", 100, "--output", tmp_path / "out", "--average-seeds")
    done = run_script("compare.py", mixed, one, two, "--baseline", "augment", *flags)
    assert done.returncode == 0, done.stderr
    assert "Less mixed (augment), paired:" in done.stdout
    frame = pd.read_csv(tmp_path / "out/compare.csv").set_index("run")
    assert np.isnan(frame.loc["mixed (augment)", "accuracy_difference_value"])
    expected = frame.loc["mixed", "accuracy"] - frame.loc["mixed (augment)", "accuracy"]
    gained = frame.loc["mixed", "accuracy_difference_value"]
    assert gained == pytest.approx(expected, abs=1e-6)
    done = run_script("compare.py", mixed, one, "--baseline", "adjusted", *flags)
    assert done.returncode == 2
    assert "mixed was not asked so. It has augment; scripts/evaluate.py" in done.stderr


def test_the_command_writes_a_table_and_a_chart(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / n, right) for n, right in (("a", 0.7), ("b", 0.9))]
    output = tmp_path / "out"
    done = run_script(
        "compare.py",
        *folders,
        "--num-bootstrap",
        100,
        "--output",
        output,
        "--sort",
        "accuracy",
    )
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(output / "compare.csv")
    assert frame["run"].tolist() == ["b", "a"]
    assert (frame["minutes"] == 1.5).all()
    text = (output / "compare.md").read_text()
    assert text in done.stdout
    assert "Less a, paired:\n\n| run | accuracy |" in text
    assert "melanoma recall" in text
    assert (output / "compare.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sort", "f1"], "--sort must be one of"),
        (["--split", "other"], "predictions/other.csv is missing"),
        (["--num-bootstrap", "0"], "--num-bootstrap must be 100 or more. Received: 0"),
        (["--num-bootstrap", "-3"], "--num-bootstrap must be 100 or more. Received: -3"),
        (["nowhere"], "nowhere holds no evaluated run"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = run_here("compare.py", write_run(tmp_path / "a", 0.5), *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_comparing_needs_no_tensorflow() -> None:
    code = "import sys; from skincnn.evaluation import comparison; "
    code += "from skincnn.reporting import comparison_tables; "
    code += "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_no_folder_is_said_in_one_line() -> None:
    done = run_here("compare.py")
    assert done.returncode == 2, done.stderr
    assert "error: Give the folders of evaluated runs" in done.stderr


def test_made_up_runs_are_not_ranked_beside_real_ones(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, 0.7) for name in ("real", "drawn")]
    report = json.loads((folders[1] / "report.json").read_text())
    (folders[1] / "report.json").write_text(json.dumps(report | {"synthetic": True}))
    tables = compare([read_run(path, "test") for path in folders], "macro_f1", 100)
    assert len(tables) == 2
    real, drawn = tables
    assert drawn == f"SYNTHETIC pictures, {real}"
    assert drawn in to_markdown(tables)


def test_a_table_that_is_not_the_report_s_is_marked(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, 0.7) for name in ("a", "b")]
    for folder in folders:
        report = json.loads((folder / "report.json").read_text())
        written = sha256(folder / "predictions/test.csv")
        report["splits"] = {"test": {"sha256": written}}
        (folder / "report.json").write_text(json.dumps(report))
    with (folders[1] / "predictions/test.csv").open("a") as file:
        file.write("i120,l60,mel,0,1,0\n")
    tables = compare([read_run(path, "test") for path in folders], "macro_f1", 100)
    frame = to_frame(tables).set_index("run")
    assert frame["changed_since_report"].to_dict() == {"a": False, "b": True}
    rows = to_markdown(tables).splitlines()
    [marked] = [row for row in rows if "CHANGED since its report" in row]
    assert marked.startswith("| b |")


def test_a_score_that_is_not_known_leaves_its_line_empty(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", 0.7)
    path = folder / "predictions/test.csv"
    pd.read_csv(path).query("label == 'nv'").to_csv(path, index=False)
    tables = compare([read_run(folder, "test")], "macro_auc", 100)
    [[row]] = tables.values()
    assert row.scores["macro_auc"].value is None
    assert to_png(plot_comparison(tables, "macro_auc")).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "lacks split_by, training_seconds, num_parameters"),
        ("[]", "must hold a JSON object. Received: list"),
        ("null", "must hold a JSON object. Received: NoneType"),
        ('{"split_by"', "cannot be read"),
    ],
)
def test_a_damaged_report_is_said_in_one_line(
    content: str, message: str, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "a", 0.5)
    (folder / "report.json").write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_run(folder, "test")
    assert "Make it with scripts/evaluate.py" in str(caught.value)


def spoil(table: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    return table.assign(**{column: [value, *table[column].iloc[1:]]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="lesion_id"), "the columns lesion_id are missing"),
        (lambda t: t.filter(regex="^(?!probability)"), "probability_<class>"),
        (lambda t: t.iloc[:0], "no rows"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "stands in it twice"),
        (
            lambda t: spoil(t, "image_id", ""),
            "have no image_id, the first in row",
        ),
        (lambda t: t.assign(lesion_id=" "), "120 of .* no lesion_id, the first in row 1"),
        (lambda t: spoil(t, "label", "scc"), "label 'scc'. Expected one of: bkl, mel, nv"),
        (lambda t: spoil(t, "probability_mel", 3.0), "add up to 1"),
        (lambda t: spoil(t, "probability_mel", None), "add up to 1"),
    ],
)
def test_a_damaged_table_of_predictions_is_refused(
    change: object, message: str, tmp_path: Path
) -> None:
    path = write_run(tmp_path / "a", 0.5) / "predictions/test.csv"
    assert callable(change)
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        read_predictions(path)
