"""Cross-validation: every picture is tested once, by a model that never saw its lesion."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skincnn.config import NUM_FOLDS, Config
from skincnn.errors import ConfigError
from skincnn.evaluation.aggregate import KEYS, describe_models, write_combined
from skincnn.inference.predictions import read_predictions
from skincnn.inference.run_dir import read_report, read_run

OUT_OF_FOLD = "out_of_fold"


def cross_validation_configs(config: Config, num_models: int) -> list[Config]:
    """Returns the configuration of each model.

    The ten folds are dealt to as many test sets, next to each other. Each model's epoch is
    chosen on the first fold of the next test set, and it is trained on the others.

    Args:
        config: What they have in common; its own folds are not used.
        num_models: 2..10.

    Raises:
        ConfigError: There are fewer or more.
    """
    if not 2 <= num_models <= NUM_FOLDS:
        raise ConfigError(f"--folds must be in 2..{NUM_FOLDS}. Received: {num_models}.")
    groups = [part.tolist() for part in np.array_split(range(NUM_FOLDS), num_models)]
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


def pool(workdir: Path, runs: Sequence[Path]) -> dict[str, Any]:
    """Writes the report of the predictions that several runs made of their test folds.

    Writes predictions/{val,out_of_fold}.csv, figures/*.png, report.json and report.html.
    The temperature and the thresholds are chosen on the predictions for all validation
    folds together, each made by a model that had not trained on the picture.

    Args:
        workdir: The folder to write to.
        runs: Those of evaluated runs of one configuration whose test folds are different.

    Returns:
        The content of report.json: as of a run, and `models`, the scores of each.

    Raises:
        ConfigError: A folder holds no evaluated run, or a picture was tested twice.
    """
    _, config = read_run(runs[0])
    reports = [read_report(run, *KEYS) for run in runs]
    tables = {}
    for name, split in (("val", "val"), (OUT_OF_FOLD, "test")):
        parts = [read_predictions(run / "predictions" / f"{split}.csv") for run in runs]
        tables[name] = pd.concat(parts, ignore_index=True)
        twice = tables[name]["image_id"].duplicated()
        if twice.any():
            picture = tables[name].loc[twice, "image_id"].iloc[0]
            raise ConfigError(
                f"Picture {picture} is in {split} of two of the runs "
                f"{', '.join(map(str, runs))}. Expected different folds."
            )
    unseen = "its lesion" if config.data.split_by == "lesion" else "that picture"
    sizes = [report["audit"]["num_train_images"] for report in reports]
    return write_combined(
        workdir,
        config,
        reports,
        tables,
        {
            "val": "validation folds of all models",
            OUT_OF_FOLD: "out-of-fold predictions",
        },
        headline=OUT_OF_FOLD,
        models=describe_models(runs, reports, "test"),
        protocol=(
            f"Cross-validation: {len(runs)} models, each trained on {min(sizes)} to "
            f"{max(sizes)} pictures, its epoch chosen on one fold more, and tested on the "
            f"rest. Every picture is tested once, by a model that never saw {unseen}."
        ),
    )
