from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from skincnn.config import DataConfig
from skincnn.data.combined import open_datasets
from skincnn.data.leakage import audit
from skincnn.data.splits import image_folds, make_splits, select_lesions
from skincnn.errors import ConfigError, DataError


def splits(data_dir: Path, **fields: object) -> dict:
    config = DataConfig(datasets=("demo_tiny",), **fields)
    return make_splits(open_datasets(["demo_tiny"], data_dir), config)


NAMES = tuple("abcdefg")


class ManySources:
    """A dataset with a source for each image."""

    def read_table(self, folds: object) -> pd.DataFrame:
        sources = [f"s{number:04}" for number in range(1000)]
        return pd.DataFrame({"dataset_name": "own", "dataset": sources, "fold": 1})


def test_an_unknown_source_names_few_of_many_sources() -> None:
    config = DataConfig(leave_out="s12345")
    with pytest.raises(
        ConfigError, match=r"1001 in total.*'s12345'. Did you mean"
    ) as error:
        make_splits(ManySources(), config)  # type: ignore[arg-type]
    assert len(str(error.value)) < 300


def test_splits_have_the_configured_folds(data_dir: Path) -> None:
    tables = splits(data_dir, train_folds=(7, 2), validation_folds=(3,), test_folds=(1,))
    assert {name: set(table["fold"]) for name, table in tables.items()} == {
        "train": {2, 7},
        "val": {3},
        "test": {1},
    }
    assert all(list(table.index) == list(range(len(table))) for table in tables.values())


def test_a_split_by_image_is_stratified_and_its_leakage_is_counted(data_dir: Path) -> None:
    tables = splits(data_dir, split_by="image")
    everything = open_datasets(["demo_tiny"], data_dir).read_table(range(10))
    assert sum(map(len, tables.values())) == len(everything)
    folds = image_folds(everything)
    for label in range(7):
        sizes = Counter(folds[everything["label"] == label])
        assert max(sizes[f] for f in range(10)) - min(sizes[f] for f in range(10)) <= 1
    with pytest.raises(
        DataError, match=r"lesion\(s\) are shared by train and val and test"
    ):
        audit(tables, NAMES)
    result = audit(tables, NAMES, siblings_allowed=True)
    training_lesions = set(tables["train"]["lesion_id"])
    with_sibling = [lesion in training_lesions for lesion in tables["test"]["lesion_id"]]
    assert result.share_test_images == sum(with_sibling) / len(with_sibling) > 0
    assert result.num_shared_lesions > 0
    assert result.num_shared_images == 0


@pytest.mark.parametrize("split_by", ["lesion", "image"])
def test_single_image_lesions_are_evaluated(split_by: str, data_dir: Path) -> None:
    everything = open_datasets(["demo_tiny"], data_dir).read_table(range(10))
    sizes = Counter(everything["lesion_id"])
    full = splits(data_dir, split_by=split_by)
    single = splits(data_dir, split_by=split_by, single_image_lesions=True)
    assert single["train"].equals(full["train"])
    for name in ("val", "test"):
        rows = full[name]
        expected = rows[[sizes[lesion] == 1 for lesion in rows["lesion_id"]]]
        assert 0 < len(expected) < len(rows)
        assert single[name].equals(expected.reset_index(drop=True))
        assert not {*single[name]["lesion_id"]} & {*single["train"]["lesion_id"]}


@pytest.mark.parametrize(
    ("option", "thinned"),
    [
        ("train", {"train"}),
        ("evaluation", {"val", "test"}),
        ("all", {"train", "val", "test"}),
    ],
)
def test_one_image_per_lesion(option: str, thinned: set[str], data_dir: Path) -> None:
    full, thin = splits(data_dir), splits(data_dir, one_image_per_lesion=option)
    for name, table in thin.items():
        if name in thinned:
            assert table["lesion_id"].is_unique
            assert set(table["lesion_id"]) == set(full[name]["lesion_id"])
            assert set(table["image_id"]) < set(full[name]["image_id"])
        else:
            assert table.equals(full[name])


@pytest.mark.parametrize("known", [0, 4])
def test_a_selection_of_lesions_requires_known_lesions(known: int) -> None:
    lesions = ["l0", "l0", "l1", "l1"][:known] + [""] * (6 - known)
    table = pd.DataFrame({"image_id": list("abcdef"), "lesion_id": lesions})
    in_split = pd.Series(True, table.index)
    for fields in ({"one_image_per_lesion": "all"}, {"single_image_lesions": True}):
        with pytest.raises(DataError, match=rf"known for {known} of 6 images\..* val,"):
            select_lesions(table, in_split, DataConfig(**fields), "val")
    rows = select_lesions(table, in_split, DataConfig(single_image_lesions=True), "train")
    assert rows.equals(table)


def test_a_fraction_of_the_training_lesions_is_nested_and_stratified(
    data_dir: Path,
) -> None:
    full, small, half = (
        splits(data_dir, train_fraction=fraction) for fraction in (1.0, 0.1, 0.5)
    )
    groups = [set(tables["train"]["group_id"]) for tables in (small, half, full)]
    assert groups[0] < groups[1] < groups[2]
    kept_images = half["train"]
    for label, rows in full["train"].groupby("label"):
        kept = kept_images[kept_images["label"] == label]
        expected = math.ceil(rows["group_id"].nunique() / 2)
        assert kept["group_id"].nunique() == expected
        assert len(kept) == rows["group_id"].isin(kept["group_id"]).sum()
    assert all(half[name].equals(full[name]) for name in ("val", "test"))
