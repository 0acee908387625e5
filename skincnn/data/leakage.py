"""The audit at the start of every training: nothing leaks between the splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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


def audit(
    splits: Mapping[str, pd.DataFrame],
    class_names: Sequence[str],
    *,
    inputs: Iterable[str] = (),
    siblings_allowed: bool = False,
) -> dict[str, Any]:
    """Returns what was counted, once it is certain that no split leaks into another.

    Args:
        splits: The table of "train", "val" and "test", or of some of them, with the
            columns image_id, lesion_id, group_id and label.
        class_names: The names of the labels, in order.
        inputs: The names of what the model is given; none may begin with one of
            `FORBIDDEN_INPUTS`.
        siblings_allowed: Whether pictures of one lesion may be in two splits, as in a
            split by image; they are counted then, and a picture is still in one only.

    Returns:
        `num_<split>_images` and `_lesions`; `num_shared_images`, `_lesions` and
        `_groups`, which are 0 unless siblings are allowed; and, where there is a test,
        the `share_test_images` and `share_test_melanomas` of it that have a picture of
        the same lesion in training (None where there is no melanoma).

    Raises:
        DataError: Something is in two splits or a picture is twice in one, a split has
            no picture of a class, or the model is given what tells the answer.
    """
    _check_inputs(inputs)
    _check_classes(splits, class_names)
    counts: dict[str, Any] = {}
    for name, table in splits.items():
        counts[f"num_{name}_images"] = len(table)
        counts[f"num_{name}_lesions"] = table["lesion_id"].nunique()
        _refuse(set(table["image_id"][table["image_id"].duplicated()]), "image", name)
    for column, kind in KEPT_APART.items():
        shared = _shared(splits, column)
        counts[f"num_shared_{column.removesuffix('_id')}s"] = len(shared)
        if column == "image_id" or not siblings_allowed:
            touched = [n for n, table in splits.items() if table[column].isin(shared).any()]
            _refuse(shared, kind, " and ".join(touched))
    if "test" in splits:
        counts |= siblings(splits["train"], splits["test"], class_names)
    return counts


def siblings(
    train: pd.DataFrame, test: pd.DataFrame, class_names: Sequence[str]
) -> dict[str, float | None]:
    """Returns the shares of test pictures with a picture of their lesion in training.

    Args:
        train: A table with lesion_id.
        test: A table with lesion_id and label.
        class_names: The names of the labels, in order.

    Returns:
        `share_test_images` and `share_test_melanomas`, in 0..1; None for no pictures.
    """
    has_sibling = test["lesion_id"].isin(train["lesion_id"])
    names = test["label"].map(dict(enumerate(class_names)))
    melanomas = has_sibling[names == MELANOMA]
    return {
        "share_test_images": float(has_sibling.mean()) if len(has_sibling) else None,
        "share_test_melanomas": float(melanomas.mean()) if len(melanomas) else None,
    }


def count_shared(known: pd.DataFrame, asked: pd.DataFrame) -> dict[str, int]:
    """Returns how much of a split that no training was checked against leaks into it.

    Args:
        known: The rows that were trained on or chosen with: image_id, lesion_id, group_id.
        asked: Those of the split.

    Returns:
        `num_shared_images`, `_lesions` and `_groups`, as of `audit`; and
        `num_leaky_images`, the pictures of the split that share any of these.
    """
    both = {"known": known, "asked": asked}
    shared = {column: _shared(both, column) for column in KEPT_APART}
    leaky = pd.DataFrame({column: asked[column].isin(of) for column, of in shared.items()})
    counts = {
        f"num_shared_{name.removesuffix('_id')}s": len(of) for name, of in shared.items()
    }
    return {**counts, "num_leaky_images": int(leaky.any(axis=1).sum())}


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
