"""That `refer` is scored as it is served, and told."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from test_page import CONFIG, NAMES, PIXEL, Page, make_report, make_table

from skincnn.evaluation.scoring import assess, score_variant
from skincnn.inference.logit_adjustment import adjust_tables
from skincnn.inference.ood import score_unknown
from skincnn.inference.predictions import arrays
from skincnn.reporting.html import render_page
from skincnn.reporting.model_card import render_card
from skincnn.reporting.report import summary
from skincnn.reporting.report_text import interval
from skincnn.serving.postprocessing import DecisionRule, answer


def measured(seed: int) -> pd.DataFrame:
    """The table of `test_page` with distances."""
    rng = np.random.default_rng(seed)
    return make_table(seed).assign(distance=rng.gamma(4, 0.25, 120))


TABLES = {"val": measured(0), "test": measured(1)}


def make(tables: dict[str, pd.DataFrame], names: list[str] = NAMES) -> dict:
    report = make_report() | assess(tables, names, CONFIG.evaluate)
    for content in report["splits"].values():
        content["fold"] = "fold 9"
    return report | {"class_names": names}


@pytest.fixture(scope="module")
def report() -> dict:
    return make(TABLES)


@pytest.mark.parametrize("split", TABLES)
def test_refer_is_scored_as_it_is_served(split: str, report: dict) -> None:
    strange = pd.DataFrame({"set": "x", "distance": [9.0]})
    told = {**report, "unknown": score_unknown(TABLES, strange, CONFIG)}
    table = TABLES[split]
    y_true, y_prob = arrays(table, NAMES)
    served = answer(
        [tf.constant(np.log(y_prob), tf.float32)],
        [tf.constant(table["distance"], tf.float32)],
        tf.ones(len(table), tf.bool),
        DecisionRule.of(told),
    )
    refer, unknown = served["refer"].numpy(), served["unknown"].numpy()
    found = report["splits"][split]["refer"]
    malignant, melanoma = np.isin(y_true, (1, 3)), y_true == 1
    for name, expected in {
        "sensitivity": refer[malignant].mean(),
        "specificity": 1 - refer[~malignant].mean(),
        "ppv": malignant[refer].mean(),
        "referred": refer.mean(),
        "melanoma_referred": refer[melanoma].mean(),
    }.items():
        assert found[name]["value"] == pytest.approx(expected, abs=1e-6), name
        assert found[name]["low"] < expected < found[name]["high"]
    # Neither the threshold nor the distance alone says it.
    alone = report["splits"][split]["targets"]["malignant"]["operating_points"]
    assert found["specificity"]["value"] < alone[found["point"]]["specificity"]["value"]
    assert found["referred"]["value"] > unknown.mean() > 0


def test_what_is_served_is_told_beside_the_thresholds(report: dict) -> None:
    of = report["splits"]["test"]["refer"]
    y_true, _ = arrays(TABLES["test"], NAMES)
    count = int((y_true == 1).sum())
    missed = round((1 - of["melanoma_referred"]["value"]) * count)
    page = Page(render_page(report, CONFIG, PIXEL)).words
    card = render_card(report, CONFIG)
    rates = [interval(of[name]) for name in ("sensitivity", "specificity")]
    row = ["as served: refer", f"{of['threshold']:.3f}", *rates]
    assert f"| malignant | {' | '.join(row)} |" in card
    assert "".join(row) in page.replace("refer ", "refer")
    for text in (page, card):
        assert f"for {interval(of['referred'])} of these pictures" in text
        melanomas = f"{interval(of['melanoma_referred'])} of those of melanoma"
        assert f"{melanomas} ({missed} of {count} are not)" in text
        assert "--operating-point" in text
    assert f"refer, as served   {interval(of['referred'])} of the pict" in summary(report)


def test_where_no_threshold_reaches_it_the_unknown_are_referred() -> None:
    benign = make_table(0, (0, 2)).assign(distance=TABLES["val"]["distance"])
    found = make({"val": benign, "test": TABLES["test"]})
    of = found["splits"]["test"]["refer"]
    beyond = (TABLES["test"]["distance"] > of["limit"]).mean()
    assert of["threshold"] is None
    assert of["referred"]["value"] == pytest.approx(beyond, abs=1e-6)
    for text in (Page(render_page(found, CONFIG, PIXEL)).words, render_card(found, CONFIG)):
        assert "refer is set where a picture is unknown" in text
        assert "None" not in text
    # And of a split without melanoma, none of it is told.
    none = make({"val": TABLES["val"], "test": benign})
    assert none["splits"]["test"]["refer"]["melanoma_referred"]["value"] is None
    page, card = render_page(none, CONFIG, PIXEL), render_card(none, CONFIG)
    assert "of those of melanoma" not in card
    assert page.count("of those of melanoma") == 1  # of validation


def renamed(table: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    columns = {f"probability_{old}": f"probability_{new}" for old, new in names.items()}
    return table.rename(columns=columns).assign(label=table["label"].replace(names))


@pytest.mark.parametrize("lacking", ["distances", "malignant"])
def test_without_distances_or_malignant_classes_there_is_no_row(lacking: str) -> None:
    harmless = {"mel": "scar", "bcc": "df"}
    tables, names = {split: make_table(n) for n, split in enumerate(TABLES)}, NAMES
    if lacking == "malignant":
        tables = {split: renamed(table, harmless) for split, table in TABLES.items()}
        names = [harmless.get(name, name) for name in NAMES]
    found = make(tables, names)
    assert [of["refer"] for of in found["splits"].values()] == [None, None]
    for text in (render_page(found, CONFIG, PIXEL), render_card(found, CONFIG)):
        assert "as served" not in text.lower()
    assert "as served" not in summary(found)


def test_adjusted_probabilities_are_not_served() -> None:
    counts = dict(zip(NAMES, (50, 10, 100, 5), strict=True))
    adjusted, _ = adjust_tables(TABLES, NAMES, counts)
    assert score_variant(adjusted, TABLES, "test", NAMES, CONFIG)["refer"] is None
