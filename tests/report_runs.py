"""Run directories with synthetic predictions, for the tests of reports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skincnn.config import Config, DataConfig, EvaluateConfig
from skincnn.data.leakage import LeakageAudit, SplitLeakage
from skincnn.data.preprocessing_spec import describe_preprocessing
from skincnn.evaluation.results import (
    CorruptionResult,
    CorruptionRow,
    CorruptionScores,
    InferenceCost,
    MemberScores,
    MembersResult,
    OodResult,
    OodSet,
    OodSplit,
    result_path,
)
from skincnn.evaluation.scoring import InferenceVariant, score_variants
from skincnn.inference.predictions import predictions_table, write_predictions
from skincnn.inference.run_dir import MODEL_FILE, Member, Provenance, RunInfo
from skincnn.metrics.bootstrap import Estimate
from skincnn.records import write_record
from skincnn.reporting.parity_result import ClassParity, ParityResult

NAMES = ("<b>wart</b>|", "mel", "nv", "bcc")
CONFIG = Config(
    data=DataConfig(dataset="isic2018"), evaluate=EvaluateConfig(num_bootstrap=100)
)
STORED_IN = {
    "val": "fold 8",
    "test": "fold 9",
    "test_official": "test official",
}
Tables = Mapping[str, pd.DataFrame]


def make_table(
    seed: int, labels: Sequence[int] = (0, 1, 2, 3), names: Sequence[str] = NAMES
) -> pd.DataFrame:
    """Predictions of 120 images of 60 lesions of some of the classes, with distances."""
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
    table = predictions_table(rows, logits.astype(np.float32), names)
    return table.assign(distance=rng.gamma(5, 0.2, 120))


def make_variant(
    name: str = "",
    *,
    tables: Tables | None = None,
    num_views: int = 1,
    strength: float | None = None,
) -> InferenceVariant:
    """Predictions of val and test; those of the model as is are of the seeds 0 and 1."""
    seeds = (2, 3) if name else (0, 1)
    made = {split: make_table(n) for split, n in zip(("val", "test"), seeds, strict=True)}
    cost = InferenceCost(
        num_views=num_views, seconds_per_image=0.004 * num_views, relative=num_views
    )
    return InferenceVariant(name, tables or made, cost, strength)


def make_info(**changes: object) -> RunInfo:
    """A run.json, with changed fields."""
    splits = ("train", "val", "test")
    info = RunInfo(
        skincnn="0.1.0",
        versions={},
        device=None,
        provenance=Provenance(code="0123abc", processor="Some CPU", cores=2, gpus=()),
        class_names=NAMES,
        synthetic=False,
        dataset="ham10000/isic2018/2.0.0",
        attribution="Images: an archive, CC BY-NC 4.0.",
        stored_longest_side=None,
        audit=LeakageAudit(
            dict.fromkeys(splits, 12), dict.fromkeys(splits, 8), 0, 0, 0, 0.0, None
        ),
        preprocessing=describe_preprocessing(CONFIG.data),
        data_fingerprint={},
        class_counts={},
        best_epoch=3,
        num_parameters=1234,
        training_seconds=60.0,
        sha256={},
    )
    return info.model_copy(update=changes)


def write_run(
    workdir: Path,
    *variants: InferenceVariant,
    info: RunInfo | None = None,
    config: Config = CONFIG,
    leakage: Mapping[str, SplitLeakage] | None = None,
) -> Path:
    """Writes an evaluated run and returns its directory.

    Args:
        workdir: The directory.
        *variants: What was evaluated; the first is the model as is.
        info: Content of run.json.
        config: The configuration.
        leakage: Split to its leakage.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / MODEL_FILE).touch()
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    history = pd.DataFrame(
        {"epoch": [1, 2, 3], "loss": [1.0, 0.6, 0.5], "val_macro_f1": [0.4, 0.5, 0.6]}
    )
    history.to_csv(workdir / "history.csv", index=False)
    info = info or make_info()
    write_record(workdir / "run.json", info)
    tables, results = score_variants(
        variants or [make_variant()], STORED_IN, leakage or {}, config.evaluate
    )
    write_predictions(workdir, tables)
    for name, result in results.items():
        write_record(result_path(workdir, name), result)
    return workdir


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
    """A score with an interval."""
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
    max_distance=1.5,
    accepted_validation=0.95,
    splits={"test": OodSplit(num_images=120, rejected=around(0.06))},
    sets=(OodSet(name="photographs", num_images=48, rejected=0.7, auc=0.9),),
)
PARITY = ParityResult(
    format="litert",
    tta="",
    num_bytes=2_340_000,
    num_images=100,
    same_class=0.99,
    same_refer=0.98,
    same_out_of_distribution=0.97,
    largest_difference=0.012,
    largest_distance_difference=None,
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


def make_members(*configs: Config) -> tuple[Member, ...]:
    """Models of an ensemble, of these configurations."""
    return tuple(
        Member(name=name, config=config, audit=make_info().audit, best_epoch=7)
        for name, config in zip(("first", "second"), configs, strict=False)
    )
