"""Finds the hyperparameters of a search space, and checks the space before any trial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras_tuner as kt
import numpy as np
from keras_tuner.engine.hyperparameters import Float, Int

from skincnn.config import Config
from skincnn.errors import ConfigError, DataError
from skincnn.training.setup import check
from tuning.spaces import Space, rounded, value_at

NUM_SAMPLES = 50
"""Number of random configurations of a space that are checked before the first trial."""
INTERNAL = "tuner/"
"""Prefix of hyperparameters that KerasTuner adds for internal use."""


class FieldError(ConfigError):
    """Raised if a field does not have the value of the hyperparameter of its name."""


def explore(
    space: Space, config: Config, check_config: Callable[[Config], None] = check
) -> kt.HyperParameters:
    """Returns all hyperparameters of a space, after checking many configurations.

    The space is applied to the preset `config` with each value of each choice and both
    bounds of each range, one at a time, and with random samples. This also finds
    conditional hyperparameters. Nothing is trained. Some of the random samples may be
    invalid, but not all: a trial with such values fails alone.

    Raises:
        ConfigError: The space fails, the name of a hyperparameter is not the path of a
            field, or the field does not have the value of the hyperparameter.
        Exception: The error that `check_config` raises for an invalid configuration.
    """
    hyperparameters = kt.HyperParameters()

    def attempt(values: dict[str, Any]) -> None:
        check_config(_apply(space, config, hyperparameters, values))

    attempt({})
    index = 0
    while index < len(hyperparameters.space):  # `attempt` can add hyperparameters
        parameter = hyperparameters.space[index]
        index += 1
        # The first value of a condition makes the hyperparameter active.
        active = {condition.name: condition.values[0] for condition in parameter.conditions}
        for value in _candidates(parameter):
            attempt({**active, parameter.name: value})
    rng = np.random.default_rng(0)
    invalid: list[ConfigError | DataError] = []
    for _ in range(NUM_SAMPLES):
        seeds = rng.integers(2**31, size=len(hyperparameters.space))
        values = {
            parameter.name: parameter.random_sample(int(seed))
            for parameter, seed in zip(hyperparameters.space, seeds, strict=True)
        }
        try:
            attempt(values)
        except FieldError:
            raise
        except (ConfigError, DataError) as error:
            invalid.append(error)
    if len(invalid) == NUM_SAMPLES:
        raise invalid[0]
    return hyperparameters


def active_values(hp: kt.HyperParameters) -> dict[str, Any]:
    """Returns the rounded value of each active, non-internal hyperparameter by name."""
    return {
        name: rounded(value)
        for name, value in hp.values.items()
        if not name.startswith(INTERNAL)
    }


def _candidates(parameter: Any) -> list[Any]:
    """Returns all values of a choice, or the bounds of a range."""
    if not isinstance(parameter, Float | Int):
        return list(parameter.values)
    if parameter.step is None:
        return [parameter.min_value, parameter.max_value]
    return [parameter.prob_to_value(0.0), parameter.prob_to_value(1.0)]


def _apply(
    space: Space,
    config: Config,
    hyperparameters: kt.HyperParameters,
    values: dict[str, Any],
) -> Config:
    """Returns the configuration for `values`, with defaults for other hyperparameters.

    Hyperparameters that the space adds are merged into `hyperparameters`.
    """
    given = kt.HyperParameters()
    for parameter in hyperparameters.space:
        given.merge([parameter])
        if given.is_active(parameter) and parameter.name in values:
            given.values[parameter.name] = values[parameter.name]
    used = kt.HyperParameters()
    used.values = dict(given.values)
    result = space(used, config)
    _require_set(result, used)
    hyperparameters.merge(used, overwrite=False)
    return result


def _require_set(config: Config, used: kt.HyperParameters) -> None:
    """Checks that a configuration contains the values of the active hyperparameters."""
    actual = {parameter.name: value_at(config, parameter.name) for parameter in used.space}
    for name in (parameter.name for parameter in used.space if used.is_active(parameter)):
        value = used.values[name]
        if rounded(actual[name]) != rounded(value):
            raise FieldError(
                f"The space does not set the field `{name}` to the value of the "
                f"hyperparameter `{name}`, which the leaderboard shows. Expected "
                f"{value!r}. Received: {actual[name]!r}."
            )
