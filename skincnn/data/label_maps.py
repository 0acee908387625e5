"""Label maps: the class to which each label of a dataset corresponds."""

from __future__ import annotations

import functools
import json
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from skincnn.classes import describe
from skincnn.config.files import require_unique
from skincnn.errors import ConfigError
from skincnn.lookup import suggest
from skincnn.records import Part, describe_error
from tfds_ham10000.records import compose

PUBLISHED_FILE = resources.files("skincnn.data") / "label_maps.toml"
ANY_OTHER = "*"
"""Key of a user's map for all labels that have neither an entry nor a default."""
UserMap = dict[str, str | None]
"""Class by label; None leaves the images out."""


class Taxonomy(Part):
    """The labels of a published dataset.

    Attributes:
        source: Source of the definitions of the labels.
        note: What a reader of the scores has to know.
        labels: The classes of ISIC 2019 that each label contains; () for a label that
            contains other or unknown diagnoses.
    """

    name: str
    source: str
    note: str = ""
    labels: dict[str, tuple[str, ...]]


class LabelMap(Part):
    """The class of each label of a dataset.

    Attributes:
        classes: Class by label; None if there is no such class, or if the user's map
            leaves the images out.
        sources: Sources of the mappings from a published taxonomy or from the user's map.
            Mappings to a class with the same name or a synonym have no source.
        notes: Notes on these sources.
    """

    classes: dict[str, str | None]
    sources: tuple[str, ...]
    notes: tuple[str, ...]


@functools.cache
def published_taxonomies() -> tuple[Taxonomy, ...]:
    """Returns the taxonomies of `PUBLISHED_FILE`, with labels changed by `normalize`."""
    content = tomllib.loads(PUBLISHED_FILE.read_text(encoding="utf-8"))
    taxonomies = TypeAdapter(tuple[Taxonomy, ...]).validate_python(content["taxonomies"])
    return tuple(
        taxonomy.model_copy(
            update={"labels": {normalize(k): v for k, v in taxonomy.labels.items()}}
        )
        for taxonomy in taxonomies
    )


def find_label_map(
    labels: Sequence[str],
    class_names: Sequence[str],
    user_map: Mapping[str, str | None],
    flag: str = "--label-map FILE",
) -> LabelMap:
    """Returns the class of each label of a dataset, among `class_names`.

    The class of a label is determined by the first of these rules that applies:

    1. The user's map has an entry for the label: the class in this entry, or None.
    2. The name of a class is the label or a synonym of it (see `skincnn.classes`): this
       class.
    3. The label and all classes are in `published_taxonomies`: the only class that contains
       everything that the label contains. If there is none, or if there are several, the
       label has no class (None): for example, `akiec` if actinic keratosis and squamous
       cell carcinoma are different classes. A label that contains other or unknown
       diagnoses, such as `unk`, has no class either.
    4. The user's map has the entry `ANY_OTHER`: the class in this entry, or None.

    `flag` is the option of the user's map, for the error message.

    Raises:
        ConfigError: None of the rules applies to a label.
    """
    same = {_name(name): name for name in class_names}
    same |= {name: name for name in class_names}
    known, known_classes = _find_published(labels), _find_published(class_names)
    classes: dict[str, str | None] = {}
    used: list[Taxonomy] = []
    user_labels = []
    for label in labels:
        if label in user_map:
            classes[label] = user_map[label]
            user_labels.append(label)
        elif label in same or _name(label) in same:
            classes[label] = same.get(label) or same[_name(label)]
        elif label in known and len(known_classes) == len(class_names):
            content = set(_classes_in(known[label], label))
            containing = [
                name
                for name, taxonomy in known_classes.items()
                if content and content <= set(_classes_in(taxonomy, name))
            ]
            classes[label] = containing[0] if len(containing) == 1 else None
            used += [known[label], *(known_classes[name] for name in containing)]
        elif ANY_OTHER in user_map:
            classes[label] = user_map[ANY_OTHER]
            user_labels.append(label)
    _require_all(labels, class_names, classes, flag)
    sources = {f"{taxonomy.name}: {taxonomy.source}": taxonomy.note for taxonomy in used}
    own = [f"the user's map: {', '.join(user_labels)}"] if user_labels else []
    notes = dict.fromkeys(note for note in sources.values() if note)
    return LabelMap(classes=classes, sources=(*own, *sources), notes=tuple(notes))


