"""The page and the model card of a report: what they say, and what they leave out."""

from __future__ import annotations

import base64
import html
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import f1_score

from skincnn.config import Config, DataConfig, EvaluateConfig
from skincnn.errors import ConfigError
from skincnn.evaluation.scoring import assess, score_variant
from skincnn.inference.logit_adjustment import ADJUSTED
from skincnn.inference.predictions import arrays, predictions_table
from skincnn.inference.tta import VIEWS
from skincnn.reporting import plots, report_text
from skincnn.reporting.html import SECTIONS, render_page
from skincnn.reporting.model_card import render_card
from skincnn.reporting.report import draw_figures, summary, write_report
from skincnn.serving.orientations import TURNS
from skincnn.training.run import check_workdir

NAMES = ["<b>wart</b>|", "mel", "nv", "bcc"]
CONFIG = Config(
    data=DataConfig(dataset="isic2018"), evaluate=EvaluateConfig(num_bootstrap=100)
)
PIXEL = {"learning_curves": b"png", "roc_test": b"png", "mistakes_test": b"png"}


def make_table(seed: int, labels: tuple[int, ...] = (0, 1, 2, 3)) -> pd.DataFrame:
    """Predictions of 120 pictures of 60 lesions of some of the classes."""
    rng = np.random.default_rng(seed)
    label = np.resize(labels, 120)
    logits = rng.normal(0, 1, (120, 4)) + 1.2 * np.eye(4)[label]
    rows = pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in range(120)],
            "lesion_id": [f"l{n // 2}" for n in range(120)],
            "label": label,
            "sex": rng.choice(["female", "male", "unknown"], 120),
            "dx_type": np.where(np.arange(120) < 3, "confocal", "histo"),
            "sha256": "",
        }
    )
    return predictions_table(rows, logits.astype(np.float32), NAMES)


PROVENANCE = {"code": "0123abc", "processor": "Some CPU", "cores": 2, "gpus": []}


def make_report(test: pd.DataFrame | None = None, **changes: object) -> dict:
    """A report.json of a made table, with what `evaluate` adds."""
    tables = {"val": make_table(0), "test": make_table(1) if test is None else test}
    report = assess(tables, NAMES, CONFIG.evaluate)
    for split, content in report["splits"].items():
        content["fold"] = {"val": "fold 8", "test": "fold 9"}[split]
    parts = ("train", "val", "test")
    audit = {f"num_{part}_{what}": 12 for part in parts for what in ("images", "lesions")}
    shared = {f"num_shared_{what}": 0 for what in ("images", "lesions", "groups")}
    shares = {"share_test_images": 0.0, "share_test_melanomas": None}
    return {
        "synthetic": False,
        "dataset": "ham10000/isic2018/2.0.0",
        "attribution": "Pictures: some archive, CC BY-NC 4.0.",
        "split_by": "lesion",
        "one_image_per_lesion": "none",
        "audit": audit | shared | shares,
        "class_names": NAMES,
        "best_epoch": 3,
        "training_seconds": 60.0,
        "provenance": PROVENANCE,
        "num_parameters": 1234,
        "interval": {"confidence": 0.95, "method": "bootstrap", "resamples": 100},
        "headline": "test",
        "models": [],
        "protocol": "Trained on some, tested on others.",
        **report,
        **changes,
    }


@pytest.fixture(scope="module")
def report() -> dict:
    return make_report()


