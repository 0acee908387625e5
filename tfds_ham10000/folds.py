"""Ten lesion-grouped, class-stratified folds, the same on every machine."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

from tfds_ham10000.sources import Record

NUM_FOLDS = 10


def assign_folds(records: Iterable[Record]) -> dict[str, int]:
    """Returns the fold, in 0..9, of each lesion_id.

    All pictures of a lesion share a fold. Class by class, lesions with the most
    pictures first (ties in the order of the SHA-256 of their lesion_id), each lesion goes
    to the fold that holds the fewest pictures of its class so far, then to the one that
    holds the fewest pictures in all, then to the first. The folds of a class therefore
    differ by at most the pictures of one lesion, and nothing depends on a random
    generator or on a library's version.
    """
    lesions: Counter[tuple[str, str]] = Counter(
        (record.dx, record.lesion_id) for record in records
    )
    order = sorted(lesions, key=lambda key: (key[0], -lesions[key], _digest(key[1])))
    in_class: Counter[tuple[str, int]] = Counter()
    in_all: Counter[int] = Counter()
    folds: dict[str, int] = {}
    for dx, lesion_id in order:
        fold = min(
            range(NUM_FOLDS), key=lambda fold: (in_class[dx, fold], in_all[fold], fold)
        )
        folds[lesion_id] = fold
        in_class[dx, fold] += lesions[dx, lesion_id]
        in_all[fold] += lesions[dx, lesion_id]
    return folds


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
