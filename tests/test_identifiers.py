"""Which lesions and patients are known, and how reports describe this."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from report_runs import Page, make_table
from run_dirs import make_info, score_test, write_run

from skincnn.data.identifiers import Identifiers, count_ids, find_identifiers
from skincnn.reporting.checklist import render_checklists, standard_names
from skincnn.reporting.load import load_results
from skincnn.reporting.report import render_report, summary
from skincnn.reporting.text import identifier_text, report_text
from skincnn.reporting.text.training_text import describe_split_by_image, is_leaky

IMAGES = pd.DataFrame(
    {
        "lesion_id": ["a", "a", "b", "c"],
        "patient_id": ["p", "p", "p", "q"],
        "group_id": ["p", "p", "p", "q"],
    }
)


@pytest.mark.parametrize(
    ("changes", "unit", "counts", "text"),
    [
        (
            {},
            "patient",
            (3, 2),
            "Lesions and patients are known: images are grouped by patient, and "
            "near-duplicates are kept together.",
        ),
        (
            {"group_id": ["a", "a", "b", "c"]},
            "lesion",
            (3, 2),
            "Lesions and patients are known: images are grouped by lesion (patients are "
            "ignored), and near-duplicates are kept together.",
        ),
        (
            {"patient_id": ""},
            "lesion",
            (3, None),
            "Lesions are known; patients are not known: images are grouped by lesion, and "
            "near-duplicates are kept together.",
        ),
        (
            {"patient_id": "", "lesion_id": ["a", "a", "", ""]},
            "lesion",
            (None, None),
            "Patients are not known; lesions are known for 2 of 4 images: images are "
            "grouped by lesion, and near-duplicates are kept together.",
        ),
        (
            {"patient_id": "", "lesion_id": ""},
            "image",
            (None, None),
            "Lesions and patients are not known: only near-duplicates are kept together.",
        ),
    ],
)
def test_what_is_known_is_described(
    changes: dict[str, object], unit: str, counts: tuple[object, object], text: str
) -> None:
    table = IMAGES.assign(**changes)
    known = find_identifiers(table)
    assert known.unit == unit
    assert (count_ids(table, "lesion"), count_ids(table, "patient")) == counts
    assert known.with_lesion == (table["lesion_id"] != "").sum()
    assert known.with_patient == (table["patient_id"] != "").sum()
    assert identifier_text.describe_identifiers(known) == text
    if not known.with_patient:
        assert find_identifiers(table.drop(columns="patient_id")) == known


def test_a_run_without_lesions_claims_nothing_about_them(tmp_path: Path) -> None:
    tables = {
        split: make_table(seed).assign(lesion_id="")
        for seed, split in enumerate(("val", "test"))
    }
    info = make_info()
    unknown = dict.fromkeys(info.audit.num_images)
    audit = dataclasses.replace(
        info.audit, num_lesions=unknown, num_shared_lesions=None, share_test_images=None
    )
    known = Identifiers(num_images=1000, with_lesion=0, with_patient=0, unit="image")
    train = info.training_characteristics.model_copy(
        update={"num_lesions": None, "identifiers": known}
    )
    update = {"audit": audit, "identifiers": known, "training_characteristics": train}
    workdir = write_run(tmp_path, tables, info=info.model_copy(update=update))
    results = load_results(workdir)
    assert not is_leaky(results)
    assert results.headline.unit == "image"
    text = "Lesions are not known: images of one lesion can be in more than one split "
    assert text in report_text.describe_scores(results)
    intervals = report_text.describe_intervals(results)
    assert (
        "resamples of the 60 images with their near-duplicates). Intervals cover the "
        in (intervals)
    )
    assert "the sampling of images" in intervals
    assert "Lesions and patients are not known: only near-dup" in summary(results)
    assert ("lesions", "", ["not known"] * 3) in report_text.baseline_rows(results)
    assert "lesions not known" in report_text.describe_split_boxes(results)[0]
    path = render_report(workdir)
    paths = render_checklists(results, standard_names())
    pages = [Page(path.read_text()).words, (workdir / "README.md").read_text()]
    pages += [p.read_text() for p in paths if p.suffix == ".md"]
    for page in pages:
        for claim in ("share no lesion", " 0 lesions", "few lesions", "resampled lesions"):
            assert claim not in page
        assert "sampling of lesions" not in page
        assert "not known" in page
    shared = dataclasses.replace(audit, num_shared_groups=2)
    by_image = dataclasses.replace(
        results.config,
        data=dataclasses.replace(results.config.data, split_by="image"),
    )
    changed = info.model_copy(update={**update, "audit": shared})
    warning = describe_split_by_image(
        dataclasses.replace(results, info=changed, config=by_image)
    )
    assert warning.startswith("SPLIT BY IMAGE: 2 groups of related images (of one patient")


@pytest.mark.parametrize(
    ("with_lesion", "groups"),
    [
        (120, "patients (or lesions, where the patient is not known)"),
        (60, "patients (or lesions, or single images, where the patient is not known)"),
        (0, "patients (or single images, where the patient is not known)"),
    ],
)
def test_images_without_a_patient_are_grouped_by_lesion(
    with_lesion: int, groups: str
) -> None:
    result = score_test({split: make_table(0) for split in ("val", "test")})
    known = Identifiers(
        num_images=120, with_lesion=with_lesion, with_patient=40, unit="patient"
    )
    images = result.characteristics.model_copy(update={"identifiers": known})
    result = result.model_copy(update={"characteristics": images})
    described = identifier_text.describe_groups(result)
    assert described == f"{result.num_groups} {groups} with their near-duplicates"
    by = " (by lesion, where the patient is not known)" if with_lesion else ""
    assert f"images are grouped by patient{by}, and" in (
        identifier_text.describe_identifiers(known)
    )


def test_a_group_of_patients_is_called_patients(tmp_path: Path) -> None:
    tables = {}
    for seed, split in enumerate(("val", "test")):
        table = make_table(seed)
        patients = [f"p{number // 4}" for number in range(len(table))]
        tables[split] = table.assign(patient_id=patients, group_id=patients)
    info = make_info()
    known = Identifiers(
        num_images=1000, with_lesion=1000, with_patient=1000, unit="patient"
    )
    audit = dataclasses.replace(
        info.audit,
        num_patients={"train": 200, "val": 25, "test": 25},
        num_shared_patients=0,
    )
    info = info.model_copy(update={"identifiers": known, "audit": audit})
    results = load_results(write_run(tmp_path, tables, info=info))
    assert identifier_text.describe_counts(results.headline) == (
        "120 images of 60 lesions of 30 patients"
    )
    assert "resamples of the 30 patients with their near-" in (
        report_text.describe_intervals(results)
    )
    assert "They share no patient." in report_text.describe_scores(results)
    page = Page(render_report(tmp_path).read_text()).words
    assert "Scores per image and per patient" in page
    assert "Subgroups of fewer than 5 patients" in page
    # Patients that are known, but not kept in one split.
    audit = dataclasses.replace(audit, num_shared_patients=3)
    info = info.model_copy(update={"audit": audit})
    text = report_text.describe_scores(dataclasses.replace(results, info=info))
    assert "images of 3 patients are in more than one split." in text
    # A lesion belongs to one patient.
    audit = dataclasses.replace(audit, num_shared_patients=0)
    known = known.model_copy(update={"with_lesion": 0})
    info = info.model_copy(update={"identifiers": known, "audit": audit})
    text = identifier_text.describe_separation(dataclasses.replace(results, info=info))
    assert "share no patient, and therefore no lesion." in text
    assert "can be in more than one split" not in text
