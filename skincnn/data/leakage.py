"""Leakage audit: finds images, lesions, patients and groups that splits share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from skincnn.data.identifiers import ID_COLUMNS, count_ids, known_ids
from skincnn.errors import DataError
from skincnn.metrics.operating_points import find_targets

DISJOINT_COLUMNS = {"sha256": "image", "lesion_id": "lesion", "group_id": "group"}
"""Columns whose values should occur in one split only, and what the values identify. A
patient may be in several splits if the dataset is grouped by lesion."""

FORBIDDEN_INPUTS = (
    *("dx", "diagnos", "label", "class", "target", "malignan", "benign", "melanoma"),
    *("histo", "patholog", "biops", "confirm", "id", "lesion", "group", "patient"),
    *("dataset", "source", "attribution", "sha256", "fold", "split"),
)
"""Beginnings of words in the names of inputs that can reveal the diagnosis. For example, in
HAM10000, images with the `dx_type` follow_up are always nevi, and class proportions differ
between the sources."""

MAX_INPUT_SCORE = 0.9
"""Balanced accuracy at or above which a single input is assumed to encode the diagnosis."""


@dataclass(frozen=True)
class LeakageAudit:
    """The result of the audit of all splits of a run.

    `num_lesions` and `num_patients` are None for a split unless they are known for all of
    its images. `num_shared_*` are the numbers of images (by the SHA-256 of the file),
    lesions, patients and groups in more than one split; for lesions or patients, None
    unless some are known in two splits or more. `share_test_*` are the shares, in 0..1, of
    the test images, and of the test images of melanomas, that are known to show a lesion of
    the training split. A share is None if no lesion is known in the training or the test
    split, or if there are no test images or test melanomas.
    """

    num_images: dict[str, int]  # by split
    num_lesions: dict[str, int | None]  # by split
    num_patients: dict[str, int | None]  # by split
    num_shared_images: int
    num_shared_lesions: int | None
    num_shared_patients: int | None
    num_shared_groups: int
    share_test_images: float | None = None
    share_test_melanomas: float | None = None


@dataclass(frozen=True)
class SplitLeakage:
    """The overlap of a split with other images, such as the training images.

    `num_shared_*` are the numbers of images, lesions, patients and groups of the split that
    the other images contain, too; for lesions or patients, None unless some are known in
    both. `num_leaky_images` is the number of images of the split that are shared, or whose
    lesion or group is shared.
    """

    num_shared_images: int
    num_shared_lesions: int | None
    num_shared_patients: int | None
    num_shared_groups: int
    num_leaky_images: int


def audit(
    splits: Mapping[str, pd.DataFrame],
    class_names: Sequence[str],
    *,
    inputs: Iterable[str] = (),
    siblings_allowed: bool = False,
    may_lack_classes: Collection[str] = (),
) -> LeakageAudit:
    """Checks the splits of a run for leakage, and returns the result.

    Args:
        splits: The tables of "train", "val" and "test" by name, with the columns image_id,
            sha256, lesion_id, group_id, label (the class index) and optionally patient_id.
            "val" and "test" are optional.
        class_names: The class names, in the order of the labels.
        inputs: The names of the model inputs. No word in a name may start with one of
            `FORBIDDEN_INPUTS`. An input that is a column of the training table must not
            predict the label almost perfectly (`MAX_INPUT_SCORE`).
        siblings_allowed: Whether images of one lesion may be in several splits, as in a
            split by image. Shared lesions and groups are then counted but are not an error.
        may_lack_classes: The names of the splits that need not have images of every class,
            such as "test" if a source is left out of training.

    Raises:
        DataError: An image (SHA-256), a lesion or a group is in several splits (with
            `siblings_allowed`, only an image), an image_id is repeated in a split, a split
            that is not in `may_lack_classes` has no images of a class, or an input reveals
            the diagnosis.
    """
    inputs = list(inputs)
    _check_inputs(inputs)
    complete = {n: table for n, table in splits.items() if n not in may_lack_classes}
    _check_classes(complete, class_names)
    for name in inputs:
        if name in splits["train"]:
            _check_input(splits["train"], name)
    for name, table in splits.items():
        repeated = set(table["image_id"][table["image_id"].duplicated()])
        _require_empty(repeated, "image", f"repeated in {name}")
    for column, noun in DISJOINT_COLUMNS.items():
        shared = _shared(splits.values(), column)
        if not siblings_allowed or column == "sha256":
            rows = {n: table[table[column].isin(shared)] for n, table in splits.items()}
            names = [name for name, table in rows.items() if len(table)]
            shown = "image_id" if column == "sha256" else column
            values = pd.concat([table[shown] for table in rows.values()])
            _require_empty(set(values), noun, f"shared by {' and '.join(names)}")
    shares: tuple[float | None, float | None] = (None, None)
    if "test" in splits:
        shares = sibling_shares(splits["train"], splits["test"], class_names)
    return LeakageAudit(
        {name: len(table) for name, table in splits.items()},
        {name: count_ids(table, "lesion") for name, table in splits.items()},
        {name: count_ids(table, "patient") for name, table in splits.items()},
        *_count_shared(splits.values()),
        *shares,
    )


def sibling_shares(
    train: pd.DataFrame, test: pd.DataFrame, class_names: Sequence[str]
) -> tuple[float | None, float | None]:
    """Returns the shares of test images and test melanomas whose lesion is in `train`.

    Each share is in 0..1, or None if no lesion is known in one of the tables, or if there
    are no test images or no test melanomas. Images whose lesion is not known count as if
    their lesion were not in `train`. The tables have the columns lesion_id and label, the
    index of a name in `class_names`.
    """
    lesions = known_ids(train, "lesion")
    if not len(lesions) or not len(known_ids(test, "lesion")):
        return None, None
    has_sibling = test["lesion_id"].isin(lesions)
    target = find_targets(class_names).get("melanoma")
    melanomas = has_sibling[test["label"].isin(target.classes if target else ())]
    return (
        float(has_sibling.mean()),
        float(melanomas.mean()) if len(melanomas) else None,
    )


def count_shared(known: pd.DataFrame, split: pd.DataFrame) -> SplitLeakage:
    """Returns the overlap of a split with `known`, such as the training images.

    Both tables have the columns sha256, lesion_id and group_id, and may have patient_id.
    """
    shared = {column: _shared((known, split), column) for column in DISJOINT_COLUMNS}
    leaky = pd.DataFrame({name: split[name].isin(ids) for name, ids in shared.items()})
    return SplitLeakage(*_count_shared((known, split)), int(leaky.any(axis=1).sum()))


def _count_shared(
    tables: Collection[pd.DataFrame],
) -> tuple[int, int | None, int | None, int]:
    """Returns the numbers of images, lesions, patients and groups that tables share.

    The number of lesions or patients is None unless some are known in two tables or more.
    """
    lesions, patients = (
        len(_shared(tables, column))
        if sum(len(known_ids(table, unit)) > 0 for table in tables) > 1
        else None
        for unit, column in ID_COLUMNS.items()
    )
    images, groups = (len(_shared(tables, column)) for column in ("sha256", "group_id"))
    return images, lesions, patients, groups


def _shared(tables: Iterable[pd.DataFrame], column: str) -> set[str]:
    """Returns the values, other than "", that are in several tables."""
    values = pd.concat([table[column].drop_duplicates() for table in tables])
    return set(values[values.duplicated()]) - {""}


def _require_empty(names: set[str], noun: str, problem: str) -> None:
    if names:
        raise DataError(
            f"{len(names)} {noun}(s) are {problem}: {', '.join(sorted(names)[:10])}. "
            "Repeated images and leakage distort the scores. Remove copies of images from "
            "the source files, delete the dataset, and build it again."
        )


def _check_inputs(inputs: Iterable[str]) -> None:
    forbidden = [
        name
        for name in inputs
        if any(word.startswith(FORBIDDEN_INPUTS) for word in name.lower().split("_"))
    ]
    if forbidden:
        raise DataError(
            "Model inputs must not reveal the diagnosis or the source of an image. "
            f"Received: {', '.join(forbidden)}. Remove these inputs. Inputs that reveal "
            "neither must be renamed, so that no word in them begins with one of: "
            f"{', '.join(FORBIDDEN_INPUTS)}."
        )


def _check_input(table: pd.DataFrame, name: str) -> None:
    """Rejects an input that predicts the label almost perfectly on its own.

    A decision tree is fitted to the input alone and tested by cross-validation over groups.
    """
    # Imported here, because scikit-learn takes a second to import.
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.tree import DecisionTreeClassifier

    folds = min(5, table["group_id"].nunique())
    if folds < 2:
        return
    values = table[name]
    if not pd.api.types.is_numeric_dtype(values):
        values = pd.Series(pd.factorize(values)[0], index=values.index)
    predicted = cross_val_predict(
        DecisionTreeClassifier(class_weight="balanced", random_state=0),
        values.to_numpy(np.float64)[:, None],
        table["label"],
        groups=table["group_id"],
        cv=GroupKFold(folds),
    )
    score = balanced_accuracy_score(table["label"], predicted)
    if score >= MAX_INPUT_SCORE:
        raise DataError(
            f"The input {name!r} alone predicts the diagnosis with a balanced accuracy of "
            f"{score:.2f}. Expected less than {MAX_INPUT_SCORE}: it seems to encode the "
            "diagnosis. Check the values of this input, or do not use it."
        )


def _check_classes(splits: Mapping[str, pd.DataFrame], class_names: Sequence[str]) -> None:
    counts = pd.DataFrame(
        {name: table["label"].value_counts() for name, table in splits.items()},
        index=range(len(class_names)),
    )
    counts = counts.fillna(0).astype(int).set_axis(list(class_names), axis="index")
    if (counts == 0).any(axis=None):
        raise DataError(
            "Each split must have images of every class. Received (numbers of images):\n"
            f"{counts.to_string()}\nUse other folds, or more data."
        )
