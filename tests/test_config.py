"""Validation of the configuration, its JSON files and its flags."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from skincnn.cli.train import parse
from skincnn.config import (
    AugmentConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    ImbalanceConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    StageConfig,
    TrainConfig,
    read_config,
)
from skincnn.errors import ConfigError
from skincnn.files import write_json


def test_config_is_restored_from_json(tmp_path: Path) -> None:
    config = Config(
        data=DataConfig(train_folds=(0, 3)),
        augment=AugmentConfig(parts=()),
        model=ModelConfig(dropout=0.5),
        train=TrainConfig(
            scenario="staged", stages=(StageConfig(trainable_blocks=2, epochs=3),)
        ),
    )
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    write_json(tmp_path / "config.json", config.to_dict())
    assert read_config(tmp_path / "config.json") == config
    # Editors on Windows write a byte order mark.
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text, "utf-8-sig")
    assert read_config(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"config\.json:1:2: Invalid JSON"),
        ('{"seed": 1, "seed": 2}', r"config\.json: The key 'seed' occurs more than once"),
        ("[" * 200_000, r"config\.json: maximum recursion depth exceeded"),
        ('{"x": ' + "[" * 900 + "]" * 900 + "}", "`config`.*recursion limit exceeded"),
        ("[]", "`config` must be an object"),
        ('{"data": 3}', r"config\.json:1:2: `data` must be an object. Received: 3"),
        (
            '{"seed": 1,\n "data": {"image_sise": 32}}',
            r"config\.json:2:11: `data\.image_sise` is not a field.*mean 'image_size'",
        ),
        ('{"sed": 1}', r"`sed` is not a field.*Did you mean 'seed'"),
        (
            '{"train": {"stages": [{"trainable_blocks": 1, "epoch": 3}]}}',
            r"`train\.stages\.0\.epoch",
        ),
        (
            '{"train": {"stages": [{"trainable_blocks": 1, "epochs": 0}]}}',
            r"`train\.stages\.0\.epochs` must be > 0. Received: 0",
        ),
    ],
)
def test_invalid_file_names_the_field(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_config(path)


YAML = """\
seed: 1
data:
  image_size: 64  # pixels
optimizer: {learning_rate: 3e-4}
train:
  jit: on
  scenario: staged
  stages:
  - trainable_blocks: 1
    epochs: 3
