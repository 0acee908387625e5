import dataclasses
import json
import subprocess
import sys

import pytest

from skincnn.config import (
    AugmentConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    ImbalanceConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from skincnn.errors import ConfigError


def test_a_config_survives_json() -> None:
    config = Config(
        data=DataConfig(train_folds=(0, 3)),
        augment=AugmentConfig(parts=()),
        model=ModelConfig(dropout=0.5),
    )
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_field_is_named() -> None:
    values = Config().to_dict()
    values["data"]["image_sise"] = 32
    with pytest.raises(ConfigError, match=r"config\.data has no field image_sise"):
        Config.from_dict(values)


@pytest.mark.parametrize(
    ("section", "field", "value", "expected"),
    [
        ("data", "batch_size", 16.5, "of type int"),
        ("data", "batch_size", True, "of type int"),
        ("data", "batch_size", "16", "of type int"),
        ("data", "train_folds", 3, "a list"),
        ("data", "train_folds", ["3"], "of type int"),
        ("data", "resize_mode", "squash", "one of: stretch"),
        ("model", "backbone", None, "of type str"),
        ("model", "dropout", "much", "of type float"),
        ("model", "clinical_metadata", 1, "of type bool"),
    ],
)
def test_a_value_of_another_type_is_refused(
    section: str, field: str, value: object, expected: str
) -> None:
    values = json.loads(json.dumps(Config().to_dict()))
    assert field in values[section]
    values[section][field] = value
    with pytest.raises(ConfigError, match=f"{section}.{field}.*{expected}"):
        Config.from_dict(values)


def test_what_is_no_section_is_refused() -> None:
    values = {**Config().to_dict(), "data": 3}
    with pytest.raises(ConfigError, match=r"`config\.data` must be an object"):
        Config.from_dict(values)


def test_a_whole_number_may_stand_for_a_fraction() -> None:
    values = json.loads(json.dumps(Config().to_dict()))
    values["model"]["dropout"] = 0
    assert Config.from_dict(values).model.dropout == 0


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (DataConfig, {"image_size": 31}, r"`data\.image_size` must be >= 32.*31"),
        (DataConfig, {"batch_size": 0}, "batch_size"),
        (DataConfig, {"test_folds": (10,)}, r"in 0\.\.9"),
        (DataConfig, {"test_folds": (8,)}, "leak"),
        (DataConfig, {"train_folds": (0, 9)}, "leak"),
        (DataConfig, {"train_folds": ()}, "not empty"),
        (DataConfig, {"resize_mode": "squash"}, "stretch, crop or pad.*'squash'"),
        (ImbalanceConfig, {"beta": 1.0}, "beta"),
        (AugmentConfig, {"zoom": -0.1}, "zoom"),
        (AugmentConfig, {"rotation_degrees": 181.0}, "rotation_degrees"),
        (AugmentConfig, {"magnitude": 1.1}, r"`augment\.magnitude` must be in 0\.\.1"),
        (AugmentConfig, {"mix": "both"}, "none, mixup or cutmix.*'both'"),
        (ModelConfig, {"width_multiplier": 0.0}, "width_multiplier"),
        (ModelConfig, {"dropout": 1.0}, "dropout"),
        (ModelConfig, {"batch_norm": "off"}, "train, frozen or frozen_statistics"),
        (ImbalanceConfig, {"power": 1.5}, "power"),
        (OptimizerConfig, {"learning_rate": 0.0}, "learning_rate"),
        (OptimizerConfig, {"weight_decay": -1.0}, "weight_decay"),
        (OptimizerConfig, {"ema_momentum": 1.0}, "ema_momentum"),
        (OptimizerConfig, {"momentum": 1.0}, "momentum"),
        (OptimizerConfig, {"momentum": 0.0, "nesterov": True}, "momentum"),
        (OptimizerConfig, {"milestones": (0.5, 0.5)}, "milestones.*rising"),
        (OptimizerConfig, {"milestones": (1.0,)}, "milestones"),
        (OptimizerConfig, {"milestone_factor": 0.0}, "milestone_factor"),
        (OptimizerConfig, {"warmup_fraction": 0.0}, "warmup_fraction"),
        (OptimizerConfig, {"clip_by": "value"}, "variable or global"),
        (OptimizerConfig, {"layer_decay": 0.0}, "layer_decay"),
        (LossConfig, {"label_smoothing": 1.0}, "label_smoothing"),
        (ImbalanceConfig, {"ratio": 0.0}, "ratio"),
        (ImbalanceConfig, {"gamma": -1.0}, "gamma"),
        (ImbalanceConfig, {"margin": -1.0}, "margin"),
        (ImbalanceConfig, {"drw_start": 1.0}, "drw_start"),
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
def test_a_value_out_of_range_is_refused(
    kind: type, values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**values)


def test_a_config_is_frozen_and_hashable() -> None:
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
