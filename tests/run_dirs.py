"""Run directories with synthetic predictions, for tests that need no training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from skincnn.config import Config
from skincnn.data.leakage import LeakageAudit
from skincnn.data.preprocessing_spec import describe_preprocessing
from skincnn.evaluation.results import InferenceCost, result_path
from skincnn.evaluation.scoring import InferenceVariant, score_variants
from skincnn.files import write_json
from skincnn.inference.predictions import class_names_of, write_predictions
from skincnn.inference.run_dir import DeviceInfo, Provenance, RunInfo
from skincnn.records import write_record

NAMES = ("bkl", "mel", "nv")
Tables = Mapping[str, pd.DataFrame]
"""Split to its predictions table, "val" and "test" among them."""


def make_table(
    split: str,
    accuracy: float,
    *,
    seed: int = 0,
    num_images: int = 120,
    names: tuple[str, ...] = NAMES,
) -> pd.DataFrame:
    """Returns predictions of pairs of images, of which about this share is correct."""
    rng = np.random.default_rng([seed, *split.encode()])
    numbers = np.arange(num_images)
    labels = numbers % len(names)
    logits = rng.normal(0, 1, (num_images, len(names)))
    logits[numbers, labels] += np.where(rng.random(num_images) < accuracy, 4, -4)
    y_prob = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return pd.DataFrame(
        {
            "image_id": [f"{split}{n}" for n in numbers],
            "lesion_id": [f"l{n // 2}" for n in numbers],
            "label": np.array(names)[labels],
            **{f"probability_{name}": y_prob[:, i] for i, name in enumerate(names)},
            "distance": rng.gamma(4, 0.25, num_images),
        }
    )


def make_tables(accuracy: float, *, seed: int = 0, num_images: int = 120) -> Tables:
    """Returns `make_table` of validation and test, each in a random order of rows."""
    return {
        split: make_table(split, accuracy, seed=seed, num_images=num_images).sample(
            frac=1, random_state=seed
        )
        for split in ("val", "test")
    }


def make_info(**changes: object) -> RunInfo:
    """Returns the run.json of a run on three classes, with some fields changed."""
    fields = {
        "skincnn": "0.1",
        "versions": {"keras": "3.15.1"},
        "device": DeviceInfo(
            devices=("cpu:0",), precision="float32", backend="tensorflow", jit=False
        ),
        "provenance": Provenance(code="0123abc", processor="Some CPU", cores=2, gpus=()),
        "class_names": NAMES,
        "synthetic": False,
        "dataset": "ham10000/isic2018/1.0.0",
        "attribution": "",
        "stored_longest_side": None,
        "audit": LeakageAudit(
            num_images={"train": 800, "val": 100, "test": 100},
            num_lesions={"train": 400, "val": 50, "test": 50},
            num_shared_images=0,
            num_shared_lesions=0,
            num_shared_groups=0,
            share_test_images=0.0,
            share_test_melanomas=None,
        ),
        "preprocessing": describe_preprocessing(Config().data),
        "data_fingerprint": {"train": "a", "val": "b", "test": "c"},
        "class_counts": {"bkl": 100, "mel": 50, "nv": 650},
        "best_epoch": 3,
        "num_parameters": 1234,
        "training_seconds": 90.0,
        "sha256": {"model.keras": "0" * 64},
    }
    return RunInfo.model_validate({**fields, **changes})


def write_run_dir(
    workdir: Path, config: Config | None = None, info: RunInfo | None = None
) -> Path:
    """Writes the files of a finished training, with an empty file for the model."""
    write_json(workdir / "config.json", (config or Config()).to_dict())
    write_record(workdir / "run.json", info or make_info())
    (workdir / "model.keras").write_text("")
    (workdir / "history.csv").write_text("epoch,loss\n1,0.5\n")
    return workdir


def write_evaluated_run(
    workdir: Path,
    tables: Tables,
    *,
    config: Config | None = None,
    info: RunInfo | None = None,
    variants: Mapping[str, Tables] | None = None,
    num_views: int = 4,
) -> Path:
    """Writes a run directory with predictions and their results.

    Args:
        workdir: The directory.
        tables: The predictions of the model as is.
        config: Configuration of the run.
        info: Content of run.json.
        variants: Name of a variant to its predictions.
        num_views: Number of views of the test-time augmentation among them.
    """
    config = config or Config()
    names = tuple(class_names_of(tables["val"]))
    write_run_dir(workdir, config, info or make_info(class_names=names))
    write_results(workdir, tables, config, variants or {}, num_views)
    return workdir


def write_results(
    workdir: Path,
    tables: Tables,
    config: Config,
    variants: Mapping[str, Tables],
    num_views: int = 4,
) -> None:
    """Writes predictions and their results into a run directory."""
    all_variants = [InferenceVariant("", tables, make_cost(1))]
    for name, of_variant in variants.items():
        views = 1 if name == "adjusted" else num_views
        strength = 0.5 if name.endswith("adjusted") else None
        all_variants.append(InferenceVariant(name, of_variant, make_cost(views), strength))
    splits = {split for variant in all_variants for split in variant.tables}
    written, results = score_variants(
        all_variants, {split: f"fold of {split}" for split in splits}, {}, config.evaluate
    )
    write_predictions(workdir, written)
    for name, result in results.items():
        write_record(result_path(workdir, name), result)


def make_cost(num_views: int) -> InferenceCost:
    """Returns a cost in proportion to the number of views."""
    return InferenceCost(
        num_views=num_views, seconds_per_image=0.01 * num_views, relative=float(num_views)
    )