"""


def test_yaml_file_is_read_as_yaml_1_2(tmp_path: Path) -> None:
    """In YAML 1.1, 3e-4 is a string, and `on` is True."""
    path = tmp_path / "my.yaml"
    path.write_text(YAML)
    config = read_config(path)
    assert config == Config().replace(
        **{
            "seed": 1,
            "data.image_size": 64,
            "optimizer.learning_rate": 3e-4,
            "train.jit": "on",
            "train.scenario": "staged",
            "train.stages": (StageConfig(trainable_blocks=1, epochs=3),),
        }
    )
    name, arguments = parse(["--config", str(path), "--seed", "2"])
    assert (name, arguments.config) == ("my", config.replace(seed=2))


def test_yaml_file_in_the_documentation_is_valid(tmp_path: Path) -> None:
    page = (ROOT / "docs/reference/commands.md").read_text()
    path = tmp_path / "my.yaml"
    path.write_text(page.partition("```yaml\n")[2].partition("```")[0])
    assert read_config(path).data.image_size == 160


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("image_size", "image_sise", r":3:3: `data\.image_sise` is not.*'image_size'"),
        ("epochs: 3", "epochs: 0", r":10:5: `train\.stages\.0\.epochs` must be > 0"),
        ("image_size: 64", "test_folds: [8]", r":2:1: .* leakage"),
        ("3e-4", "fast", r":4:13: `optimizer\.learning_rate` must be a valid number"),
        ("seed: 1", "seed: 1\nseed: 2", r":2:1: Invalid YAML: found duplicate key .seed"),
        ("data:", "data: [", r":\d+:\d+: Invalid YAML: "),
        ("data:", "\tdata:", r":2:1: Invalid YAML: found character .* cannot start"),
        ("seed: 1", "seed: !!python/name:os.system", r":1:7: Invalid YAML: .* tag"),
        ("seed: 1", "? [a, b]\n: 1", r"my\.yaml: Invalid YAML: keys must be str"),
        ("seed: 1", "seed: 2026-02-30", r"my\.yaml: Invalid YAML: day is out of range"),
        ("seed: 1", "seed: !!bool 1x", r"my\.yaml: Invalid YAML: '1x'"),
        ("seed: 1", f"seed: {'1' * 5000}", r"my\.yaml: Invalid YAML: Exceeds the limit"),
        ("seed: 1", "[" * 20_000, r"my\.yaml: Invalid YAML: maximum recursion depth"),
        ("seed: 1", "seed: &a [*a]", r"my\.yaml: .*[Cc]ircular"),
        (YAML, "", r"my\.yaml: `config` must be an object\. Received: None"),
        (YAML, "- seed", r"my\.yaml: `config` must be an object"),
    ],
)
def test_error_in_yaml_names_line_and_column(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(YAML.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message) as error:
        read_config(path)
    assert "\n" not in str(error.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nosuch\.json"):
        read_config(tmp_path / "nosuch.json")


@pytest.mark.parametrize(
    ("section", "field", "value", "expected"),
    [
        ("data", "batch_size", 16.5, "a valid integer"),
        ("data", "batch_size", True, "a valid integer"),
        ("data", "batch_size", "16", "a valid integer"),
        ("data", "train_folds", 3, "a valid array"),
        ("data", "train_folds", ["3"], "a valid integer"),
        ("data", "resize_mode", "squash", "'stretch', 'crop' or 'pad'"),
        ("model", "backbone", None, "a valid string"),
        ("model", "dropout", "much", "a valid number"),
        ("model", "dropout", float("nan"), "a finite number"),
        ("model", "clinical_metadata", 1, "a valid boolean"),
    ],
)
def test_value_of_another_type_is_an_error(
    section: str, field: str, value: object, expected: str
) -> None:
    values = json.loads(json.dumps(Config().to_dict()))
    assert field in values[section]
    values[section][field] = value
    with pytest.raises(ConfigError, match=f"{section}.{field}.*{expected}"):
        Config.from_dict(values)


def test_value_that_json_cannot_represent_is_an_error() -> None:
    for value in (np.int64(1), Path("a"), {1, 2}):
        with pytest.raises(ConfigError, match=r"values that JSON can represent.*Received"):
            Config.from_dict({"seed": value})


def test_integer_is_valid_for_a_float_field() -> None:
    values = json.loads(json.dumps(Config().to_dict()))
    values["model"]["dropout"] = 0
    assert Config.from_dict(values).model.dropout == 0


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (DataConfig, {"image_size": 31}, r"`data\.image_size` must be >= 32.*31"),
        (DataConfig, {"batch_size": 0}, "batch_size"),
        (DataConfig, {"batch_size": "16"}, r"`data\.batch_size` must be a valid integer"),
        (DataConfig, {"test_folds": (10,)}, r"`data\.test_folds\.0` must be < 10"),
        (DataConfig, {"test_folds": (8,)}, "leak"),
        (DataConfig, {"train_folds": (0, 9)}, "leak"),
        (DataConfig, {"train_folds": ()}, "non-empty"),
        (
            DataConfig,
            {"train_folds": (1, 2), "test_folds": (0, 9)},
            r"without fold 0, which is kept for the final test.*\(8, 0, 9\)",
        ),
        (DataConfig, {"train_folds": (1,), "validation_folds": (0,)}, "final test"),
        (DataConfig, {"final_test": True}, r"unless `data\.test_folds` is 0"),
        (
            DataConfig,
            {"image_sise": 32},
            r"`data\.image_sise` is not a field.*'image_size'",
        ),
        (ImbalanceConfig, {"beta": 1.0}, "beta"),
        (AugmentConfig, {"zoom": -0.1}, r"`augment\.zoom` must be >= 0"),
        (AugmentConfig, {"rotation_degrees": 181.0}, "rotation_degrees"),
        (AugmentConfig, {"magnitude": 1.1}, r"`augment\.magnitude` must be <= 1"),
        (AugmentConfig, {"mix": "both"}, "'none', 'mixup' or 'cutmix'.*'both'"),
        (ModelConfig, {"width_multiplier": 0.03}, "width_multiplier` must be >= 0.04"),
        (ModelConfig, {"dropout": 1.0}, "dropout"),
        (ModelConfig, {"batch_norm": "off"}, "'train', 'frozen' or 'frozen_statistics'"),
        (ImbalanceConfig, {"power": 1.5}, "power"),
        (OptimizerConfig, {"learning_rate": 0.0}, "learning_rate"),
        (OptimizerConfig, {"weight_decay": -1.0}, "weight_decay"),
        (OptimizerConfig, {"ema_momentum": 1.0}, "ema_momentum"),
        (OptimizerConfig, {"momentum": 1.0}, "momentum"),
        (OptimizerConfig, {"momentum": 0.0, "nesterov": True}, "momentum"),
        (OptimizerConfig, {"milestones": (0.5, 0.5)}, "milestones.*increasing"),
        (OptimizerConfig, {"milestones": (1.0,)}, "milestones"),
        (OptimizerConfig, {"milestone_factor": 0.0}, "milestone_factor"),
        (OptimizerConfig, {"warmup_fraction": 0.0}, "warmup_fraction"),
        (OptimizerConfig, {"clip_by": "value"}, "'variable' or 'global'"),
        (OptimizerConfig, {"layer_decay": 0.0}, "layer_decay"),
        (LossConfig, {"label_smoothing": 1.0}, "label_smoothing"),
        (ImbalanceConfig, {"ratio": 0.0}, "ratio"),
        (ImbalanceConfig, {"gamma": -1.0}, "gamma"),
        (ImbalanceConfig, {"margin": -1.0}, "margin"),
        (ImbalanceConfig, {"drw_start": 1.0}, "drw_start"),
        (
            StageConfig,
            {"epochs": 3},
            r"trainable_blocks` is required\. Received: {'epochs': 3}\.",
        ),
        (TrainConfig, {"epochs": 0}, "epochs"),
        (
            TrainConfig,
            {"progressive_epochs": 8, "progressive_image_size": 64},
            "progressive_epochs",
        ),
        (TrainConfig, {"progressive_epochs": 2}, "both 0 or both positive"),
        (EvaluateConfig, {"num_bootstrap": 10}, "num_bootstrap"),
        (EvaluateConfig, {"confidence": 1.0}, "confidence"),
        (Config, {"seed": -1}, "seed"),
        (Config, {"optimizer": OptimizerConfig(warmup_epochs=9)}, "warmup_epochs"),
        (Config, {"model": ModelConfig(weights="none")}, "train.scenario"),
    ],
)
def test_value_out_of_range_is_an_error(
    section: type, values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        section(**values)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.image-size", "3"], "`data.image_size` must be >= 32. Received: 3"),
        (["--data.test-folds", "12"], "`data.test_folds.0` must be < 10"),
        (["--data.resize-mode", "squash"], "invalid choice 'squash'"),
    ],
)
def test_wrong_flag_exits_with_2(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        parse(flags)
    assert exit_info.value.code == 2
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in shown


def test_replaced_values_are_checked() -> None:
    replaced = dataclasses.replace(DataConfig(), image_size=64)
    assert replaced == DataConfig(image_size=64)
    with pytest.raises(ConfigError, match="image_size"):
        dataclasses.replace(DataConfig(), image_size=3)


def test_config_is_frozen_and_hashable() -> None:
    config = Config()
    assert hash(config) == hash(Config())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]


def test_help_needs_no_tensorflow() -> None:
    code = (
        "import sys, skincnn.presets, skincnn.classes, skincnn.cli.common;"
        "print(sorted({'keras', 'tensorflow', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_final_test_uses_the_test_folds_for_training() -> None:
    data = DataConfig(train_folds=(0, 1, 2), validation_folds=(7,), test_folds=(8, 9))
    final = data.for_final_test()
    assert final.final_test
    assert final.test_folds == (0,)
    assert final.validation_folds == (7,)
    assert final.train_folds == (1, 2, 8, 9)
    by_image = dataclasses.replace(
        data, split_by="image", train_folds=(1,), test_folds=(0,)
    )
    assert not by_image.final_test
