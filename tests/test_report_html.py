"""The HTML report: its content, and that it is self-contained."""

from __future__ import annotations

import dataclasses
import html
import re
from pathlib import Path
from typing import Any

import pytest
from report_runs import (
    CORRUPTIONS,
    EXTERNAL,
    MEMBERS,
    NAMES,
    OOD,
    TABLES,
    VARIANT,
    WITH_OFFICIAL,
    Page,
    make_members,
    make_table,
    sentences,
)
from run_dirs import CONFIG, make_dataset, write_run

from skincnn.classes import LesionClass
from skincnn.config import ModelConfig
from skincnn.data.leakage import SplitLeakage
from skincnn.reporting import labels
from skincnn.reporting.checklist import render_checklists
from skincnn.reporting.html import SECTIONS, render_html
from skincnn.reporting.load import RunResults, load_results
from skincnn.reporting.model_card import render_card
from skincnn.reporting.report import render_report
from skincnn.reporting.text import report_text

FIGURES = {"learning_curves": b"png", "roc_test": b"png", "mistakes_test": b"png"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    return load_results(write_run(tmp_path_factory.mktemp("run"), TABLES))


def section(page: str, name: str) -> str:
    """Returns the text of a section."""
    return Page(page.split(f'<section id="{name}">')[1].split("</section>")[0]).words


def test_declared_full_names_are_shown(results: RunResults) -> None:
    declared = {NAMES[0]: LesionClass(NAMES[0], "viral wart", False)}
    external = EXTERNAL.model_copy(
        update={"scores": EXTERNAL.scores.model_copy(update={"missing_classes": NAMES[:1]})}
    )
    results = dataclasses.replace(
        results,
        info=results.info.model_copy(update={"declared": declared}),
        splits={**results.splits, "test_official": results.headline},
        external=(external,),
    )
    label = f"viral wart ({NAMES[0]})"
    page = Page(render_html(results, FIGURES)).words
    assert label in page
    # The biases of the calibration are listed by short names.
    rest = page.replace(label, "").replace(f"for each class ({NAMES[0]} ", "")
    assert NAMES[0] not in rest
    card = render_card(results)
    cell = label.replace("<", "&lt;").replace("|", "\\|")
    assert cell in card
    assert cell.replace("viral wart", "") not in card.replace(cell, "")
    checklists = render_checklists(results, ["tripod-ai"])
    assert f"one of: {cell}" in checklists[0].read_text()


def test_the_page_is_self_contained(results: RunResults) -> None:
    source = render_html(results, FIGURES)
    page = Page(source)
    assert not re.search(r"https?:|@import|url\(|<script|<link|<iframe", source)
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == len(FIGURES)
    for image in images:
        assert image["src"].startswith("data:image/png;base64,")
        assert image["alt"]
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links
    assert {link.removeprefix("#") for link in links} == ids
    assert [tag for tag, _ in page.elements].count("h1") == 1


def test_names_of_classes_are_escaped(results: RunResults) -> None:
    source = render_html(results, FIGURES)
    assert NAMES[0] not in source
    assert html.escape(NAMES[0]) in source
    assert NAMES[0] in Page(source).text
    for label in ("melanoma (mel)", "melanocytic naevus (nv)", "basal cell carcinoma"):
        assert label in Page(source).words


def test_the_main_scores_come_first(results: RunResults) -> None:
    source = render_html(results, FIGURES)
    page = Page(source).words
    scores = report_text.describe_scores(results)
    order = [scores, "Melanoma recall", "The model was trained on", "Recall sensitivity"]
    positions = [page.index(text) for text in order]
    assert positions == sorted(positions)
    for heading, name in (
        ("Balanced accuracy", "balanced_accuracy"),
        ("Macro F1", "macro_f1"),
    ):
        value = results.headline.metrics[name].value
        assert f"<h2>{heading}</h2><strong>{value:.3f}</strong>" in source
    melanoma = report_text.find_melanoma(results.headline)
    assert melanoma is not None
    assert melanoma.num_detected is not None
    for missed, text in (
        (melanoma.num_missed, "are not predicted as melanoma"),
        (30 - melanoma.num_detected, "are below the threshold"),
    ):
        assert f"{missed} of 30 melanoma images {text}" in page
    assert "Melanoma sensitivity at 90 % specificity" in page
    melanomas = f"test split (fold 9) show {melanoma.num_lesions} melanomas"
    assert f"the 30 melanoma images of the {melanomas}" in page
    missed = melanoma.num_missed
    bar = f'aria-label="{30 - missed} predicted as melanoma, {missed} as other classes"'
    assert bar in source
    assert "Not a medical device." in page


def test_operating_points_have_all_rates(results: RunResults) -> None:
    text = section(render_html(results, FIGURES), "melanoma")
    assert "PPV positive predictive value NPV negative predictive value" in text
    for target in results.headline.targets.values():
        for key, point in target.operating_points.items():
            rates = [labels.interval(rate) for rate in point.rates.values()]
            missed = " (missed on these images)" if point.missed else ""
            row = [labels.point_label(key) + missed, f"{point.threshold:.3f}", *rates]
            assert " ".join(row) in text
    triage = results.headline.triage
    assert triage is not None
    rates = [labels.interval(rate) for rate in triage.rates.values()]
    rule = "referral rule: threshold for sensitivity ≥ 90 %, or out-of-distribution"
    assert " ".join([rule, f"{triage.threshold:.3f}", *rates]) in text
    assert sentences("referral", results, results.headline) in text
    splits = section(render_html(results, FIGURES), "splits")
    for name in results.headline.targets:
        for split, page in (("test", text), ("val", splits)):
            rule = results.splits[split].triage if name == "malignant" else None
            arguments = results.splits[split], results.splits["val"], [name], rule
            assert sentences("thresholds", *arguments) in page


@pytest.mark.parametrize("classes", [(0, 1, 3), (0, 2, 3), (0, 2)])
def test_a_missing_class_is_visible(classes: tuple[int, ...], tmp_path: Path) -> None:
    tables = {"val": make_table(0), "test": make_table(1, classes)}
    results = load_results(write_run(tmp_path, tables))
    page = Page(render_html(results, FIGURES)).words
    missing = [labels.class_label(NAMES[k]) for k in range(4) if k not in classes]
    assert f"There are no images of {', '.join(missing)}: averages are over" in page
    assert not re.search(r"\bnan\b|\bNone\b", page)
    assert (report_text.NO_MELANOMA in page) == (1 not in classes)


def test_classes_without_melanoma(tmp_path: Path) -> None:
    names = [name.replace("mel", "scar") for name in NAMES]
    tables = {s: make_table(n, names=names) for n, s in enumerate(("val", "test"))}
    write_run(tmp_path, tables)
    page = Page(render_html(load_results(tmp_path), {})).words
    assert "No class is melanoma." in page
    assert "Melanoma recall" not in page


EXTRAS: dict[str, tuple[str, object, list[str]]] = {
    "corruptions": (
        "corruptions",
        CORRUPTIONS,
        [
            "resembles these corruptions: motion blur, hairs.",
            "0.450 [0.440, 0.460] -0.210 [-0.220, -0.200]",
            "clean images is 0.660",
            "0.370 [",
            "0.860 [",
            "at the threshold for 90 % specificity",
        ],
    ),
    "ood": (
        "ood",
        (OOD,),
        [
            "crops of two photographs",
            "test split (fold 9) no 120 0.060 [",
            "photographs yes 48 0.700 0.900",
            "the limit is 1.5: about 95 % of the validation images, or more, do not exceed",
            "above the limit is flagged and referred",
            "these images versus the test split (fold 9)",
        ],
    ),
    "external": (
        "external",
        (EXTERNAL,),
        [
            "120 of the 130 images of clinic are scored. 7 images have labels that are not",
            "3 images were left out",
            "2 with an identical file, 1 of the same group (patient, lesion or near-dup",
            "5 of the scored images are also in the test split of this run",
            "25 % [24, 26] of the scored images are above the limit",
            "<i>scar</i>| 7 3 as melanocytic naevus (nv), 2 as melanoma (mel), 1 as basal",
            "43 % [42, 44]",
            "those that the referral rule refers 3 % 0.110 [",
            "A note. Sources: ISIC 2020: some source.",
        ],
    ),
    "members": ("members", MEMBERS, ["first", "0.550 [", "0.440 [", "+0.031 [", "7"]),
}


@pytest.mark.parametrize("field", EXTRAS)
def test_sections_appear_with_their_results(field: str, results: RunResults) -> None:
    name, value, texts = EXTRAS[field]
    heading = f"<h2>{SECTIONS[name]}</h2>"
    page = render_html(results, FIGURES)
    assert heading not in page
    assert f"#{name}" not in page
    info = results.info
    if field == "members":
        info = info.model_copy(update={"members": make_members(CONFIG)})
    changes: dict[str, Any] = {field: value, "info": info}
    page = render_html(dataclasses.replace(results, **changes), FIGURES)
    assert heading in page
    shown = section(page, name)
    for text in texts:
        assert text.lower() in shown.lower()
    assert "None" not in shown


def test_melanoma_under_corruption_may_be_unknown(results: RunResults) -> None:
    unknown = {"melanoma_sensitivity": None, "melanoma_specificity": None}
    rows = tuple(
        row.model_copy(update={"scores": row.scores.model_copy(update=unknown)})
        for row in CORRUPTIONS.rows
    )
    clean = CORRUPTIONS.clean.model_copy(update=unknown)
    corruptions = CORRUPTIONS.model_copy(update={"rows": rows, "clean": clean})
    page = render_html(dataclasses.replace(results, corruptions=corruptions), FIGURES)
    assert "Sensitivity for melanoma" not in section(page, "corruptions")
    assert "None" not in page


def test_variants_are_compared_with_the_default(tmp_path: Path) -> None:
    variants = {"d4": VARIANT, "adjusted": VARIANT}
    results = load_results(write_run(tmp_path, TABLES, variants, num_views=8))
    page = render_html(results, FIGURES)
    text = section(page, "variants")
    assert sentences("variants", results) in text
    assert "unchanged model (default) 1 " in text
    assert "Below each score is its difference from the unchanged model" in text
    for variant in results.variants:
        for _, score, difference in report_text.variant_scores(variant):
            assert f"{labels.interval(score)} {labels.signed(difference)}" in text
    assert "logit adjustment (0.50)" in text
    assert "0.0800" in text
    exported = report_text.exported_variants(results)
    assert {variant.variant for variant in exported} == {"d4", "adjusted"}
    for variant in exported:
        assert sentences("export", variant) in text
        triage = variant.triage
        assert triage is not None
        points = [
            *(
                point
                for x in variant.targets.values()
                for point in x.operating_points.values()
            ),
            triage,
        ]
        for point in points:
            rates = " ".join(labels.interval(rate) for rate in point.rates.values())
            assert f"{point.threshold:.3f} {rates}" in text
    assert "Detection of melanoma with test-time augmentation (d4)" in text


def test_models_of_an_ensemble_are_listed(results: RunResults) -> None:
    other = dataclasses.replace(CONFIG, model=ModelConfig(backbone="resnet50"))
    update = {"kind": "ensemble", "members": make_members(CONFIG, other)}
    changed = dataclasses.replace(
        results, info=results.info.model_copy(update=update), members=MEMBERS
    )
    page = Page(render_html(changed, FIGURES)).words
    assert "Skin-lesion classifier (mobilenet_v2 + resnet50) on isic2018" in page
    assert "averages the probabilities of 2 models (first, second)" in page
    assert "All settings of the first model" in page


def test_other_splits_come_last_and_validation_is_collapsed(tmp_path: Path) -> None:
    write_run(tmp_path, WITH_OFFICIAL)
    page = render_html(load_results(tmp_path, "test_official"), FIGURES)
    texts = [
        "<h2>Results on other splits</h2>",
        "<details open><summary>Test split (fold 9)</summary>",
        "<details><summary>Validation split (fold 8)</summary>",
    ]
    positions = [page.index(text) for text in texts]
    assert positions == sorted(positions)
    heading = "<h2>Most confident errors</h2>"
    assert heading in render_html(load_results(tmp_path), FIGURES)
    page = render_html(load_results(tmp_path), {})
    assert heading not in page
    assert "<h2>Learning curves</h2>" not in page


def test_warnings_are_prominent(tmp_path: Path) -> None:
    leakage = {"test_official": SplitLeakage(2, 3, None, 0, 17)}
    write_run(tmp_path, WITH_OFFICIAL, leakage=leakage)
    for headline in ("test_official", "test"):
        results = load_results(tmp_path, headline)
        source = render_html(results, FIGURES)
        leaky = headline == "test_official"
        assert "LEAKAGE: 17 of the 120 images of the official test split" in source
        assert ('<p class="leaky">LEAKAGE' in source) == leaky
        assert ("<strong>3 lesions</strong>" in source) == leaky
        assert ("Overlap between this split, training and" in source) == leaky
        assert ("Overlap between training, validation and test" in source) != leaky
        assert ("share no lesion, as far as" in source) != leaky
        assert (("section", {"class": "card alarm"}) in Page(source).elements) == leaky
    config = dataclasses.replace(
        CONFIG, data=dataclasses.replace(CONFIG.data, split_by="image")
    )
    audit = dataclasses.replace(results.info.audit, num_shared_lesions=3)
    info = results.info.model_copy(
        update={"datasets": (make_dataset(synthetic=True),), "audit": audit}
    )
    results = dataclasses.replace(results, config=config, info=info)
    page = Page(render_html(results, FIGURES)).words
    scores = page.index("Balanced accuracy, the average")
    assert page.index("SYNTHETIC images, rendered by code.") < scores
    assert page.index("SPLIT BY IMAGE") < scores


@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_fits_a_narrow_window(
    width: int, results: RunResults, browser: Any
) -> None:
    path = render_report(results.workdir)
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(path.as_uri())
    size = "one => [one.scrollWidth <= one.clientWidth, one.firstChild.clientWidth]"
    fits, shown = page.locator("figure.subgroups").first.evaluate(size)
    assert fits
    assert shown > 0.75 * min(width, 450)  # large enough to read
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()
