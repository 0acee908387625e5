"""The configuration of a run: a tree of frozen, validated dataclasses.

The configuration contains the settings that can change a trained model or its scores. The
directories of the run and of the datasets, caching and overwriting are arguments of the
commands, not part of the configuration. Each field has a command-line flag: that of
`optimizer.learning_rate` is `--optimizer.learning-rate`. Instead of `train.stages`, the
values of each stage have flags, such as `--train.stages.0.epochs`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, TypeAdapter, ValidationError

from skincnn.config import files
from skincnn.config.data import (
    AUGMENT_BOUNDS,
    FINAL_TEST_FOLD,
    NUM_FOLDS,
    AugmentConfig,
    DataConfig,
)
from skincnn.config.section import OpenInterval, describe_error, require, section
from skincnn.config.train import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DistillationConfig,
    ImbalanceConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    Precision,
    StageConfig,
    TrainConfig,
)
from skincnn.errors import ConfigError

__all__ = [
    "AUGMENT_BOUNDS",
    "FINAL_TEST_FOLD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "NUM_FOLDS",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "DistillationConfig",
    "EvaluateConfig",
    "ImbalanceConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Precision",
    "StageConfig",
    "TrainConfig",
    "read_config",
]


@section("evaluate")
class EvaluateConfig:
    """Confidence intervals of the scores, and custom metrics."""

    num_bootstrap: Annotated[int, Field(ge=100)] = 2000
    """Number of bootstrap resamples of the groups of images (patients, lesions or images,
    with their near-duplicates)."""
    confidence: OpenInterval = 0.95
    """Confidence level of each interval."""
    metrics: tuple[str, ...] = ()
    """Custom metrics to score in addition, each as `module:function`
    (docs/guides/extending.md)."""


@section("")
class Config:
    """The whole configuration of a run.

    Raises:
        ConfigError: A field is unknown, or a value is invalid or conflicts with another
            value. The sections, such as `DataConfig`, raise this error, too.
    """

    seed: NonNegativeInt = 0
    """Seed of the initial weights and of random draws. The resamples of the bootstrap and
    the built-in out-of-distribution images do not depend on it."""
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    imbalance: ImbalanceConfig = ImbalanceConfig()
    loss: LossConfig = LossConfig()
    distillation: DistillationConfig = DistillationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    def __post_init__(self) -> None:
        require(
            self.optimizer.warmup_epochs <= self.train.epochs,
            "optimizer.warmup_epochs",
            f"at most `train.epochs` ({self.train.epochs})",
            self.optimizer.warmup_epochs,
        )
        require(
            self.augment.mix == "none" or self.train.cached_views == 0,
            "augment.mix",
            "none if `train.cached_views` > 0, because cached features are not mixed",
            self.augment.mix,
        )
        scratch = self.train.scenario == "from_scratch"
        require(
            scratch == (self.model.weights == "none"),
            "train.scenario",
            "from_scratch if `model.weights` is none (a random backbone must not be "
            "frozen), and fine_tune, staged or linear_probe for other weights",
            f"{self.train.scenario} with `model.weights` {self.model.weights}",
        )

    def replace(
        self, changes: Mapping[str, object] | None = None, /, **more: object
    ) -> Config:
        """Returns a copy with new values of some fields, given by their dotted names.

        The changes are a dictionary or keyword arguments.

        >>> Config().replace({"train.epochs": 3, "data.test_folds": [9]}, seed=1).seed
        1

        Raises:
            ConfigError: A field does not exist, or a value is invalid or conflicts with
                another value.
        """
        expected = "a dictionary, such as {'train.epochs': 3}"
        require(isinstance(changes, Mapping | None), "changes", expected, changes)
        sections: dict[str, dict[str, object]] = {}
        fields: dict[str, object] = {}
        for name, value in {**(changes or {}), **more}.items():
            section, _, field = name.partition(".")
            if field and dataclasses.is_dataclass(getattr(self, section, None)):
                sections.setdefault(section, {})[field] = value
            else:
                fields[name] = value
        for section, values in sections.items():
            base: Any = fields.get(section, getattr(self, section))
            fields[section] = dataclasses.replace(base, **values)
        return dataclasses.replace(self, **fields)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Returns the configuration as nested dictionaries that JSON can represent."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> Config:
        """Returns the configuration for a result of `to_dict`, after validation.

        Raises:
            ConfigError: A field is unknown or missing, or a value has the wrong type, is
                out of range, or conflicts with another value.
        """
        try:
            text = json.dumps(values)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                "A configuration must consist of values that JSON can represent, such as "
                f"int instead of numpy.int64. Received: {error}."
            ) from error
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            raise ConfigError(describe_error(error, cls, "")) from error


def read_config(path: Path) -> Config:
    """Returns the configuration in a YAML or JSON file, such as a run's config.json.

    A file with the suffix .yaml or .yml is read as YAML, any other file as JSON. Fields
    that the file lacks have their default values, except `trainable_blocks` and `epochs` of
    each of `train.stages`, which are required.

    Raises:
        ConfigError: The file cannot be read, is not valid YAML or JSON, or is not a valid
            configuration. If the syntax or a value is invalid, the message begins with the
            path and, if they are known, :line:column.
    """
    try:
        content = path.read_bytes()
        text = content.decode(json.detect_encoding(content))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}. Expected a YAML or JSON file, such as a "
            "run's config.json."
        ) from error
    values = files.parse(path, text)
    try:
        return Config.from_dict(values)
    except ConfigError as error:
        keys: tuple[int | str, ...] = ()
        if isinstance(error.__cause__, ValidationError):
            keys = error.__cause__.errors()[0]["loc"]
        raise ConfigError(f"{path}{files.locate(text, keys)}: {error}") from error
