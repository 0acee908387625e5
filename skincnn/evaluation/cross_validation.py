"""Cross-validation: images are tested once, by a model that was not trained on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from skincnn.config import FINAL_TEST_FOLD, NUM_FOLDS, Config
from skincnn.errors import ConfigError
from skincnn.evaluation.aggregate import (
    Aggregate,
    combine_info,
    describe_member,
    read_evaluated_run,
)
from skincnn.evaluation.ood import distance_limit
from skincnn.evaluation.results import MembersResult
from skincnn.evaluation.scoring import InferenceVariant, score_variants
from skincnn.inference.predictions import read_predictions, table_path

OUT_OF_FOLD = "out_of_fold"


def cross_validation_configs(config: Config, num_models: int) -> list[Config]:
    """Returns a copy of the configuration for each model, with the folds of the model.

    The folds are divided into `num_models` (2..9) test sets of adjacent folds. A model is
    validated on the first fold of the next test set, and trained on the remaining folds.
    `FINAL_TEST_FOLD` is in no test set, so all models are trained on it.

    Raises:
        ConfigError: `num_models` is out of range.
    """
    tested = [fold for fold in range(NUM_FOLDS) if fold != FINAL_TEST_FOLD]
    if not 2 <= num_models <= len(tested):
        raise ConfigError(f"--folds must be in 2..{len(tested)}. Received: {num_models}.")
    groups = [part.tolist() for part in np.array_split(tested, num_models)]
    configs = []
    for number, test in enumerate(groups):
        validation = groups[(number + 1) % num_models][0]
        data = dataclasses.replace(
            config.data,
            test_folds=tuple(test),
            validation_folds=(validation,),
            train_folds=tuple(
                fold for fold in range(NUM_FOLDS) if fold not in (*test, validation)
            ),
        )
        configs.append(dataclasses.replace(config, data=data))
    return configs


def pool(workdirs: Sequence[Path]) -> Aggregate:
    """Pools the out-of-fold predictions of several runs, and returns their results.

    The runs must have the configurations from `cross_validation_configs`. The calibration
    and the thresholds are chosen on the pooled validation predictions. The referral rule
    uses the distances if out-of-distribution detection is on in all runs.

    Raises:
        ConfigError: An image is in the test split, or in the validation split, of two runs;
            see also `read_evaluated_run`.
        DataError: A predictions table is missing or damaged.
    """
    runs = [read_evaluated_run(workdir) for workdir in workdirs]
    tables = {}
    for name, split in (("val", "val"), (OUT_OF_FOLD, "test")):
        parts = [read_predictions(table_path(workdir, split)) for workdir in workdirs]
        tables[name] = pd.concat(parts, ignore_index=True)
        repeated = tables[name]["image_id"].duplicated()
        if repeated.any():
            image = tables[name].loc[repeated, "image_id"].iloc[0]
            raise ConfigError(
                f"Image {image} is in the {split} split of two of the runs "
                f"{', '.join(map(str, workdirs))}. Expected runs with different folds."
            )
    as_is = InferenceVariant("", tables, runs[0].results["test"].cost)
    stored_in = {
        "val": "validation folds of all models",
        OUT_OF_FOLD: "out-of-fold predictions",
    }
    rules = [run.results["test"].triage for run in runs]
    is_on = all(rule is not None and rule.max_distance is not None for rule in rules)
    max_distance = distance_limit(tables["val"]) if is_on else None
    config = runs[0].config.evaluate
    _, scores = score_variants([as_is], stored_in, {}, config, max_distance)
    members = MembersResult(split="test", members=tuple(map(describe_member, runs)))
    return Aggregate(
        combine_info(runs, "cross_validation"), tables, {**scores, "members": members}
    )
