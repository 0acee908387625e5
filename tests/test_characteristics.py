"""The flow of the images into the splits, the baseline table and the 2x2 tables."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_runs import TABLES
from run_dirs import score_test
from sklearn.metrics import confusion_matrix

from skincnn.classes import LesionClass
from skincnn.config import DataConfig
from skincnn.data.characteristics import (
    UNKNOWN,
    ImageFlow,
    combine_flows,
    describe_flow,
    describe_images,
    subgroup_values,
)
from skincnn.data.label_maps import LabelMap
from skincnn.data.links import Links
from skincnn.evaluation.resampled import count_outcomes
from tfds_ham10000.ham10000_dataset_builder import BuildReport

NUM_IN_FOLD = 20
FLOW = ImageFlow(
    num_read=90, excluded={"a": 10}, unused={"b": 5}, splits={"train": 60, "test": 15}
)


def make_combined(left_out: dict[str, str], num_official: int) -> Any:
    """Returns a dataset of ten folds and an official split, without images."""
    sizes = {f"fold_{fold}": NUM_IN_FOLD for fold in range(10)}
    sizes |= {"test_official": num_official} if num_official else {}
    excluded = {"also in HAM10000": 7}
    report = BuildReport(
        notes=[],
        left_out=left_out,
        excluded=excluded,
        missing={},
        group_by="lesion",
        num_images=0,
        num_with_lesion=0,
        num_with_patient=0,
    )
    part = SimpleNamespace(
        builder=SimpleNamespace(read_report=lambda: report),
        label_map=LabelMap(classes={}, sources=(), notes=()),
    )
    return SimpleNamespace(parts=(part,), split_sizes=sizes, links=Links())


@pytest.mark.parametrize("split_by", ["lesion", "image"])
@pytest.mark.parametrize("thinned", ["none", "all"])
@pytest.mark.parametrize("fraction", [0.5, 1.0])
@pytest.mark.parametrize("train_folds", [(0, 1), (0, 1, 2, 3, 4, 5, 6, 7)])
def test_every_image_that_was_read_is_counted_once(
    split_by: Any, thinned: Any, train_folds: tuple[int, ...], fraction: float
) -> None:
    config = DataConfig(
        split_by=split_by,
        one_image_per_lesion=thinned,
        train_folds=train_folds,
        train_fraction=fraction,
    )
    share = 4 if thinned == "all" else 1  # images of a lesion
    sizes = {"train": len(train_folds), "val": 1, "test": 1}
    tables = {
        name: pd.DataFrame(index=range(num_folds * NUM_IN_FOLD // share))
        for name, num_folds in sizes.items()
    }
    tables["train"] = tables["train"].head(int(fraction * len(tables["train"])))
    errors = {
        "i1": "cannot be decoded (truncated file)",
        "i2": "cannot be decoded (broken data)",
        "i3": "90000x90000, expected at most 50000000 pixels",
        "i4": "30000001 bytes, expected at most 30000000 bytes",
        "i5": "40000000 bytes, expected at most 30000000 bytes",
    }
    flow = describe_flow(make_combined(errors, 30), tables, config)
    assert flow.excluded == {
        "also in HAM10000": 7,
        "cannot be decoded": 2,
        "too many pixels": 1,
        "too many bytes": 2,
    }
    assert flow.num_stored == 10 * NUM_IN_FOLD + 30
    assert flow.splits == {name: len(table) for name, table in tables.items()}
    assert sum(flow.splits.values()) + sum(flow.unused.values()) == flow.num_stored
    assert all(flow.unused.values())
    reasons = " ".join(flow.unused)
    assert ("this run does not use" in reasons) == (len(train_folds) == 2)
    assert ("same lesion" in reasons) == (thinned == "all")
    assert ("train-fraction leaves out" in reasons) == (fraction < 1)


def test_only_what_several_models_share_is_combined() -> None:
    other = FLOW.model_copy(update={"unused": {}, "splits": {"train": 65, "test": 15}})
    assert combine_flows([FLOW, FLOW]) == FLOW
    combined = combine_flows([FLOW, other])
    assert combined is not None
    assert (combined.num_read, combined.excluded) == (90, {"a": 10})
    assert combined.unused == combined.splits == {}
    for different in (None, FLOW.model_copy(update={"num_read": 91})):
        assert combine_flows([FLOW, different]) is None
        assert combine_flows([different, FLOW]) is None


def test_the_baseline_table_counts_each_value_and_what_is_missing() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "label": rng.choice(["nv", "mel"], 200),
            "lesion_id": rng.integers(0, 80, 200).astype(str),
            "group_id": rng.integers(0, 60, 200).astype(str),
            "age": rng.choice([20.0, 50.0, 51.0, np.nan], 200),
            "sex": rng.choice(["female", "male", "unknown", ""], 200),
            "dataset": "clinic",
            "dx_type": rng.choice(["histo", "consensus"], 200),
        }
    )
    described = describe_images(table, ["mel", "nv", "df"])
    assert described.num_lesions == len(set(table["lesion_id"]))
    assert described.num_groups == len(set(table["group_id"]))
    assert described.age_quartiles == tuple(table["age"].quantile([0.25, 0.5, 0.75]))
    assert described.classes == {
        name: sum(label == name for label in table["label"]) for name in ("mel", "nv", "df")
    }
    assert described.attributes["sex"] == {
        "female": (table["sex"] == "female").sum(),
        "male": (table["sex"] == "male").sum(),
        UNKNOWN: table["sex"].isin(["unknown", ""]).sum(),
    }
    bands = described.attributes["age band"]
    assert bands == {
        "under 30": (table["age"] == 20).sum(),
        "45 to 59": (table["age"] > 40).sum(),
        UNKNOWN: table["age"].isna().sum(),
    }
    assert described.attributes["source"] == {"clinic": 200, UNKNOWN: 0}
    assert described.attributes["site"] == {UNKNOWN: 200}
    melanoma = table[table["label"] == "mel"]
    assert described.malignant_by == {
        **melanoma["dx_type"].value_counts().to_dict(),
        UNKNOWN: 0,
    }
    assert described.num_patients is None
    without = describe_images(table.drop(columns="age"), ["mel", "nv"])
    assert without.age_quartiles is None
    # The malignancy of unknown classes can be declared.
    own = table.assign(label=table["label"].replace("mel", "own"))
    declared = {"own": LesionClass("own", "own", True)}
    assert describe_images(own, ["own", "nv"]).malignant_by == {UNKNOWN: 0}
    malignant_by = describe_images(own, ["own", "nv"], declared).malignant_by
    assert malignant_by == described.malignant_by


def test_age_bands_include_their_first_year() -> None:
    ages = pd.Series([0, 29.9, 30, 44, 45, 60, 75, 90, np.nan], name="age")
    assert subgroup_values(ages).astype(str).tolist() == [
        *["under 30"] * 2,
        *["30 to 44"] * 2,
        "45 to 59",
        "60 to 74",
        *["75 and over"] * 2,
        UNKNOWN,
    ]


def test_outcomes_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    positive, score = rng.random(100) < 0.3, rng.random(100).round(1)
    outcomes = count_outcomes(positive, score, 0.7)
    assert outcomes is not None
    [[tn, fp], [fn, tp]] = confusion_matrix(positive, score >= 0.7)
    assert list(outcomes.model_dump().values()) == [tp, fn, fp, tn]
    assert count_outcomes(positive, score, None) is None


def test_the_rates_follow_from_the_outcomes() -> None:
    result = score_test(TABLES)
    points = [p for t in result.targets.values() for p in t.operating_points.values()]
    assert len(points) == 8
    assert result.triage is not None
    for point in (*points, result.triage):
        table = point.outcomes
        assert table is not None
        assert sum(table.model_dump().values()) == result.num_images
        for name, true, false in (
            ("sensitivity", table.true_positives, table.false_negatives),
            ("specificity", table.true_negatives, table.false_positives),
            ("ppv", table.true_positives, table.false_positives),
            ("npv", table.true_negatives, table.false_negatives),
        ):
            assert point.rates[name].value == pytest.approx(true / (true + false), abs=1e-6)
