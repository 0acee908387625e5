"""The help of commands, the names that it lists, and shell completion."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from skincnn.cli import main, train
from skincnn.cli.help import choices, completion, datasets, presets
from skincnn.cli.help.text import MAX_LINES, MAX_WIDTH, parse_arguments
from skincnn.errors import ConfigError
from skincnn.metrics.classification import METRICS
from skincnn.model.augment import AUGMENTATIONS
from skincnn.model.backbones import BACKBONES
from skincnn.model.mixing import MIXES
from skincnn.presets import ENSEMBLES, PRESETS
from skincnn.training.imbalance import STRATEGIES
from skincnn.training.optimizers import OPTIMIZERS
from skincnn.training.schedules import SCHEDULES
from skincnn.training.stages import SCENARIOS

TABLES: dict[str, Iterable[str]] = {
    "augment.parts": AUGMENTATIONS,
    "model.backbone": BACKBONES,
    "imbalance.strategy": STRATEGIES,
    "optimizer.name": OPTIMIZERS,
    "optimizer.schedule": SCHEDULES,
    "train.scenario": SCENARIOS,
    "train.monitor": METRICS,
    "objective": METRICS,
    "sort": METRICS,
}
GROUPS = (
    *("data", "augment", "model", "imbalance", "loss", "distillation", "optimizer"),
    *("train", "evaluate"),
)


@pytest.fixture(autouse=True)
def _as_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["skincnn train"])


def show(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as exit_info:
        train.parse([*argv])
    assert exit_info.value.code is None
    return capsys.readouterr().out


@pytest.mark.parametrize("setting", choices.TABLES)
def test_names_are_those_of_the_table_with_a_phrase_each(setting: str) -> None:
    names = choices.choices(setting)
    assert list(names) == list(TABLES[setting])
    for phrase in names.values():
        assert phrase.endswith(".")
        assert phrase[0].isupper() or phrase.startswith("`")


@pytest.mark.parametrize("topic", ["", *GROUPS])
def test_help_of_each_group_fits_on_a_screen(
    topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = show(capsys, "--help", *filter(None, [topic]))
    assert len(text.splitlines()) <= MAX_LINES
    assert max(map(len, text.splitlines())) <= MAX_WIDTH
    for name in (*PRESETS, *ENSEMBLES, *GROUPS) if not topic else ():
        assert f"\n  {name} " in text
    for name in MIXES if topic == "augment" else ():
        assert f"{name}: " in text
    for setting, table in TABLES.items():
        if topic and setting.startswith(f"{topic}."):
            assert f"--{setting} " in text
            assert all(name in text for name in table)


def test_help_of_a_flag_has_its_whole_text_and_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = show(capsys, "mobilenet_160", "--help", "--train.scenario")
    assert "--train.scenario TEXT" in text
    assert "(default: fine_tune)" in " ".join(text.split())
    assert "One stage, which trains all layers." in text
    assert "--train.epochs 8" in show(capsys, "mobilenet_160", "--help", "train")


def test_help_is_shown_without_the_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An installation may have only .pyc files."""

    def fail(cls: object) -> str:
        raise OSError("could not get source code")

    monkeypatch.setattr("inspect.getsource", fail)
    monkeypatch.setattr("skincnn.__file__", str(tmp_path / "skincnn/x.pyc"))
    choices._read.cache_clear()
    assert "--model.backbone TEXT" in show(capsys, "--help", "model.backbone")


@pytest.mark.parametrize(
    ("topic", "nearest"), [("modl", "model"), ("model.bacbone", "model.backbone")]
)
def test_wrong_topic_of_help_names_the_nearest(topic: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"data, augment, .*Did you mean '{nearest}'"):
        train.parse(["--help", topic])


def test_a_flag_with_a_value_is_a_topic_of_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "--config PATH" in show(capsys, "--help", "--config")


def test_wrong_topic_of_help_of_a_command_without_groups() -> None:
    text = r"^--help may be followed by a flag\. Received: 'nosuch'\.$"
    with pytest.raises(ConfigError, match=text):
        parse_arguments(presets.Arguments, ["--help", "nosuch"])


def test_presets_are_listed_with_cost_and_score(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["skincnn presets"])
    presets.command()
    text = capsys.readouterr().out
    assert all(f"{name}\n  " in text for name in (*PRESETS, *ENSEMBLES))
    assert text.count("  Cost: ") == len(PRESETS)
    monkeypatch.setattr("sys.argv", ["skincnn presets", "mobilenet_v1"])
    with pytest.raises(ConfigError, match=r"PRESET must be one of: quickstart, .*Did you"):
        presets.command()


def test_datasets_are_listed_with_what_is_built(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["skincnn datasets", "--data-dir", str(data_dir)])
    datasets.command()
    text = capsys.readouterr().out
    assert re.search(
        r"^demo_tiny\n  .*SYNTHETIC.*\n  built: \d+ images, \d+ MB, in", text, re.M
    )
    assert re.search(r"^isic2019\n  .*\n  not built: skincnn prepare-data", text, re.M)
    with pytest.raises(SystemExit):
        train.parse(["--help", "data"])
    names = re.findall(r"^(\w+)$", text, re.M)
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("demo_tiny", "isic2019"))
    assert set(choices.choices("data.datasets")) <= set(names)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], "train"),
        (["train", "ensem"], "ensemble5_member ensemble5"),
        (["train", "--optimizer.ema"], "--optimizer.ema-momentum"),
        (["completion", "--h"], "--help"),
        (["tune", "--preset", "quick"], "quickstart"),
        (["tune", "--model.backbone", "densenet2"], "densenet201"),
        (["export", "runs/a", "--formats", "onn"], "onnx"),
        (["export", "--no"], "--no-ood"),
        (["predict", "runs/a"], ""),
    ],
)
def test_shell_completes_commands_flags_and_names(
    words: list[str], expected: str, script: Path
) -> None:
    line = " ".join(["skincnn", *words])
    code = f". {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _skincnn; "
    done = subprocess.run(
        ["bash", "-c", f'{code} echo "${{COMPREPLY[*]}}"'], capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.stderr) == (expected, "")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "skincnn.bash"
    path.write_text(completion.render())
    return path


def test_every_command_has_a_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in main.COMMANDS:
        arguments = main.arguments_of(name)
        with pytest.raises(SystemExit):
            parse_arguments(arguments, ["--help"])
        assert "usage: skincnn" in capsys.readouterr().out
