"""Label maps between datasets and models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from skincnn.data.label_maps import (
    find_label_map,
    normalize,
    published_taxonomies,
    read_user_map,
)
from skincnn.errors import ConfigError
from tfds_ham10000.records import CLASS_NAMES, ISIC2019_CLASS_NAMES

PAD = ("ACK", "BCC", "MEL", "NEV", "SCC", "SEK")


def test_published_labels_contain_classes_of_isic2019_and_do_not_conflict() -> None:
    contents: dict[str, tuple[str, ...]] = {}
    for taxonomy in published_taxonomies():
        assert taxonomy.source
        for label, classes in taxonomy.labels.items():
            assert set(classes) <= set(ISIC2019_CLASS_NAMES)
            assert contents.setdefault(label, classes) == classes, label
    assert {name for (name,) in filter(lambda c: len(c) == 1, contents.values())} == set(
        ISIC2019_CLASS_NAMES
    )


@pytest.mark.parametrize(
    ("labels", "class_names", "expected"),
    [
        (PAD, CLASS_NAMES, ("akiec", "bcc", "mel", "nv", "akiec", "bkl")),
        (PAD, ISIC2019_CLASS_NAMES, ("ak", "bcc", "mel", "nv", "scc", "bkl")),
        (ISIC2019_CLASS_NAMES, CLASS_NAMES, ("mel", "nv", "bcc", "akiec", "bkl", "df")),
        # A model with finer classes has no class for akiec.
        (CLASS_NAMES, ISIC2019_CLASS_NAMES, (None, "bcc", "bkl", "df", "mel", "nv")),
        # The classes of the model are recognized by their spelling, too.
        (("mel", "nv", "vasc"), ("Melanoma", "nevus"), ("Melanoma", "nevus", None)),
        (("clark_nevus", "miscellaneous"), CLASS_NAMES, ("nv", None)),
        (CLASS_NAMES, ("benign", "malignant"), ("malignant", "malignant", "benign")),
        # Neither label says which of the seven classes it is.
        (("benign", "malignant"), CLASS_NAMES, (None, None)),
        (("wart", "nv"), ("nv", "Wart"), ("Wart", "nv")),
    ],
)
def test_labels_map_to_the_class_that_contains_them(
    labels: Sequence[str], class_names: Sequence[str], expected: Sequence[str | None]
) -> None:
    classes = find_label_map(labels, class_names, {}).classes
    assert tuple(classes.values())[: len(expected)] == expected
    assert tuple(classes) == tuple(labels)


def test_a_map_names_its_sources_and_notes() -> None:
    same = find_label_map(CLASS_NAMES, CLASS_NAMES, {})
    assert (same.sources, same.notes) == ((), ())
    label_map = find_label_map(PAD, CLASS_NAMES, {"SEK": None})
    assert [source.split(":")[0] for source in label_map.sources] == [
        "the user's map",
        "PAD-UFES-20",
        "HAM10000",
    ]
    assert len(label_map.notes) == 2
    assert label_map.classes["SEK"] is None


@pytest.mark.parametrize(
    ("labels", "class_names", "missing"),
    [
        (("nv", "wart", "corn"), CLASS_NAMES, "wart, corn"),
        # It is not known whether "mole" contains nevi.
        (("nevus", "mel"), ("mole", "mel"), "nevus"),
    ],
)
def test_an_unknown_label_is_an_error_that_shows_how_to_write_a_map(
    labels: Sequence[str], class_names: Sequence[str], missing: str
) -> None:
    with pytest.raises(ConfigError) as error:
        find_label_map(labels, class_names, {})
    text = str(error.value)
    assert f"no known class: {missing}." in text
    assert ", ".join(class_names) in text
    start, end = text.index("{"), text.index("}") + 1
    example = json.loads(text[start:end])
    assert list(example) == missing.split(", ")
    classes = find_label_map(labels, class_names, example).classes
    assert all(classes[label] is None for label in example)
    assert find_label_map(labels, class_names, {"*": None}).classes == classes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[" * 200_000, "cannot be read: maximum recursion depth exceeded"),
        ('["mel"]', "Expected a JSON object"),
        ('{"wart": 3}', "Expected a JSON object"),
        ('{"wart": "mel", "wart": "nv"}', "key 'wart' occurs more than once"),
        ('{"wart": " "}', "the class of 'wart' must not be empty. Use null"),
        ('{"wart": "mell"}', "must be null or one of: .*Did you mean 'mel'"),
    ],
)
def test_an_invalid_user_map_is_rejected(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "map.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_user_map(path, CLASS_NAMES)


def test_case_hyphens_and_underscores_of_labels_do_not_matter() -> None:
    assert normalize(" Seborrheic_Keratosis-like  ") == "seborrheic keratosis like"