class Page(HTMLParser):
    """The text, the headings, the elements and the pictures of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    @property
    def words(self) -> str:
        """The text with single spaces."""
        return " ".join(self.text.split())


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def head_of(card: str) -> dict:
    """The YAML head: a key, a colon and JSON in each line."""
    lines = card.split("---\n")[1].splitlines()
    return {key: json.loads(value) for key, _, value in (x.partition(": ") for x in lines)}


def test_the_verdict_counts_the_melanomas_that_were_missed(report: dict) -> None:
    table = make_table(1)
    y_true, y_prob = arrays(table, NAMES)
    melanoma = y_true == 1
    missed = int((melanoma & (y_prob.argmax(axis=1) != 1)).sum())
    assert 0 < missed < melanoma.sum()
    calibrated = softmax(np.log(y_prob) / report["temperature"], axis=1)
    threshold = report["thresholds"]["melanoma"]["90 % specificity"]
    unflagged = int((melanoma & (calibrated[:, 1] < threshold)).sum())
    page = Page(render_page(report, CONFIG, PIXEL)).words
    of = f"of {melanoma.sum()} pictures of melanoma"
    assert f"It calls {missed} {of} something else." in page
    assert f"{missed} {of} were called something else" in page
    assert f"{unflagged} {of} were not flagged" in page
    accuracy = np.mean(
        [(y_prob.argmax(axis=1) == y_true)[y_true == k].mean() for k in range(4)]
    )
    assert f"names {100 * accuracy:.0f} % of the pictures rightly" in page
    assert page.index("It calls") < page.index("Trained on some") < page.index("recall [")
    found = report_text.find_melanomas(report["splits"]["test"])
    counts = table[melanoma].assign(called=[NAMES[k] for k in y_prob[melanoma].argmax(1)])
    expected = counts["called"].value_counts().drop("mel")
    assert dict(found.called) == expected.to_dict()
    assert list(expected) == [count for _, count in found.called]
    malignant = np.isin(y_true, (1, 3))
    # Of <b>wart</b>| it is not known whether it is malignant, so it counts as benign.
    wrong = malignant & ~np.isin(y_prob.argmax(axis=1), (1, 3))
    content = report["splits"]["test"]
    assert report_text.count_called_benign(content) == (wrong.sum(), malignant.sum())


def test_the_page_is_whole_and_loads_nothing(report: dict) -> None:
    source = render_page(report, CONFIG, PIXEL)
    page = Page(source)
    assert not re.search(r"https?:|@import|url\(|<script|<link|<iframe", source)
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(pictures) == len(PIXEL)
    for picture in pictures:
        assert picture["src"].startswith("data:image/png;base64,")
        assert picture["alt"]
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links
    assert {link.removeprefix("#") for link in links} == ids
    assert [tag for tag, _ in page.elements].count("h1") == 1


def test_names_of_classes_are_text(report: dict) -> None:
    source = render_page(report, CONFIG, PIXEL)
    assert NAMES[0] not in source
    assert html.escape(NAMES[0]) in source
    assert NAMES[0] in Page(source).text
    body = render_card(report, CONFIG).split("---\n", 2)[2]
    assert "<b>" not in body
    assert "&lt;b>wart&lt;/b>\\| |" in body


@pytest.mark.parametrize("labels", [(0, 1, 3), (0, 2, 3), (0, 2)])
def test_a_missing_class_is_a_visible_gap(labels: tuple[int, ...]) -> None:
    test = make_table(1, labels)
    report = make_report(test)
    page = Page(render_page(report, CONFIG, PIXEL)).words
    card = render_card(report, CONFIG)
    missing = ", ".join(NAMES[k] for k in range(4) if k not in labels)
    for text in (page, card):
        assert f"No picture of {missing}: all means are over the other classes" in text
        assert not re.search(r"\bnan\b", text, re.IGNORECASE)
        assert "None" not in text
    assert ("No melanoma is in fold 9" in page) == (1 not in labels)
    scores = head_of(card)["model-index"][0]["results"][0]["metrics"]
    drawn = "decision_curve_test" in draw_figures(report, {"test": test}, None)
    assert drawn == (labels != (0, 2))
    assert ("recall" in [x["type"] for x in scores]) == (1 in labels)


def test_a_class_set_without_melanoma_says_so() -> None:
    tables = {
        name: make_table(seed).rename(columns={"probability_mel": "probability_scar"})
        for seed, name in enumerate(("val", "test"))
    }
    tables = {
        k: t.assign(label=t["label"].replace("mel", "scar")) for k, t in tables.items()
    }
    names = [name.replace("mel", "scar") for name in NAMES]
    found = assess(tables, names, CONFIG.evaluate)
    report = make_report() | found | {"class_names": names}
    for content in report["splits"].values():
        content["fold"] = "fold 9"
    page = Page(render_page(report, CONFIG, {})).words
    assert "Melanoma is not among its classes." in page
    assert "Melanomas called" not in page
    assert "Melanoma is not among the classes." in render_card(report, CONFIG)


ROW = {"balanced_accuracy": interval(0.61), "melanoma_sensitivity": interval(0.37)}
EXTRAS: dict[str, tuple[str, object, list[str]]] = {
    "variants": (
        "variants",
        [
            {
                "name": "eight orientations",
                "split": "test",
                "num_views": 8,
                "metrics": {"balanced_accuracy": interval(0.71), "macro_f1": interval(0.7)},
                "classes": {"mel": {"recall": interval(0.62)}},
                "differences": {
                    "balanced_accuracy": interval(0.043),
                    "macro_f1": interval(-0.032),
                    "melanoma_recall": interval(-0.021),
                },
                "seconds_per_image": 0.0321,
                "cost": 7.9,
            }
        ],
        ["eight orientations", "0.620 [0.610, 0.630]", "+0.043 [", "-0.021 [", "7.9 x"],
    ),
    "corruptions": (
        "robustness",
        {
            "split": "test",
            "num_images": 120,
            "trained": ["motion_blur", "hairs"],
            "clean": {
                "balanced_accuracy": interval(0.66),
                "melanoma_sensitivity": interval(0.5),
            },
            "rows": [
                {"name": "motion_blur", "severity": 2, "difference": interval(-0.05), **ROW}
            ],
        },
        ["the like of motion blur, hairs:", "0.610 [", "-0.050 [", "Clean", "0.370 ["],
    ),
    "unknown": (
        "unknown",
        {
            "score": "Mahalanobis distance",
            "threshold": -1.5,
            "accepted_validation": 0.95,
            "splits": {"test": {"num_images": 120, "refused": interval(0.06)}},
            "sets": [{"name": "photographs", "num_images": 9, "refused": 0.7, "auc": 0.9}],
        },
        ["48 pieces of two photographs", "0.060 [", "0.700", "-1.500", "accepts 95 %"],
    ),
    "models": (
        "models",
        [
            {
                "name": "model_1",
                "folds": {"test": [4, 5]},
                "best_epoch": 7,
                "metrics": {"balanced_accuracy": interval(0.5), "macro_f1": interval(0.4)},
            }
        ],
        ["model_1", "4, 5", "0.500 ["],
    ),
}


@pytest.mark.parametrize("key", EXTRAS)
def test_sections_come_and_go_with_their_keys(report: dict, key: str) -> None:
    section, value, said = EXTRAS[key]
    heading = f"<h2>{SECTIONS[section]}</h2>"
    for empty in ({}, {key: None}, {key: []}):
        page = render_page(report | empty, CONFIG, PIXEL)
        assert heading not in page
        assert f"#{section}" not in page
        assert render_card(report | empty, CONFIG)
    page = render_page(report | {key: value, "seconds_per_image": 0.004}, CONFIG, PIXEL)
    assert heading in page
    part = page.split(f'<section id="{section}">')[1].split("</section>")[0]
    for text in said:
        assert text in part
    assert "None" not in part
    card = render_card(report | {key: value}, CONFIG)
    assert said[0] in card


def test_the_scores_of_a_way_to_predict_are_those_of_its_pictures() -> None:
    """Its differences too: of the same resamples, in which the plain answer gains 0."""
    plain, other = make_table(1), make_table(2)
    tables, others = ({"val": make_table(0), "test": one} for one in (plain, other))
    same = score_variant(tables, tables, "test", NAMES, CONFIG)["differences"]
    assert all(value == 0 for of in same.values() for value in of.values())
    found = score_variant(others, tables, "test", NAMES, CONFIG)
    gained = found["differences"]["melanoma_recall"]
    recalls = [
        (y_prob[y_true == 1].argmax(axis=1) == 1).mean()
        for y_true, y_prob in (arrays(table, NAMES) for table in (other, plain))
    ]
    assert gained["value"] == pytest.approx(recalls[0] - recalls[1], abs=1e-6)
    assert gained["low"] < gained["value"] < gained["high"]
    variant = {"name": "augment", "num_views": 4, "cost": 4.0, **found}
    report = make_report(variants=[{**variant, "seconds_per_image": 0.1}])
    report["seconds_per_image"] = 0.025
    page = Page(render_page(report, CONFIG, PIXEL)).words
    for text in (page, render_card(report, CONFIG), summary(report)):
        for name in ("balanced_accuracy", "macro_f1", "melanoma_recall"):
            assert report_text.interval(found["differences"][name], "+.3f") in text
        assert report_text.interval(found["metrics"]["macro_f1"]) in text
    # One of before it was told, and one of classes that hold no melanoma.
    del found["differences"]["melanoma_recall"]
    assert report_text.way_scores(found)[2][2] == "not known"
    found["classes"].pop("mel")
    assert len(report_text.way_scores(found)) == 2


@pytest.mark.parametrize(
    ("name", "num_views", "exported"),
    [("d4", 8, True), ("d4", 2, False), ("augment", 8, False)],
)
def test_a_way_that_can_be_exported_tells_its_thresholds(
    name: str, num_views: int, exported: bool
) -> None:
    assert {
        name: len(turns) for name, turns in TURNS.items() if name
    } == report_text.EXPORTED
    plain = {"val": make_table(0), "test": make_table(1)}
    tables = {"val": make_table(2), "test": make_table(3)}
    found = score_variant(tables, plain, "test", NAMES, CONFIG)
    variant = {"name": name, "num_views": num_views, "cost": 8.0, **found}
    report = make_report(variants=[{**variant, "seconds_per_image": 0.1}])
    report["seconds_per_image"] = 0.025
    source, card = render_page(report, CONFIG, PIXEL), render_card(report, CONFIG)
    page = Page(source.split('<section id="variants">')[1].split("</section>")[0]).words
    card = card.split("### Asked in other ways")[1].split("###")[0]
    for text in (page, card):
        served = f"--tta {name}, it is served with a temperature of"
        assert (f"{served} {found['temperature']:.2f} and" in text) == exported
        for target, points in found["thresholds"].items():
            rates = found["targets"][target]["operating_points"]
            for point, threshold in points.items():
                of = [rates[point][rate] for rate in ("sensitivity", "specificity")]
                row = f"{point} {threshold:.3f} {' '.join(map(report_text.interval, of))}"
                plainly = re.sub(r"[ |]+", "", text)
                assert (row.replace(" ", "") in plainly) == exported


def test_macro_f1_is_said_at_the_top(report: dict) -> None:
    y_true, y_prob = arrays(make_table(1), NAMES)
    expected = f1_score(y_true, y_prob.argmax(axis=1), average="macro")
    page, card = render_page(report, CONFIG, PIXEL), render_card(report, CONFIG)
    for text in (Page(page).words, card):
        assert text.index(f"Its macro F1 is {expected:.3f} [") < text.index("Trained on")
    assert f"<h2>Macro F1, fold 9</h2><strong>{expected:.3f}</strong>" in page


@pytest.mark.parametrize("width", [400, 1200])
def test_the_chart_of_subgroups_is_seen_whole_in_a_narrow_window(
    width: int, report: dict, browser: Any, tmp_path: Path
) -> None:
    tables = {"val": make_table(0), "test": make_table(1)}
    write_report(tmp_path, report, CONFIG, draw_figures(report, tables, None))
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto((tmp_path / "report.html").as_uri())
    wide = "one => [one.scrollWidth <= one.clientWidth, one.firstChild.clientWidth]"
    whole, shown = page.locator("figure.subgroups").first.evaluate(wide)
    assert whole
    assert shown > 0.75 * min(width, 450)  # and large enough
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()


def test_each_way_to_predict_is_explained_where_it_was_asked(report: dict) -> None:
    found = EXTRAS["variants"][1]
    assert isinstance(found, list)
    assert {*VIEWS, ADJUSTED} == set(report_text.WAYS)
    adjusted = {**found[0], "name": ADJUSTED, "strength": 0.5}
    turned = {**found[0], "name": "d4"}
    both = {**adjusted, "name": "d4_adjusted"}
    for asked in ([turned], [adjusted], [turned, adjusted], [both]):
        changed = report | {"variants": asked, "seconds_per_image": 0.004}
        page = Page(render_page(changed, CONFIG, PIXEL)).words
        card = render_card(changed, CONFIG)
        for text in (page, card):
            assert ("turned and mirrored" in text) == (asked != [adjusted])
            for said in ("adjusted (0.50)", "arXiv:2007.07314", "serve the model without"):
                assert (said in text) == (asked != [turned])


def test_melanomas_under_corruption_may_be_unknown(report: dict) -> None:
    found = json.loads(json.dumps(EXTRAS["corruptions"][1]))
    found["clean"]["melanoma_sensitivity"] = None
    found["rows"][0]["melanoma_sensitivity"] = None
    page = render_page(report | {"corruptions": found}, CONFIG, PIXEL)
    assert "Melanomas found; clean" not in page
    assert "None" not in page


def test_validation_comes_last_and_folded(report: dict) -> None:
    page = render_page(report, CONFIG, PIXEL)
    assert "<details><summary>Fold 8: validation" in page
    assert page.index("<summary>Fold 8") > page.index("<h2>Mistakes</h2>")
    without = render_page(report, CONFIG, {})
    assert "<h2>Mistakes</h2>" not in without
    assert "<h2>Training</h2>" not in without


def test_leaks_and_made_up_pictures_are_loud() -> None:
    report = make_report(synthetic=True, split_by="image", attribution="No photograph.")
    report["one_image_per_lesion"] = "evaluation"
    report["audit"] |= {"num_shared_lesions": 3, "share_test_images": 0.4}
    page = Page(render_page(report, CONFIG, PIXEL))
    card = render_card(report, CONFIG)
    for text in (page.words, card):
        assert "SYNTHETIC pictures" in text
        assert "SPLIT BY IMAGE" in text
        assert "DO NOT TRUST" in text
        assert "Only one picture of each lesion was used in validation and test" in text
        assert text.index("SYNTHETIC") < text.index("Averaged over the classes")
    assert {"class": "card alarm"} in [attributes for _, attributes in page.elements]
    head = card.split("---\n")[1]
    assert not re.search("ham10000", card, re.IGNORECASE)
    assert "synthetic" in head
    assert "datasets" not in head
    honest = make_report()
    assert not report_text.is_leaky(honest)
    honest["audit"]["num_shared_groups"] = 1
    assert "DO NOT TRUST" in render_page(honest, CONFIG, PIXEL)


def test_a_leak_of_the_headline_alone_is_as_loud(report: dict) -> None:
    splits = dict(report["splits"])
    counts = {"num_shared_images": 2, "num_shared_lesions": 3, "num_shared_groups": 0}
    leaky = splits["test"] | {"audit": counts | {"num_leaky_images": 17}}
    leaky["fold"] = "test official"
    for headline in ("test_official", "test"):
        found = report | {"splits": {**splits, "test_official": leaky}}
        found["headline"] = headline
        page, card = render_page(found, CONFIG, PIXEL), render_card(found, CONFIG)
        said = "LEAK: 17 of the 120 pictures of test official"
        for text in (Page(page).words, card, summary(found)):
            assert said in text
        points = card.split("How the data were divided | ")[1].splitlines()[0]
        assert said in points
        first = headline == "test_official"
        assert report_text.is_leaky(found) == first
        assert ("No picture, lesion or near-duplicate" in page) != first
        assert ('<p class="leaky">' in page) == first
        assert ("<strong>3 shared</strong>" in page) == first


def test_the_head_of_the_card_holds_the_scores(report: dict) -> None:
    head = head_of(render_card(report, CONFIG))
    assert head["library_name"] == "keras"
    assert head["pipeline_tag"] == "image-classification"
    assert head["license"] == "cc-by-nc-4.0"
    assert head["datasets"] == ["isic2018"]
    (index,) = head["model-index"]
    (result,) = index["results"]
    assert result["dataset"]["split"] == "test"
    content = report["splits"]["test"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    expected = {
        "balanced_accuracy": content["metrics"]["balanced_accuracy"]["value"],
        "f1": content["metrics"]["macro_f1"]["value"],
        "accuracy": content["metrics"]["accuracy"]["value"],
        "roc_auc": content["metrics"]["macro_auc"]["value"],
        "recall": content["classes"]["mel"]["recall"]["value"],
    }
    assert values == expected
    own = make_report(attribution="", dataset="ham10000/folder/2.0.0")
    card = render_card(own, CONFIG)
    assert head_of(card)["license"] == "unknown"
    assert not re.search("ham10000", card, re.IGNORECASE)


def test_the_checklist_answers_every_point(report: dict) -> None:
    card = render_card(report, CONFIG)
    assert "Not a medical device" in card
    rows = card.split("| 25 points | |\n")[1].splitlines()[1:]
    points = dict(row.strip("| ").split(" | ", 1) for row in rows if "**" not in row)
    assert len(points) == 25
    assert all(points.values())
    assert points["Skin tone"].startswith("not known")
    assert "histo 117" in points["How the pictures were labelled"]
    assert "mel 30" in points["Classes and their balance"]
    assert "not tested" in points["Pictures unlike those of training"]


def test_everything_is_written(report: dict, tmp_path: Path) -> None:
    tables = {"val": make_table(0), "test": make_table(1)}
    history = pd.DataFrame({"epoch": [1, 2], "loss": [1, 0.5], "val_macro_f1": [0.4, 0.5]})
    figures = draw_figures(report, tables, history)
    labels = figures["confusion_matrix_test"].axes[0].get_xticklabels()
    bold = [text.get_text() for text in labels if text.get_fontweight() == "bold"]
    assert bold == ["mel"]
    write_report(tmp_path, report, CONFIG, figures)
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(
        json.dumps(report)
    )
    page = Page((tmp_path / "report.html").read_text())
    shown = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert len(shown) == len(figures)
    for name in figures:
        png = (tmp_path / "figures" / f"{name}.png").read_bytes()
        assert "data:image/png;base64," + base64.b64encode(png).decode() in shown
    assert (tmp_path / "README.md").read_text() == render_card(report, CONFIG)


def test_a_score_without_an_interval_is_written_all_the_same(tmp_path: Path) -> None:
    tables = {"val": make_table(0), "test": make_table(1)}
    report = make_report()

    def forget(value: object) -> None:
        if isinstance(value, dict):
            if set(value) == {"value", "low", "high"}:
                value |= {"low": None, "high": None}
            for part in value.values():
                forget(part)
        elif isinstance(value, list):
            for part in value:
                forget(part)

    forget(report["splits"])
    write_report(tmp_path, report, CONFIG, draw_figures(report, tables, None))
    page = Page((tmp_path / "report.html").read_text()).words
    assert "95 % interval not known; 120 pictures" in page
    assert "None" not in page
    assert "[not known]" in (tmp_path / "README.md").read_text()


def test_headings_of_panels_do_not_run_into_each_other() -> None:
    names = ["Actinic keratosis", "Basal cell carcinoma", "Melanoma", "Squamous carcinoma"]
    y_true, y_prob = arrays(make_table(0), NAMES)
    figure = plots.plot_roc_curves(y_true, y_prob, names, "a title")
    plots.to_png(figure)
    ends = [axes.title.get_window_extent() for axes in figure.axes]
    for left, right in itertools.pairwise(ends):
        assert left.x1 < right.x0
    weights = [axes.title.get_fontweight() for axes in figure.axes]
    assert [name for name, of in zip(names, weights, strict=True) if of == "bold"] == [
        "Melanoma"
    ]


def test_a_readme_of_one_s_own_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"README\.md but no config\.json"):
        check_workdir(tmp_path, CONFIG)
