"""Which pictures a run is tested on, beside those that its training knew of."""

from __future__ import annotations

from pathlib import Path

import pytest

from skincnn.config import Config, DataConfig
from skincnn.data import datasets, pipeline
from skincnn.data.splits import make_splits
from skincnn.errors import ConfigError
from skincnn.evaluation.splits import audit_others, name_splits, read_splits


def test_a_split_is_named_once() -> None:
    asked = ("fold_9", "test_official", "test", "test_official")
    assert name_splits(asked, Config()) == ("test", "test_official")
    # In a split by image the test is no fold.
    by_image = Config(data=DataConfig(split_by="image"))
    assert name_splits(["fold_9"], by_image) == ("fold_9",)


@pytest.mark.parametrize(
    ("split", "message"), [("val", "always reported"), ("fold_9", "reported together")]
)
def test_validation_and_a_part_of_the_test_are_refused(split: str, message: str) -> None:
    config = Config(data=DataConfig(train_folds=(0, 1), test_folds=(3, 9)))
    with pytest.raises(ConfigError, match=message):
        name_splits([split], config)


@pytest.mark.parametrize("one_image", ["none", "train", "evaluation", "all"])
def test_other_splits_have_as_many_pictures_of_a_lesion_as_test(
    one_image: str, data_dir: Path
) -> None:
    builder = datasets.open_dataset("demo_tiny", data_dir)
    data = DataConfig(dataset="demo_tiny", train_folds=(0,), one_image_per_lesion=one_image)
    config = Config(data=data)
    known = make_splits(builder, data, ("val", "test"))
    prints = {name: pipeline.fingerprint(table) for name, table in known.items()}
    metadata = {"data_fingerprint": prints}
    tables = read_splits(builder, config, metadata, Path("run"), ("fold_1",))
    thinned = one_image in ("evaluation", "all")
    for name in ("test", "fold_1"):
        assert tables[name]["lesion_id"].is_unique == thinned
        assert tables[name].index.tolist() == list(range(len(tables[name])))
    # It was trained on nothing of it, nor on anything of its lesions.
    audits = audit_others(builder, config, tables)
    assert audits.keys() == {"fold_1"}
    assert not any(audits["fold_1"].values())
    with pytest.raises(
        ConfigError, match=r"must be one of: test, fold_1, .*: fold_0, which"
    ):
        read_splits(builder, config, metadata, Path("run"), ("fold_0",))
