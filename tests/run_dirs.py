"""Run directories with synthetic predictions, for tests that need no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from skincnn.classes import LesionClass
from skincnn.config import Config, EvaluateConfig
from skincnn.data.characteristics import (
    Characteristics,
    DatasetInfo,
    ImageFlow,
)
from skincnn.data.identifiers import Identifiers
from skincnn.data.label_maps import LabelMap
from skincnn.data.leakage import LeakageAudit, SplitLeakage
from skincnn.data.preprocessing_spec import describe_preprocessing
from skincnn.evaluation.ood import distance_limit
from skincnn.evaluation.results import InferenceCost, SplitResult, write_results
from skincnn.evaluation.scoring import InferenceVariant, score_variants
from skincnn.files import write_json
from skincnn.inference.predictions import (
    class_names_of,
    predictions_table,
    write_predictions,
)
from skincnn.inference.run_dir import (
    DeviceInfo,
    Member,
    NearDuplicateSearch,
    Provenance,
    RunInfo,
)
from skincnn.records import write_record

NAMES = ("bkl", "mel", "nv")
DECLARED = {name: LesionClass(name, name, False) for name in ("<b>wart</b>|",)}
"""Classes that are not known by their names, but declared as benign."""
CONFIG = Config(evaluate=EvaluateConfig(num_bootstrap=100))
STORED_IN = {"val": "fold 8", "test": "fold 9", "test_official": "test official"}
Tables = Mapping[str, pd.DataFrame]
"""Predictions tables by split, including "val" and "test"."""


LESIONS_ONLY = Identifiers(num_images=1000, with_lesion=1000, with_patient=0, unit="lesion")


def make_table(
    split: str,
    accuracy: float,
    *,
    seed: int = 0,
    num_images: int = 120,
    names: tuple[str, ...] = NAMES,
) -> pd.DataFrame:
    """Returns predictions of pairs of images with about this accuracy."""
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
            "group_id": [f"l{n // 2}" for n in numbers],
            "label": np.array(names)[labels],
            **{f"probability_{name}": y_prob[:, i] for i, name in enumerate(names)},
            "distance": rng.gamma(4, 0.25, num_images),
        }
    )


def predict_lesions(
    labels: npt.ArrayLike,
    logits: npt.ArrayLike,
    names: Sequence[str],
    per_lesion: int = 2,
    **columns: object,
) -> pd.DataFrame:
    """Returns predictions of images, `per_lesion` of each lesion, with more columns."""
    numbers = range(len(np.asarray(labels)))
    ids = {
        "image_id": [f"i{n}" for n in numbers],
        "lesion_id": [f"l{n // per_lesion}" for n in numbers],
        "group_id": [f"l{n // per_lesion}" for n in numbers],
    }
    rows = pd.DataFrame({**ids, "label": labels, **columns, "sha256": ""})
    return predictions_table(rows, np.asarray(logits, np.float32), names)


def make_tables(accuracy: float, *, seed: int = 0, num_images: int = 120) -> Tables:
    """Returns validation and test tables from `make_table` with shuffled rows."""
    return {
        split: make_table(split, accuracy, seed=seed, num_images=num_images).sample(
            frac=1, random_state=seed
        )
        for split in ("val", "test")
    }


def make_dataset(name: str = "isic2018", **changes: object) -> DatasetInfo:
    """Returns a dataset of a run, with some fields changed."""
    fields = {
        "name": name,
        "full_name": f"ham10000/{name}/2.0.0",
        "attribution": "Images: an archive, CC BY-NC 4.0.",
        "synthetic": False,
        "stored_longest_side": None,
        "label_map": LabelMap(classes={x: x for x in NAMES}, sources=(), notes=()),
        "num_stored": 1200,
        "num_copies": 0,
        "num_images": {"train": 800, "val": 100, "test": 100},
    }
    return DatasetInfo.model_validate({**fields, **changes})


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
        "declared": DECLARED,
        "datasets": (make_dataset(),),
        "audit": LeakageAudit(
            {"train": 800, "val": 100, "test": 100},
            {"train": 400, "val": 50, "test": 50},
            dict.fromkeys(("train", "val", "test")),
            *(0, 0, None, 0, 0.0, None),
        ),
        "identifiers": LESIONS_ONLY,
        "near_duplicates": NearDuplicateSearch(known_pairs=200, found_pairs=138),
        "flow": ImageFlow(
            num_read=1204,
            excluded={"cannot be decoded": 4},
            unused={"in folds that this run does not use": 200},
            splits={"train": 800, "val": 100, "test": 100},
        ),
        "training_characteristics": Characteristics(
            num_images=800,
            identifiers=LESIONS_ONLY,
            num_lesions=400,
            num_patients=None,
            num_groups=390,
            age_quartiles=(40.0, 50.0, 65.0),
            classes={"bkl": 100, "mel": 50, "nv": 650},
            attributes={
                "dataset": {"isic2018": 800},
                "age band": {"30 to 44": 300, "60 to 74": 490, "not known": 10},
                "sex": {"female": 420, "male": 370, "not known": 10},
                "site": {"not known": 800},
                "Fitzpatrick skin type": {"not known": 800},
                "source": {"not known": 800},
                "ground truth by": {"histo": 800, "not known": 0},
            },
            malignant_by={"histo": 50, "not known": 0},
        ),
        "preprocessing": describe_preprocessing(Config().data),
        "data_fingerprint": {"train": "a", "val": "b", "test": "c"},
        "class_counts": {"bkl": 100, "mel": 50, "nv": 650},
        "best_epoch": 3,
        "num_parameters": 1234,
        "training_seconds": 60.0,
        "sha256": {"model.keras": "0" * 64},
    }
    return RunInfo.model_validate({**fields, **changes})


def make_member(name: str, config: Config) -> Member:
    """Returns a model of an ensemble or a cross-validation."""
    return Member(name=name, config=config, audit=make_info().audit, best_epoch=7)


def make_cost(num_views: int) -> InferenceCost:
    """Returns a cost proportional to the number of views."""
    return InferenceCost(num_views=num_views, seconds_per_image=0.01 * num_views)


def write_run_dir(
    workdir: Path, config: Config | None = None, info: RunInfo | None = None
) -> Path:
    """Writes the files of a finished training run, with an empty model file."""
    write_json(workdir / "config.json", (config or Config()).to_dict())
    write_record(workdir / "run.json", info or make_info())
    (workdir / "model.keras").write_text("")
    history = "epoch,loss,val_macro_f1\n1,1.0,0.4\n2,0.6,0.5\n3,0.5,0.6\n"
    (workdir / "history.csv").write_text(history)
    return workdir


def write_run(
    workdir: Path,
    tables: Tables,
    variants: Mapping[str, Tables] | None = None,
    *,
    num_views: int = 4,
    config: Config = CONFIG,
    info: RunInfo | None = None,
    leakage: Mapping[str, SplitLeakage] | None = None,
) -> Path:
    """Writes a run directory with predictions and their results.

    `variants` are the predictions by name of the variant, with `num_views` for test-time
    augmentation. The names of the classes are those of the tables.
    """
    names = tuple(class_names_of(tables["val"]))
    info = (info or make_info()).model_copy(update={"class_names": names})
    write_run_dir(workdir, config, info)
    all_variants = [InferenceVariant("", tables, make_cost(1))]
    for name, predictions in (variants or {}).items():
        cost = make_cost(1 if name == "adjusted" else num_views)
        strength = 0.5 if name.endswith("adjusted") else None
        all_variants.append(InferenceVariant(name, predictions, cost, strength))
    written, results = score_variants(
        all_variants,
        STORED_IN,
        leakage or {},
        config.evaluate,
        distance_limit(tables["val"]) if "distance" in tables["val"] else None,
        info.declared,
    )
    write_predictions(workdir, written)
    write_results(workdir, results)
    return workdir


def score_test(tables: Tables) -> SplitResult:
    """Returns the test result of the model as is."""
    as_is = InferenceVariant("", tables, make_cost(1))
    scored = score_variants([as_is], STORED_IN, {}, CONFIG.evaluate, declared=DECLARED)
    return scored[1]["test"]
