"""Example results for the tests of reports."""

from __future__ import annotations

from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
from run_dirs import make_member, predict_lesions, score_test

from skincnn.config import Config
from skincnn.data.label_maps import LabelMap
from skincnn.evaluation.aggregate import MemberScores, MembersResult
from skincnn.evaluation.external.result import (
    ChosenPrevalence,
    ExternalResult,
    OtherLabel,
    Overlap,
)
from skincnn.evaluation.mistakes import Mistakes
from skincnn.evaluation.results import (
    OodResult,
    OodSet,
    OodSplit,
)
from skincnn.evaluation.robustness import (
    CorruptionResult,
    CorruptionRow,
    CorruptionScores,
)
from skincnn.inference.run_dir import Member
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.predictive_values import PrevalenceScores
from skincnn.reporting.html import report_environment
from skincnn.reporting.parity_result import ClassParity, ParityResult

NAMES = ("<b>wart</b>|", "mel", "nv", "bcc")


def make_table(
    seed: int, labels: Sequence[int] = (0, 1, 2, 3), names: Sequence[str] = NAMES
) -> pd.DataFrame:
    """Returns predictions of 120 images of 60 lesions of these classes, with distances."""
    rng = np.random.default_rng(seed)
    label = np.resize(labels, 120)
    logits = rng.normal(0, 1, (120, 4)) + 1.2 * np.eye(4)[label]
    sex = rng.choice(["female", "male", "unknown"], 120)
    dx_type = np.where(np.arange(120) < 3, "confocal", "histo")
    table = predict_lesions(label, logits, names, sex=sex, dx_type=dx_type)
    return table.assign(distance=rng.gamma(5, 0.2, 120))


def make_mistakes() -> Mistakes:
    """Returns three errors: a missed melanoma, a nevus and a carcinoma."""
    table = pd.DataFrame(
        {
            "image_id": ["ISIC_1", r"$\no$", "folder/" * 9 + "lésion"],
            "label": ["mel", "nv", "bcc"],
            "predicted": ["nv", "mel", "mel"],
            "confidence": [0.97, 0.999, 0.5],
            "probability_of_label": [0.02, 0.0001, 0.4],
            "is_missed": [True, False, False],
        }
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)
    return Mistakes(table, images, rng.uniform(0, 1, (3, 2, 3)).astype(np.float32))


TABLES = {split: make_table(seed) for seed, split in enumerate(("val", "test"))}
VARIANT = {split: make_table(2 + seed) for seed, split in enumerate(("val", "test"))}
WITH_OFFICIAL = {**TABLES, "test_official": make_table(4)}


class Page(HTMLParser):
    """The text, the elements and their attributes of an HTML page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self.text += " "
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


def around(value: float) -> Estimate:
    """Returns a score with an interval."""
    return Estimate(value, round(value - 0.01, 6), round(value + 0.01, 6))


CORRUPTIONS = CorruptionResult(
    split="test",
    num_images=120,
    clean=CorruptionScores(
        balanced_accuracy=around(0.66),
        melanoma_sensitivity=around(0.5),
        melanoma_specificity=around(0.9),
    ),
    rows=tuple(
        CorruptionRow(
            name=name,
            severity=severity,
            scores=CorruptionScores(
                balanced_accuracy=around(0.65 - 0.04 * severity),
                melanoma_sensitivity=around(0.37),
                melanoma_specificity=around(0.86),
            ),
            difference=around(-0.01 - 0.04 * severity),
        )
        for name in ("motion", "hairs")
        for severity in range(1, 6)
    ),
    trained=("motion", "hairs"),
)
OOD = OodResult(
    limit=1.5,
    accepted_validation=0.95,
    min_rejected=0.5,
    is_on=True,
    splits={"test": OodSplit(num_images=120, rejected=around(0.06))},
    sets=(OodSet(name="photographs", num_images=48, rejected=0.7, auc=0.9),),
)
PARITY = ParityResult(
    format="litert",
    variant="",
    num_bytes=2_340_000,
    num_images=100,
    same_class=0.99,
    same_refer=0.98,
    same_out_of_distribution=0.97,
    largest_difference=0.012,
    largest_distance_difference=0.092,
    model_balanced_accuracy=0.61,
    export_balanced_accuracy=0.6,
    classes={
        name: ClassParity(
            num_images=count,
            same_class=0.96 if count else None,
            largest_difference=0.011 if count else None,
            model_recall=0.51 if count else None,
            export_recall=0.5 if count else None,
        )
        for name, count in zip(NAMES, (40, 30, 30, 0), strict=True)
    },
)
MEMBERS = MembersResult(
    split="test",
    members=(
        MemberScores(
            name="first",
            metrics={"balanced_accuracy": around(0.55), "macro_f1": around(0.44)},
            differences={"balanced_accuracy": around(0.031)},
        ),
    ),
)


def make_external() -> ExternalResult:
    """Returns the result on a dataset with overlap and a label without a class."""
    update = {"split": "external.clinic", "stored_in": "external dataset clinic"}
    scores = score_test(TABLES).model_copy(update=update)
    prevalence = PrevalenceScores(
        prevalence=0.03,
        ppv=around(0.11),
        npv=around(0.98),
        net_benefit=around(0.01),
        net_benefit_of_all=-0.1,
    )
    return ExternalResult(
        name="clinic",
        dataset="ham10000/clinic/3.0.0",
        attribution="Images of a clinic.",
        synthetic=False,
        label_map=LabelMap(
            classes={"nevus": "nv", "<i>scar</i>|": None},
            sources=("ISIC 2020: some source",),
            notes=("A note.",),
        ),
        num_images=130,
        overlap=Overlap(counts={"file": 2, "group": 1}, searched=True, num_test_images=5),
        other_labels=(
            OtherLabel(
                label="<i>scar</i>|",
                num_images=7,
                num_groups=7,
                predicted={"nv": 3, "mel": 2, "bcc": 1, NAMES[0]: 1},
                referred=around(0.43),
            ),
        ),
        scores=scores,
        out_of_distribution=around(0.25),
        prevalences=(
            ChosenPrevalence(target="melanoma", point="referral", scores=prevalence),
        ),
    )


EXTERNAL = make_external()


def sentences(macro: str, *arguments: object) -> str:
    """Returns the text of a macro of sentences.j2 with single spaces."""
    template = report_environment(autoescape=False).get_template("sentences.j2")
    return " ".join(getattr(template.module, macro)(*arguments).split())


def make_members(*configs: Config) -> tuple[Member, ...]:
    """Returns the members of an ensemble with these configurations."""
    return tuple(map(make_member, ("first", "second"), configs))
