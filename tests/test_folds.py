from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from tfds_ham10000.demo import make_dataset
from tfds_ham10000.folds import NUM_FOLDS, assign_folds
from tfds_ham10000.sources import Record


def test_folds_are_balanced_in_each_class_and_keep_lesions_whole() -> None:
    records, _ = make_dataset(3000)
    folds = assign_folds(records)
    assert set(folds) == {record.lesion_id for record in records}
    counts = Counter((record.dx, folds[record.lesion_id]) for record in records)
    most_views = max(Counter(record.lesion_id for record in records).values())
    for dx in {record.dx for record in records}:
        of_class = [counts[dx, fold] for fold in range(NUM_FOLDS)]
        assert min(of_class) >= 1
        assert max(of_class) - min(of_class) <= most_views
    sizes = Counter(folds[record.lesion_id] for record in records)
    assert max(sizes.values()) - min(sizes.values()) <= 7 * most_views


def test_folds_do_not_depend_on_the_order_of_the_records() -> None:
    records, _ = make_dataset(300)
    shuffled = [records[i] for i in np.random.default_rng(0).permutation(len(records))]
    assert assign_folds(records) == assign_folds(shuffled)


def test_folds_are_the_same_on_every_machine_and_version() -> None:
    """Scores are comparable only while this holds: these folds are written down."""
    lesions = [f"HAM_{number:07d}" for number in range(15)]
    patient = Record("", "", "mel", "histo", 45.0, "female", "back", "rosendahl")
    records = [
        replace(patient, lesion_id=lesion, image_id=f"{lesion}_{view}")
        for number, lesion in enumerate(lesions)
        for view in range(1 + (number < 3))
    ]
    folds = assign_folds(records)
    assert [folds[lesion] for lesion in lesions] == WRITTEN_DOWN


WRITTEN_DOWN = [2, 0, 1, 5, 4, 6, 7, 8, 5, 7, 3, 9, 3, 6, 4]