def read_user_map(
    path: Path | None, class_names: Collection[str] | None, flag: str = "--label-map"
) -> UserMap:
    """Returns the map in a user's JSON file; empty if `path` is None.

    `class_names` are the valid classes, or None if any name that is not blank is valid.
    `flag` is the option of the file, for the error message.

    Raises:
        ConfigError: The file cannot be read, is not a map from labels to class names or
            null, contains a label more than once (also in another Unicode form), or
            contains a name that is not valid.
    """
    if path is None:
        return {}
    try:
        values = json.loads(path.read_bytes(), object_pairs_hook=require_unique)
        given = TypeAdapter(UserMap).validate_python(values)
        user_map: UserMap = require_unique(
            [(compose(x), y if y is None else compose(y)) for x, y in given.items()]
        )
    except (OSError, ValueError, RecursionError) as error:
        reason = (
            describe_error(error)
            if isinstance(error, ValidationError)
            else f"{str(error).rstrip('.')}."
        )
        raise ConfigError(
            f"{flag} {path} cannot be read: {reason} Expected a JSON object with the "
            'class of each label, or null, such as {"label": "'
            f'{next(iter(class_names or ["class"]))}", "other label": null}}.'
        ) from error
    for label, name in user_map.items():
        if name is not None and not name.strip():
            raise ConfigError(
                f"{flag} {path}: the class of {label!r} must not be empty. Use null to "
                f"leave out the images. Received: {name!r}."
            )
        if name is not None and class_names is not None and name not in class_names:
            raise ConfigError(
                f"{flag} {path}: the class of {label!r} must be null or one of: "
                f"{', '.join(class_names)}. Received: {name!r}."
                f"{suggest(class_names, name)}"
            )
    return user_map


def normalize(label: str) -> str:
    """Returns a label in lower case, with single spaces for hyphens and underscores.

    Repeated spaces become one, and spaces at both ends are removed.
    """
    return re.sub(r"[\s_-]+", " ", label).strip().lower()


def _name(label: str) -> str:
    """Returns the short name of a class, such as "mel"; other labels are normalized."""
    lesion = describe([label])[label]
    return normalize(lesion.name)


def _find_published(labels: Sequence[str]) -> dict[str, Taxonomy]:
    """Returns the taxonomy of each published label.

    Taxonomies that contain more of the labels are preferred.
    """

    def count(taxonomy: Taxonomy) -> int:
        return sum(normalize(label) in taxonomy.labels for label in labels)

    ordered = sorted(published_taxonomies(), key=count, reverse=True)
    return {
        label: taxonomy
        for label in labels
        for taxonomy in [next((t for t in ordered if normalize(label) in t.labels), None)]
        if taxonomy is not None
    }


def _classes_in(taxonomy: Taxonomy, label: str) -> tuple[str, ...]:
    return taxonomy.labels[normalize(label)]


def _require_all(
    labels: Sequence[str],
    class_names: Sequence[str],
    classes: Mapping[str, str | None],
    flag: str,
) -> None:
    missing = [label for label in labels if label not in classes]
    if missing:
        raise ConfigError(
            f"These labels of the dataset have no known class: {', '.join(missing)}. The "
            f"classes are: {', '.join(class_names)}. Use {flag} with a JSON file that "
            "contains the class of each of these labels, or null if it has none, such as "
            f"{_example(missing)}. The entry {json.dumps(ANY_OTHER)}: null leaves out the "
            "images of all other labels."
        )


def _example(missing: Sequence[str]) -> str:
    return json.dumps(dict.fromkeys(missing[:5]), ensure_ascii=False)
