"""Checklists of reporting standards: their items, their answers and their files."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import run_here
from report_runs import (
    CORRUPTIONS,
    MEMBERS,
    NAMES,
    OOD,
    TABLES,
    WITH_OFFICIAL,
    Page,
    make_members,
    sentences,
)
from run_dirs import CONFIG, make_dataset, make_info, make_tables, write_run

from skincnn.config import ImbalanceConfig, ModelConfig
from skincnn.data.skin_tone import ATTRIBUTE
from skincnn.errors import ConfigError
from skincnn.evaluation.results import SubgroupScores
from skincnn.reporting.checklist import (
    BY_AUTHORS,
    FROM_RUN,
    IN_PART,
    OPEN,
    complete_checklist,
    read_standard,
    render_checklists,
    standard_names,
)
from skincnn.reporting.load import RunResults, load_results
from skincnn.reporting.model_card import render_card

SIZES = {
    "tripod-ai": (27, 52),
    "claim": (44, 44),
    "stard-ai": (40, 48),
    "clear-derm": (25, 25),
}
"""Number of items, and number of items and subitems, of each standard."""


MIXED = dataclasses.replace(
    CONFIG,
    model=ModelConfig(clinical_metadata=True),
    imbalance=ImbalanceConfig(strategy="none"),
    data=dataclasses.replace(CONFIG.data, train_fraction=0.5, one_image_per_lesion="train"),
)
"""The configuration of another model of an ensemble."""
SYNTHETIC = make_dataset(synthetic=True, attribution="The images are synthetic.")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    return load_results(write_run(tmp_path_factory.mktemp("run"), TABLES))


def make_runs(results: RunResults) -> dict[str, RunResults]:
    """Returns variants of a run, by name, in which different answers are known."""

    def with_info(**changes: Any) -> RunResults:
        return dataclasses.replace(results, info=results.info.model_copy(update=changes))

    def with_config(**changes: Any) -> RunResults:
        return dataclasses.replace(results, config=dataclasses.replace(CONFIG, **changes))

    members = make_members(CONFIG, CONFIG)
    unknown = {"flow": None, "training_characteristics": None}
    data = dataclasses.replace(CONFIG.data, split_by="image", one_image_per_lesion="all")
    return {
        "run": results,
        "own images": with_info(datasets=(make_dataset("folder", attribution=""),)),
        "synthetic": with_info(datasets=(SYNTHETIC,)),
        "partly synthetic": with_info(datasets=(make_dataset(), SYNTHETIC)),
        "ensemble": with_info(kind="ensemble", members=members, sha256={}, **unknown),
        "cross-validation": with_info(
            kind="cross_validation", members=members, provenance=None, **unknown
        ),
        "by image": with_config(data=data),
        "metadata": with_config(model=ModelConfig(clinical_metadata=True)),
        "mixed ensemble": with_info(
            kind="ensemble", members=make_members(CONFIG, MIXED), sha256={}, **unknown
        ),
        "more results": dataclasses.replace(
            results, corruptions=CORRUPTIONS, ood=(OOD,), members=MEMBERS
        ),
    }


@pytest.mark.parametrize("name", SIZES)
def test_a_standard_has_all_its_items_in_order(name: str) -> None:
    assert set(standard_names()) == set(SIZES)
    standard = read_standard(name)
    numbers = [item.number for item in standard.items]
    main = [int(re.sub(r"\D", "", number)) for number in numbers]
    assert (len(set(main)), len(numbers)) == SIZES[name]
    assert main == sorted(main)
    assert set(main) == set(range(1, SIZES[name][0] + 1))
    for number in set(main):  # subitems are a, b, c, ...
        letters = [
            n.lstrip("0123456789")
            for n, m in zip(numbers, main, strict=True)
            if m == number
        ]
        assert "".join(letters) == "abcdefg"[: len(letters)] or letters == [""]
    assert "doi:" in standard.citation


@pytest.mark.parametrize("name", SIZES)
def test_every_answer_is_complete_or_left_to_the_authors(
    name: str, results: RunResults
) -> None:
    for kind, run in make_runs(results).items():
        checklist = complete_checklist(run, name)
        assert sum(checklist.counts.values()) == len(checklist.items), kind
        for item in checklist.items:
            where = f"{kind}, {item.number}: {item.answer}"
            assert item.topic, where
            assert (item.status == OPEN) == (not item.answer), where
            if item.status == FROM_RUN:
                assert not item.missing, where
            assert not re.search(
                r"\bNone\b|\bnan\b|[{}%]}|\.\.(?!\.)|[,:;] ?\.|\(\)| ,|  ", where
            ), where


def test_what_a_run_cannot_know_is_open(results: RunResults) -> None:
    status = {
        (name, item.number): item.status
        for name in SIZES
        for item in complete_checklist(results, name).items
    }
    for item in (
        *(
            ("tripod-ai", n)
            for n in ("2", "3c", "5b", "17", "18a", "18b", "18d", "19", "25")
        ),
        *(("claim", n) for n in ("2", "4", "11", "15", "18", "41", "44")),
        *(("stard-ai", n) for n in ("4", "6", "8", "10", "26a", "27", "34", "38", "39")),
        *(("clear-derm", n) for n in ("2", "22", "25")),
    ):
        assert status[item] == OPEN, item
    for item in (
        *(("tripod-ai", n) for n in ("11", "12a", "12b", "23a")),
        *(("claim", n) for n in ("5", "20", "23", "29", "38")),
        *(("stard-ai", n) for n in ("5", "15b", "30", "31", "40b")),
        *(("clear-derm", n) for n in ("4", "10", "11", "14")),
    ):
        assert status[item] == FROM_RUN, item
    own = make_runs(results)["own images"]
    answers = {i.number: i for i in complete_checklist(own, "claim").items}
    assert answers["7"].status == OPEN
    assert answers["7"].missing == "the source of the images"


def test_answers_hold_the_numbers_of_the_results(results: RunResults) -> None:
    answers = {i.number: i.answer for i in complete_checklist(results, "stard-ai").items}
    table = (
        results.headline.targets["melanoma"].operating_points["specificity=0.90"].outcomes
    )
    assert table is not None
    assert (
        f"{table.true_positives} detected and {table.false_negatives} missed"
        in answers["30"]
    )
    assert (
        "1,204 images were read when the dataset was built; 4 of them were excluded: cannot"
        in answers["24"]
    )
    assert "Not used: in folds that this run does not use 200." in answers["24"]
    sex = results.headline.characteristics.attributes["sex"]["not known"]
    assert f"age 120, sex {sex}, body site 120" in answers["20"]
    assert "melanoma (mel) 30, melanocytic naevus (nv) 30" in answers["26b"]


def test_another_split_is_named(tmp_path: Path) -> None:
    results = load_results(write_run(tmp_path, WITH_OFFICIAL))
    for headline in ("test", "test_official"):
        results = load_results(tmp_path, headline)
        answers = {i.number: i.answer for i in complete_checklist(results, "claim").items}
        assert answers["33"].startswith("Official test split: 120 images")
        assert "Test split" not in answers["33"]
    answers = {i.number: i.answer for i in complete_checklist(results, "tripod-ai").items}
    assert not answers["16"].startswith("No difference")


def test_classes_without_a_target_or_metadata(tmp_path: Path) -> None:
    tables = {
        split: table.rename(columns={"probability_mel": "probability_wart"}).replace(
            {"label": {"mel": "wart"}}
        )
        for split, table in make_tables(0.7).items()
    }
    results = load_results(write_run(tmp_path, tables))
    for name in SIZES:
        text = " ".join(item.answer for item in complete_checklist(results, name).items)
        assert "Melanoma" not in text
        assert "thresholds were chosen" not in text
        assert "undefined" not in text


def test_estimated_skin_tone_is_an_assessed_attribute(results: RunResults) -> None:
    def assess_bias(*subgroups: SubgroupScores) -> str:
        headline = results.headline.model_copy(update={"subgroups": subgroups})
        run = dataclasses.replace(results, headline=headline)
        items = complete_checklist(run, "clear-derm").items
        return next(item.answer for item in items if item.number == "23")

    [group, *_] = results.headline.subgroups
    without = assess_bias(group)
    assert without.endswith("Not done by skin color.")
    assert "skin tone" not in without
    estimated = assess_bias(group, group.model_copy(update={"attribute": ATTRIBUTE}))
    assert "skin tone, estimated" in estimated
    assert "Not done" not in estimated
    skin_type = {"attribute": "Fitzpatrick skin type"}
    recorded = assess_bias(group, group.model_copy(update=skin_type))
    assert "Fitzpatrick skin type" in recorded
    assert "Not done" not in recorded


def test_a_recorded_skin_type_is_stated(results: RunResults) -> None:
    def answers(run: RunResults) -> list[str]:
        items = [*complete_checklist(run, "clear-derm").items]
        items += [*complete_checklist(run, "stard-ai").items]
        return [item.answer for item in items if "ot recorded" in item.answer]

    assert len(answers(results)) == 3
    images = results.headline.characteristics
    skin_types = {"2": images.num_images, "not known": 0}
    recorded = {**images.attributes, "Fitzpatrick skin type": skin_types}
    images = images.model_copy(update={"attributes": recorded})
    headline = results.headline.model_copy(update={"characteristics": images})
    assert not answers(dataclasses.replace(results, headline=headline))
    assert sentences("skin_tone", headline) == (
        "All images have the same recorded Fitzpatrick skin type, 2, so the performance on "
        "other skin types is unknown."
    )


def test_authors_complete_the_items(tmp_path: Path) -> None:
    write_run(tmp_path, TABLES)
    (tmp_path / "authors.toml").write_text(
        'funding = "A fund."\n[items.claim]\n"2" = "See | page 1."\n"9" = "And <cut>."\n',
        "utf-8-sig",  # as editors on Windows write it
    )
    results = load_results(tmp_path)
    items = {i.number: i for i in complete_checklist(results, "claim").items}
    assert items["44"].answer == "A fund."
    assert items["2"].answer == "See | page 1."
    assert items["9"].answer.endswith(
        "inside the network. Every image file was decoded "
        "completely when the dataset was built. And <cut>."
    )
    assert {items[number].status for number in ("44", "2", "9")} == {BY_AUTHORS}
    assert items["3"].status == IN_PART
    markdown, html = (p.read_text() for p in render_checklists(results, ["claim"]))
    assert "See \\| page 1." in markdown
    assert "&lt;cut>" in markdown
    assert "<cut>" in Page(html).text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[items.claim]\n"45" = "x"', "CLAIM 2024 update has no item 45"),
        ('[items.clam]\n"1" = "x"', "items must be one of: .*claim.*Received: 'clam'"),
        ('founding = "x"', "`founding`: .*Expected the fields citation, contact"),
        ("founding", "cannot be read as TOML"),
        ("items = " + "[" * 20_000, "cannot be read as TOML: maximum recursion depth"),
    ],
)
def test_faults_in_the_file_of_the_authors(text: str, message: str, tmp_path: Path) -> None:
    write_run(tmp_path, TABLES)
    (tmp_path / "authors.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        render_checklists(load_results(tmp_path), ["claim"])


def test_the_command_writes_and_renews_checklists(no_figures: None, tmp_path: Path) -> None:
    workdir = write_run(tmp_path, TABLES)
    done = run_here("report.py", workdir, "--checklist", *SIZES)
    assert done.returncode == 0, done.stderr
    for name in SIZES:
        markdown, html = ((workdir / f"checklists/{name}.{s}") for s in ("md", "html"))
        assert f"checklist {markdown}\n" in done.stdout
        rows = [row for row in markdown.read_text().splitlines() if row.startswith("| ")]
        sections = [row for row in rows if row.startswith("| | **")]
        assert len(rows) - len(sections) - 1 == SIZES[name][1]
        assert {row.replace("\\|", "").count("|") for row in rows} == {5}
        page = html.read_text()
        assert not re.search(r"https?:|@import|url\(|<script|<link", page)
        assert NAMES[0] not in page
        assert "is no certificate" in Page(page).words
    (workdir / "checklists/claim.md").write_text("old")
    (workdir / "checklists/stard-ai.md").unlink()
    assert run_here("report.py", workdir).returncode == 0
    assert (workdir / "checklists/claim.md").read_text().startswith("# CLAIM 2024")
    assert not (workdir / "checklists/stard-ai.md").exists()
    done = run_here("report.py", workdir, "--checklist", "tripod")
    assert done.returncode == 2
    assert (
        "The checklist must be one of: claim, clear-derm, stard-ai, tripod-ai"
        in done.stderr
    )


def test_the_source_that_is_left_out_is_the_test_split(results: RunResults) -> None:
    info = results.info.model_copy(update={"leave_out": "rosendahl"})
    checklist = complete_checklist(dataclasses.replace(results, info=info), "clear-derm")
    answers = {item.number: item.answer for item in checklist.items}
    assert "validation 8, test the source rosendahl. The source rosen" in answers["10"]
    assert answers["12"] == (
        "The test images are from one source, rosendahl, of which no image was used for "
        "training."
    )


def test_answers_for_several_models_name_the_first(results: RunResults) -> None:
    run = make_runs(results)["ensemble"]
    answers = {item.number: item.answer for item in complete_checklist(run, "claim").items}
    assert answers["9"].startswith("For the first model, every image is resized to")
    assert "figures/flow.png" not in answers["35"]


def test_what_applies_to_some_models_is_not_claimed_for_all(results: RunResults) -> None:
    for run, is_mixed in ((results, False), (make_runs(results)["mixed ensemble"], True)):
        answers = " ".join(
            item.answer for name in SIZES for item in complete_checklist(run, name).items
        )
        card = render_card(run)
        for text in (
            "body site (used by some of the models)",
            "inputs of some of the networks",
            "Age, sex and body site are inputs of some of the models",
            "image, age, sex and body site",
            "unequal class frequencies in training of some of the models: "
            f"{CONFIG.imbalance.strategy}.",
            "Only 50 % of the training lesions, with their near-duplicates, were used by "
            "some of the models.",
            "One image of each lesion was used in training of some of the models.",
        ):
            assert (text in answers) == is_mixed, text
        for text in (
            "no other information on the patient",
            "they are not inputs of the model",
            "Patient information is not used",
        ):
            assert (text in answers) != is_mixed, text
        assert ("body site (used by some of the models)" in card) == is_mixed


def test_licenses_of_some_images_are_not_those_of_all(tmp_path: Path) -> None:
    datasets = make_dataset(), make_dataset("own", attribution="")
    results = load_results(write_run(tmp_path, TABLES, info=make_info(datasets=datasets)))
    card = render_card(results)
    assert "Some of the images have the license CC BY-NC 4.0" in card
    assert "The model has the license of its images" not in card
    assert 'license: "unknown"' in card
    answers = [i.answer for i in complete_checklist(results, "tripod-ai").items]
    limit = "The license of the images also limits the use of the model: Images: an archive"
    assert any(limit in answer for answer in answers)


def test_sources_and_datasets_are_attributes_if_there_are_several(
    results: RunResults,
) -> None:
    images = results.headline.characteristics
    one = {"a": 120, "not known": 0}
    attributes = images.attributes | {"source": one, "dataset": one}
    images = images.model_copy(update={"attributes": attributes})
    headline = results.headline.model_copy(update={"characteristics": images})
    run = dataclasses.replace(results, headline=headline)
    datasets = (make_dataset("a"), make_dataset("b"))
    info = results.info.model_copy(update={"datasets": datasets})
    several = dataclasses.replace(run, info=info)
    for each, is_listed in ((run, False), (several, True)):
        checklist = complete_checklist(each, "tripod-ai")
        answers = {item.number: item.answer for item in checklist.items}
        label = "dataset (of several that were used together)"
        assert (label in answers["20c"]) == is_listed
        assert answers["23b"].endswith("split (fold 9) are from one source.")


def test_synthetic_images_are_marked(tmp_path: Path) -> None:
    info = make_info(datasets=(SYNTHETIC,))
    results = load_results(write_run(tmp_path, TABLES, info=info))
    for path in render_checklists(results, ["clear-derm"]):
        assert "SYNTHETIC images" in path.read_text()


def test_every_file_of_a_standard_is_installed() -> None:
    setup = (Path(__file__).parents[1] / "setup.cfg").read_text()
    assert "skincnn.reporting = *.j2, standards/*.toml" in setup
    folder = Path(__file__).parents[1] / "skincnn/reporting/standards"
    assert {path.stem for path in folder.iterdir()} == set(SIZES)
    for path in folder.iterdir():
        tomllib.loads(path.read_text())
