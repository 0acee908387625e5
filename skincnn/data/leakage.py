"""The audit at the start of every training: nothing leaks between the splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from skincnn.errors import DataError

MELANOMA = "mel"
KEPT_APART = {
    "image_id": "image",
    "lesion_id": "lesion",
    "group_id": "near-duplicate group",
}
"""What must not be in two splits: column -> what one value of it is."""

FORBIDDEN_INPUTS = ("dx_type", "dataset", "lesion_id", "group_id", "image_id")
"""What gives the answer away: `follow_up` is always nv, and sources differ in classes."""


@dataclass(frozen=True)
class LeakageAudit:
    """The result of the audit of the splits of a training.

    Attributes:
        num_images: Split to its number of images.
        num_lesions: Split to its number of lesions.
        num_shared_images: Images in two splits.
        num_shared_lesions: Lesions in two splits.
        num_shared_groups: Near-duplicate groups in two splits.
        share_test_images: Share of the test images with an image of the same lesion in
            training, 0..1; None without a test split.
        share_test_melanomas: The same share of the test melanomas; None without any.
    """

    num_images: dict[str, int]
    num_lesions: dict[str, int]
    num_shared_images: int
    num_shared_lesions: int
    num_shared_groups: int
    share_test_images: float | None = None
    share_test_melanomas: float | None = None


@dataclass(frozen=True)
class SplitLeakage:
    """How much of a split was seen in training or validation.

    Attributes:
        num_shared_images: Images of the split that were seen.
        num_shared_lesions: Lesions of the split that were seen.
        num_shared_groups: Near-duplicate groups of the split that were seen.
        num_leaky_images: Images of the split that are, or share a lesion or group with,
            an image that was seen.
    """

    num_shared_images: int
    num_shared_lesions: int
    num_shared_groups: int
    num_leaky_images: int


def audit(
    splits: Mapping[str, pd.DataFrame],
    class_names: Sequence[str],
    *,
    inputs: Iterable[str] = (),
    siblings_allowed: bool = False,
) -> LeakageAudit:
    """Returns what was counted, once it is certain that no split leaks into another.

    Args:
        splits: The table of "train", "val" and "test", or of some of them, with the
            columns image_id, lesion_id, group_id and label.
        class_names: The names of the labels, in order.
        inputs: The names of what the model is given; none may begin with one of
            `FORBIDDEN_INPUTS`.
        siblings_allowed: Whether pictures of one lesion may be in two splits, as in a
            split by image; they are counted then, and a picture is still in one only.

    Raises:
        DataError: Something is in two splits or a picture is twice in one, a split has
            no picture of a class, or the model is given what tells the answer.
    """
    _check_inputs(inputs)
    _check_classes(splits, class_names)
    num_shared = {}
    for name, table in splits.items():
        _refuse(set(table["image_id"][table["image_id"].duplicated()]), "image", name)
    for column, kind in KEPT_APART.items():
        shared = _shared(splits, column)
        num_shared[column] = len(shared)
        if column == "image_id" or not siblings_allowed:
            touched = [n for n, table in splits.items() if table[column].isin(shared).any()]
            _refuse(shared, kind, " and ".join(touched))
    shares: tuple[float | None, float | None] = (None, None)
    if "test" in splits:
        shares = siblings(splits["train"], splits["test"], class_names)
    return LeakageAudit(
        {name: len(table) for name, table in splits.items()},
        {name: int(table["lesion_id"].nunique()) for name, table in splits.items()},
        num_shared["image_id"],
        num_shared["lesion_id"],
        num_shared["group_id"],
        *shares,
    )


def siblings(
    train: pd.DataFrame, test: pd.DataFrame, class_names: Sequence[str]
) -> tuple[float | None, float | None]:
    """Returns the shares of the test images and melanomas whose lesion is in training.

    Args:
        train: A table with lesion_id.
        test: A table with lesion_id and label.
        class_names: The names of the labels, in order.

    Returns:
        Two shares in 0..1; None for no images.
    """
    has_sibling = test["lesion_id"].isin(train["lesion_id"])
    names = test["label"].map(dict(enumerate(class_names)))
    melanomas = has_sibling[names == MELANOMA]
    return (
        float(has_sibling.mean()) if len(has_sibling) else None,
        float(melanomas.mean()) if len(melanomas) else None,
    )


def count_shared(known: pd.DataFrame, asked: pd.DataFrame) -> SplitLeakage:
    """Returns how much of a split that no training was checked against leaks into it.

    Args:
        known: The rows that were trained on or chosen with: image_id, lesion_id, group_id.
        asked: Those of the split.
    """
    both = {"known": known, "asked": asked}
    shared = {column: _shared(both, column) for column in KEPT_APART}
    leaky = pd.DataFrame({column: asked[column].isin(of) for column, of in shared.items()})
    return SplitLeakage(
        len(shared["image_id"]),
        len(shared["lesion_id"]),
        len(shared["group_id"]),
        int(leaky.any(axis=1).sum()),
    )


def _shared(splits: Mapping[str, pd.DataFrame], column: str) -> set[str]:
    values = pd.concat([table[column].drop_duplicates() for table in splits.values()])
    return set(values[values.duplicated()])


def _refuse(shared: set[str], kind: str, where: str) -> None:
    if shared:
        raise DataError(
            f"{len(shared)} {kind}(s) stand twice in {where}: "
            f"{', '.join(sorted(shared)[:10])}. Expected each {kind} in one split only; "
            "a score on such a split is inflated. Build the dataset again."
        )


def _check_inputs(inputs: Iterable[str]) -> None:
    telling = [name for name in inputs if name.startswith(FORBIDDEN_INPUTS)]
    if telling:
        raise DataError(
            f"The model is given {', '.join(telling)}, which tells the diagnosis or the "
            "source and not what the lesion looks like. Expected none of: "
            f"{', '.join(FORBIDDEN_INPUTS)}."
        )


def _check_classes(splits: Mapping[str, pd.DataFrame], class_names: Sequence[str]) -> None:
    counts = pd.DataFrame(
        {name: table["label"].value_counts() for name, table in splits.items()},
        index=range(len(class_names)),
    )
    counts = counts.fillna(0).astype(int).set_axis(list(class_names), axis="index")
    if (counts == 0).any(axis=None):
        raise DataError(
            "Each split must hold every class, or its scores mean nothing. Pictures of "
            f"each class:\n{counts.to_string()}\nGive other folds, or more data."
        )
