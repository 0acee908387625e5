"""The splits of the dataset on which a run is evaluated."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from run_dirs import make_info

from skincnn.config import Config, DataConfig
from skincnn.data import pipeline
from skincnn.data.combined import open_datasets
from skincnn.data.leakage import SplitLeakage
from skincnn.data.splits import make_splits
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.splits import (
    describe_storage,
    measure_leakage,
    name_splits,
    read_splits,
)


def test_splits_are_named_once() -> None:
    splits = ("fold_9", "test_official", "test", "test_official")
    assert name_splits(splits, Config()) == ("test", "test_official")
    final = Config(data=DataConfig().for_final_test())
    assert name_splits(["fold_0", "fold_3"], final) == ("test", "fold_3")
    # In a split by image, the test split does not consist of folds.
    by_image = Config(data=DataConfig(split_by="image"))
    assert name_splits(["fold_9"], by_image) == ("fold_9",)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("val", "always evaluated"),
        ("fold_9", "test folds fold_3, fold_9.*together"),
        ("fold_0", "only used for training, and for the final test"),
    ],
)
def test_validation_and_single_test_folds_and_the_kept_fold_are_rejected(
    split: str, message: str
) -> None:
    config = Config(data=DataConfig(train_folds=(0, 1), test_folds=(3, 9)))
    with pytest.raises(ConfigError, match=message):
        name_splits([split], config)


def test_the_folds_of_a_split_are_described() -> None:
    config = Config(data=DataConfig(train_folds=(0, 1), test_folds=(3, 9)))
    assert describe_storage("val", config) == "fold 8"
    assert describe_storage("test", config) == "folds 3, 9"
    assert describe_storage("fold_5", config) == "fold 5"
    assert describe_storage("test_official", config) == "test official"


@pytest.mark.parametrize("one_image", ["none", "train", "evaluation", "all"])
def test_other_splits_are_thinned_like_the_test_split(
    one_image: str, data_dir: Path
) -> None:
    dataset = open_datasets(["demo_tiny"], data_dir)
    data = DataConfig(
        datasets=("demo_tiny",), train_folds=(0,), one_image_per_lesion=one_image
    )
    config = Config(data=data)
    known = make_splits(dataset, data, ("val", "test"))
    fingerprints = {name: pipeline.fingerprint(table) for name, table in known.items()}
    info = make_info(data_fingerprint=fingerprints)
    tables = read_splits(dataset, config, info, Path("run"), ("fold_1",))
    assert list(tables) == ["val", "test", "fold_1"]
    thinned = one_image in ("evaluation", "all")
    for name in ("test", "fold_1"):
        assert tables[name]["lesion_id"].is_unique == thinned
        assert tables[name].index.tolist() == list(range(len(tables[name])))
    # The model was not trained on any image or lesion of this fold.
    leakage = measure_leakage(dataset, config, tables)
    assert leakage == {"fold_1": SplitLeakage(0, 0, None, 0, 0)}
    del tables["fold_1"]
    assert measure_leakage(dataset, config, tables) == {}
    for split, reason in (
        ("fold_0", ", which was used for training"),
        ("fold_8", ", which was used for validation"),
        ("fold_11", ""),
    ):
        with pytest.raises(
            ConfigError, match=rf"must be one of: test, fold_1, .*: {split}{reason}\."
        ):
            read_splits(dataset, config, info, Path("run"), (split,))
    # The fold that is kept for the final test is not listed.
    config = Config(data=dataclasses.replace(data, train_folds=(2,)))
    with pytest.raises(ConfigError, match=r"must be one of: test, fold_1, .*: fold_11\."):
        read_splits(dataset, config, info, Path("run"), ("fold_11",))
    changed = make_info(data_fingerprint={**fingerprints, "test": "other"})
    with pytest.raises(DataError, match=r"The split test of .* differs from that of the"):
        read_splits(dataset, config, changed, Path("run"), ())


def test_a_split_without_images_is_rejected(data_dir: Path) -> None:
    dataset = open_datasets(["demo_tiny"], data_dir)
    data = DataConfig(
        datasets=("demo_tiny",), train_folds=(0,), leave_out="demo_tiny"
    )  # only the test split has images of this source
    tables = make_splits(dataset, data, ("val", "test"))
    info = make_info(
        data_fingerprint={name: pipeline.fingerprint(x) for name, x in tables.items()}
    )
    with pytest.raises(ConfigError, match="The split fold_1 has no images that meet"):
        read_splits(dataset, Config(data=data), info, Path("run"), ("fold_1",))
