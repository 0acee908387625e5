"""Sentences on the datasets of a run: names, label maps, and images that are not used."""

from __future__ import annotations

from skincnn.data.characteristics import DatasetInfo
from skincnn.inference.run_dir import RunInfo
from skincnn.reporting.labels import class_label

OWN_IMAGES = "the user's own images"
SYNTHETIC_IMAGES = "synthetic demo images"
SYNTHETIC = (
    "SYNTHETIC images, rendered by code. The scores show that the software works; they say "
    "nothing about skin lesions."
)
"""Warning if all images are synthetic."""
ONE_GROUP = (
    "Images of different datasets are kept together, in one split, if they have an equal "
    "published ID (of the image, the lesion or the patient) or are near-duplicates. Of "
    "several copies of an image, only that of the first dataset is used."
)


def data_label(info: RunInfo) -> str:
    """Returns a name of the data, such as "isic2018" or "synthetic demo images"."""
    names = (
        SYNTHETIC_IMAGES if d.synthetic else d.name if d.attribution else OWN_IMAGES
        for d in info.datasets
    )
    return " and ".join(dict.fromkeys(names))


def describe_synthetic(info: RunInfo) -> str:
    """Returns a warning if all or some images are synthetic; "" otherwise."""
    if info.synthetic:
        return SYNTHETIC
    if not info.partly_synthetic:
        return ""
    names = ", ".join(dataset.name for dataset in info.datasets if dataset.synthetic)
    return (
        f"PARTLY SYNTHETIC: these datasets contain images that are rendered by code: "
        f"{names}. Scores on splits that contain such images do not apply to skin lesions "
        "alone; the subgroups by dataset are scored separately."
    )


def describe_input(info: RunInfo) -> str:
    """Returns what an input of the model shows, such as "a dermatoscopic image"."""
    if info.synthetic:
        return f"an image like the {SYNTHETIC_IMAGES}"
    if info.published:
        return "a dermatoscopic image of a skin lesion"
    return "an image like those it was trained on"


def describe_datasets(info: RunInfo) -> list[str]:
    """Returns sentences on the datasets; none for one dataset without renamed labels."""
    sentences = [_describe_dataset(dataset, info) for dataset in info.datasets]
    if len(info.datasets) == 1:
        return sentences if _changed_labels(info.datasets[0]) else []
    return [*sentences, ONE_GROUP]


def describe_label_conflicts(info: RunInfo) -> str:
    """Returns the number of pairs of images with contradictory labels; "" for none."""
    count = len(info.label_conflicts)
    if not count:
        return ""
    return (
        f"CONTRADICTORY LABELS: {count:,} {'pair' if count == 1 else 'pairs'} of copies or "
        f"near-duplicates in the dataset {'has' if count == 1 else 'have'} different "
        "labels, at least one of which is wrong. Correct the labels and build the dataset "
        "again."
    )


def _describe_dataset(dataset: DatasetInfo, info: RunInfo) -> str:
    text = f"{dataset.name}: {dataset.num_stored:,} images"
    if not info.members:  # several models can have different splits
        used = (f"{count:,} in {split}" for split, count in dataset.num_images.items())
        text += f", {', '.join(used)}".replace(" val", " validation").replace(
            " train", " training"
        )
    parts = [text]
    if dataset.num_copies:
        parts.append(
            f"{dataset.num_copies:,} are not used, because they are copies of images of an "
            "earlier dataset"
        )
    if changed := _changed_labels(dataset):
        pairs = (
            f"{label} is {class_label(name, info.declared)}" for label, name in changed
        )
        parts.append(f"label map: {', '.join(pairs)}")
    if unused := dataset.labels_without_class:
        parts.append(f"images of these labels are not used: {', '.join(unused)}")
    sources = dataset.label_map.sources
    parts += [f"sources of the label map: {'; '.join(sources)}"] if sources else []
    notes = "".join(f" {note}" for note in dataset.label_map.notes)
    return f"{'; '.join(parts)}.{notes}"


def _changed_labels(dataset: DatasetInfo) -> list[tuple[str, str]]:
    """Returns the labels whose class has another name, with this class."""
    classes = dataset.label_map.classes
    return [(label, name) for label, name in classes.items() if name not in (None, label)]
