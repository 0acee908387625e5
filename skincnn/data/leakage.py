"""The audit that each training starts with: nothing may leak between the splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from skincnn.errors import DataError


def audit(splits: Mapping[str, pd.DataFrame], class_names: Sequence[str]) -> dict[str, int]:
    """Returns what was counted, once it is certain that no split leaks into another.

    Args:
        splits: The table of each split, with the columns image_id, lesion_id and label.
        class_names: The names of the labels, in order.

    Returns:
        `num_<split>` pictures and lesions of each split, and the shared pictures and
        lesions, which are 0.

    Raises:
        DataError: A picture or a lesion is in two splits or a picture is twice in
            one, or a split has no picture of a class.
    """
    _check_classes(splits, class_names)
    counts = {}
    for name, table in splits.items():
        counts[f"num_{name}_images"] = len(table)
        counts[f"num_{name}_lesions"] = table["lesion_id"].nunique()
        _refuse(set(table["image_id"][table["image_id"].duplicated()]), "image", name)
    names = list(splits)
    for position, first in enumerate(names):
        for second in names[position + 1 :]:
            for kind in ("image", "lesion"):
                column = f"{kind}_id"
                shared = set(splits[first][column]) & set(splits[second][column])
                _refuse(shared, kind, f"{first} and {second}")
    return counts | {"num_shared_images": 0, "num_shared_lesions": 0}


def _refuse(shared: set[str], kind: str, where: str) -> None:
    if shared:
        raise DataError(
            f"{len(shared)} {kind}(s) stand twice in {where}: "
            f"{', '.join(sorted(shared)[:10])}. Expected each {kind} in one split only; "
            "a score on such a split is inflated. Build the dataset again."
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
