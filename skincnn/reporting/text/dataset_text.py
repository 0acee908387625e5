"""Sentences on the datasets of a run: names, label maps, and images that are not used."""

from __future__ import annotations

from skincnn.data.characteristics import DatasetInfo
from skincnn.inference.run_dir import RunInfo
from skincnn.reporting.labels import class_label

OWN_IMAGES = "the user's own images"
ONE_GROUP = (
    "Images of different datasets are kept together, in one split, if they have an equal "
    "published ID (of the image, the lesion or the patient) or are near-duplicates. Of "
    "several copies of an image, only that of the first dataset is used."
)


def data_label(info: RunInfo) -> str:
    """Returns a name of the data, such as "isic2018" or "synthetic demo images"."""
    if info.synthetic:
        return "synthetic demo images"
    names = (d.name if d.attribution else OWN_IMAGES for d in info.datasets)
    return " and ".join(dict.fromkeys(names))


def describe_input(info: RunInfo) -> str:
    """Returns what an input of the model shows, such as "a dermatoscopic image"."""
    if info.synthetic:
        return "an image like the synthetic demo images"
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
    """Returns how many pairs of near-duplicates have different labels; "" for none."""
    count = len(info.label_conflicts)
    if not count:
        return ""
    return (
        f"CONTRADICTORY LABELS: {count:,} {'pair' if count == 1 else 'pairs'} of nearly "
        "identical images in the dataset have different labels, of which at least one is "
        "wrong. Correct the labels and build the dataset again."
    )


def _describe_dataset(dataset: DatasetInfo, info: RunInfo) -> str:
    text = f"{dataset.name}: {dataset.num_stored:,} images"
    if not info.members:  # whose splits are different
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
