"""Sentences on lesions and patients: where they are known, and which ones splits share."""

from __future__ import annotations

from skincnn.data.characteristics import UNKNOWN
from skincnn.data.identifiers import Identifiers, Unit
from skincnn.data.leakage import LeakageAudit, SplitLeakage
from skincnn.evaluation.results import SplitResult
from skincnn.inference.run_dir import NearDuplicateSearch
from skincnn.reporting.load import RunResults

PLURALS: dict[Unit, str] = {"patient": "patients", "lesion": "lesions", "image": "images"}
GROUPS = "groups of images that are kept together"
"""Label of groups, which are explained by `describe_identifiers`."""


def units(result: SplitResult) -> str:
    """Returns what the bootstrap resamples, such as "lesions"."""
    return PLURALS[result.unit]


def describe_groups(result: SplitResult) -> str:
    """Returns the number and the kind of the groups that the bootstrap resamples."""
    known = result.characteristics.identifiers
    counts = {"patient": known.with_patient, "lesion": known.with_lesion}
    single = ""
    if counts.get(known.unit, known.num_images) < known.num_images:
        others = "single images"
        if known.unit == "patient" and known.with_lesion:
            others = "lesions, or single images"
            if known.with_lesion == known.num_images:
                others = "lesions"
        single = f" (or {others}, where the {known.unit} is not known)"
    return f"{result.num_groups:,} {units(result)}{single} with their near-duplicates"


def describe_identifiers(known: Identifiers) -> str:
    """Returns whether lesions and patients are known, and how images are grouped."""
    counts = {"lesions": known.with_lesion, "patients": known.with_patient}
    total = known.num_images
    clauses = {
        "are known": [name for name, count in counts.items() if count == total],
        "are not known": [name for name, count in counts.items() if not count],
    }
    parts = [f"{' and '.join(names)} {verb}" for verb, names in clauses.items() if names]
    parts += [
        f"{name} are known for {count:,} of {total:,} images"
        for name, count in counts.items()
        if 0 < count < total
    ]
    text = "; ".join(parts)
    if known.unit == "image":
        return f"{text[0].upper()}{text[1:]}: only near-duplicates are kept together."
    ignored = known.unit == "lesion" and known.with_patient
    by = f"{known.unit} (patients are ignored)" if ignored else known.unit
    if known.unit == "patient" and known.with_patient < total and known.with_lesion:
        by += " (by lesion, where the patient is not known)"
    return (
        f"{text[0].upper()}{text[1:]}: images are grouped by {by}, and near-duplicates are "
        "kept together."
    )


def describe_counts(result: SplitResult) -> str:
    """Returns text such as "1,001 images of 750 lesions"."""
    patients = result.characteristics.num_patients
    return count_images(result.num_images, result.num_lesions, patients)


def count_images(images: int, lesions: int | None, patients: int | None = None) -> str:
    """Returns numbers as text, such as "1,001 images of 750 lesions of 600 patients".

    None is an unknown number. An unknown number of lesions is mentioned only if the number
    of patients is unknown, too.
    """
    text = f"{images:,} {'image' if images == 1 else 'images'}"
    if lesions is not None:
        text += f" of {lesions:,} {'lesion' if lesions == 1 else 'lesions'}"
    elif patients is None:
        return f"{text} of an unknown number of lesions"
    if patients is not None:
        text += f" of {patients:,} {'patient' if patients == 1 else 'patients'}"
    return text


def count_or_unknown(count: int | None, noun: str) -> str:
    """Returns "750 lesions", or "lesions not known" for None."""
    return f"{noun} {UNKNOWN}" if count is None else f"{count:,} {noun}"


def describe_unseen(results: RunResults, *, is_split_by_image: bool) -> str:
    """Returns what the model that tests an image in cross-validation was not trained on.

    The text is, for example, "its lesion", where "its" refers to the image.
    """
    unit = "image" if is_split_by_image else results.info.identifiers.unit
    return "that image" if unit == "image" else f"its {unit}"


def describe_overlap(leakage: LeakageAudit | SplitLeakage) -> tuple[str, str]:
    """Returns two texts: the number of shared lesions, and of other shared units.

    The other units are images, patients (if their number is known) and groups.
    """
    lesions = count_or_unknown(leakage.num_shared_lesions, "lesions")
    counts = [f"{leakage.num_shared_images:,} images"]
    if leakage.num_shared_patients is not None:
        counts.append(f"{leakage.num_shared_patients:,} patients")
    return lesions, f"{', '.join(counts)} and {leakage.num_shared_groups:,} {GROUPS}"


def describe_separation(results: RunResults) -> str:
    """Returns which lesions and patients the splits share, as far as they are known.

    The text is true only for splits without leakage.
    """
    known, audit = results.info.identifiers, results.info.audit
    if results.info.synthetic:
        return "Training, validation and test share no lesion."
    total = known.num_images
    share_no_patient = known.with_patient == total and not audit.num_shared_patients
    if not known.with_lesion and share_no_patient:
        lesions = "Lesions are not known."
    elif not known.with_lesion:
        lesions = (
            "Lesions are not known: images of one lesion can be in more than one split "
            "(training, validation, test), and the scores are then too high."
        )
    elif known.with_lesion < total:
        lesions = (
            f"Lesions are known for {known.with_lesion:,} of {total:,} images; training, "
            "validation and test share none of these lesions."
        )
    else:
        lesions = (
            "Training, validation and test share no lesion, as far as the lesions are "
            "known."
        )
    images = "Near-duplicates"
    if known.with_lesion:
        images = "Images that were recorded as different lesions but show the same one"
    search = _describe_search(results.info.near_duplicates)
    together = f"{images} are kept together where an image search found them ({search})."
    patients = (
        "Patients are not known: images of one patient can be in more than one split."
    )
    if audit.num_shared_patients:
        patients = (
            f"Images are not grouped by patient: images of {audit.num_shared_patients:,} "
            "patients are in more than one split."
        )
    elif share_no_patient:
        patients = "They share no patient."
        if not known.with_lesion:
            patients = (
                "Training, validation and test share no patient, and therefore no lesion."
            )
    elif known.with_patient:
        patients = (
            f"Patients are known for {known.with_patient:,} of {total:,} images; training, "
            "validation and test share none of these patients."
        )
    return f"{lesions} {patients} {together}"


def _describe_search(search: NearDuplicateSearch) -> str:
    """Returns the share of known pairs that the search for near-duplicates finds."""
    if not search.known_pairs:
        return "how many of them it finds is not known"
    return (
        f"of {search.known_pairs:,} pairs of images known to show the same lesion, it "
        f"finds {100 * search.found_pairs / search.known_pairs:.0f} %"
    )
