"""What a report says, in words: for the terminal, the page and the model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skincnn.classes import describe
from skincnn.evaluation.scoring import MELANOMA_RECALL
from skincnn.inference.logit_adjustment import ADJUSTED, unadjusted_name
from skincnn.metrics.operating_points import HEADLINE_POINT

SUMMARY_METRICS = ("balanced_accuracy", "macro_f1", "accuracy", "macro_auc")
SUMMARY_POINT = HEADLINE_POINT.text
Interval = Mapping[str, float | None]
"""value, low and high; None in the place of what the pictures cannot tell."""
ABBREVIATIONS = {"auc": "AUC", "ece": "ECE", "f1": "F1", "isic": "ISIC", "brier": "Brier"}
SHARED = ("num_shared_images", "num_shared_lesions", "num_shared_groups")
"""What an audit counts."""
MADE_UNKNOWN = (
    "The photographs are 48 pieces of two photographs, and noise, plain colors and "
    "stripes are drawn: they stand for few kinds of pictures, so their shares have no "
    "interval."
)
"""What the unknown pictures are that every run is asked about."""
ONE_IMAGE = {
    "train": "training",
    "evaluation": "validation and test",
    "all": "training, validation and test",
}
"""Values of `data.one_image_per_lesion` in words."""
WAYS = {
    "d4": "the mean of its answers to each picture turned and mirrored",
    "augment": "the mean of its answers to each picture varied as in training",
    ADJUSTED: (
        "each logit less a power, in brackets, times the logarithm of its class's share of "
        "the training pictures (Menon et al., Long-tail Learning via Logit Adjustment, "
        "2021, arXiv:2007.07314). The power is that of the best balanced accuracy on "
        "validation. Exports serve the model without it"
    ),
}
"""Ways to predict beside the plain one, in words."""
ADJUSTED_EACH = (
    "the mean of the adjusted answers of the models: of each, every logit less a power "
    "times the logarithm of its class's share of the model's training pictures (Menon et "
    "al., Long-tail Learning via Logit Adjustment, 2021, arXiv:2007.07314). The power is "
    "the model's own, that of its best balanced accuracy on validation, and stands in its "
    "report. Exports serve the models without it"
)
"""What `ADJUSTED` is of several models."""
EXPORTED = {"d4": 8}
"""Those of `WAYS` that exports can serve, and how many views they then have."""


def trained_by(provenance: Mapping[str, Any] | None) -> str:
    """Returns the code and what it ran on; "" where the run does not tell."""
    if not provenance:
        return ""
    code, cores, gpus = (provenance[name] for name in ("code", "cores", "gpus"))
    if gpus:
        return f"{code}, {len(gpus)} x {gpus[0]}"
    return f"{code}, {cores} core{'s' if cores > 1 else ''} of {provenance['processor']}"


@dataclass(frozen=True)
class Melanomas:
    """What became of the melanomas of a split.

    Attributes:
        name: What the class is called.
        num_images: How many pictures of melanoma there are.
        num_lesions: Of how many lesions.
        recall: The share that was called melanoma, with its interval.
        called: What the others were called and how many, the most frequent first.
        point: The rates at the threshold of `SUMMARY_POINT`; empty where there is none.
    """

    name: str
    num_images: int
    num_lesions: int
    recall: Interval
    called: list[tuple[str, int]]
    point: Mapping[str, Any]

    @property
    def num_missed(self) -> int:
        """How many were called something else."""
        return sum(count for _, count in self.called)

    @property
    def num_flagged(self) -> int | None:
        """How many are found at the threshold; None where there is none."""
        if "sensitivity" not in self.point:
            return None
        return round(self.point["sensitivity"]["value"] * self.num_images)


def find_melanomas(content: Mapping[str, Any]) -> Melanomas | None:
    """Returns what became of the melanomas; None where no class is one.

    Args:
        content: A split of report.json. It may hold no melanoma: then there is no recall.
    """
    known = describe(content["classes"])
    name = next((name for name, of in known.items() if of.name == "mel"), None)
    if name is None:
        return None
    of = content["classes"][name]
    names = list(content["classes"])
    row = content["confusion_matrix"][names.index(name)]
    others = [pair for pair in zip(names, row, strict=True) if pair[0] != name and pair[1]]
    called = sorted(others, key=lambda pair: -pair[1])
    point: Mapping[str, Any] = {}
    if of["num_images"]:
        point = content["targets"]["melanoma"]["operating_points"][SUMMARY_POINT]
    counts = of["num_images"], of["num_lesions"]
    return Melanomas(name, *counts, of["recall"], called, point)


def count_called_benign(content: Mapping[str, Any]) -> tuple[int, int]:
    """Returns how many malignant pictures were called a benign class, and of how many."""
    malignant = [of.malignant for of in describe(content["classes"]).values()]
    rows = [
        row for row, bad in zip(content["confusion_matrix"], malignant, strict=True) if bad
    ]
    benign = [
        count for row in rows for count, bad in zip(row, malignant, strict=True) if not bad
    ]
    return sum(benign), sum(map(sum, rows))


def explain_refer(content: Mapping[str, Any]) -> str:
    """Returns what is referred as served, and how much of what; "" where it is not known.

    Args:
        content: A split of report.json.
    """
    of = content.get("refer")
    if not of:
        return ""
    enough = said = ""
    if of["threshold"] is not None:
        enough = f"from the threshold for {of['point']} on, and "
    melanomas = find_melanomas(content)
    if melanomas and melanomas.num_images:
        found, count = of["melanoma_referred"], melanomas.num_images
        said = (
            f" and {interval(found)} of those of melanoma ("
            f"{round((1 - found['value']) * count)} of {count} are not)"
        )
    return (
        f"As served, refer is set {enough}where a picture is unknown, at a distance "
        f"beyond {of['limit']:.3f}: for {interval(of['referred'])} of these pictures"
        f"{said}. That is the default; --operating-point of scripts/export.py changes it."
    )


def summarize(report: Mapping[str, Any]) -> str:
    """Returns how good the model is, how sure that is, and whether to believe it."""
    content = report["splits"][report["headline"]]
    found = content["metrics"]["balanced_accuracy"]
    confidence = f"{100 * report['interval']['confidence']:.0f} %"
    sentences = [
        f"Averaged over the classes, the model names {percent(found)} of the pictures "
        f"rightly ({confidence} interval {percent_ends(found)}); "
        f"guessing would get {100 / len(report['class_names']):.0f} %.",
        f"Its macro F1 is {interval(content['metrics']['macro_f1'])}.",
    ]
    melanomas = find_melanomas(content)
    if melanomas is None:
        sentences.append("Melanoma is not among its classes.")
    elif not melanomas.num_images:
        sentences.append("No melanoma was among the test pictures.")
    else:
        sentences.append(
            f"It calls {melanomas.num_missed} of {melanomas.num_images} pictures "
            "of melanoma something else."
        )
    leaked = leak(content)
    if leaked:
        sentences.append(leaked)
    elif is_leaky(report):
        sentences.append("Lesions or pictures are in two of its splits: DO NOT TRUST this.")
    else:
        sentences.append("No picture, lesion or near-duplicate is in two of its splits.")
    return " ".join(sentences)


def explain_ways(report: Mapping[str, Any]) -> str:
    """Returns what the report's ways to predict beside the plain one are."""
    ways = WAYS | ({ADJUSTED: ADJUSTED_EACH} if report.get("models") else {})
    names = [variant["name"] for variant in report["variants"]]
    parts = [unadjusted_name(name) for name in names]
    if any(name.endswith(ADJUSTED) for name in names):
        parts.append(ADJUSTED)
    found = dict.fromkeys(part for part in parts if part in ways)
    return " ".join(f"{part}: {ways[part]}." for part in found)


def way_name(variant: Mapping[str, Any]) -> str:
    """Returns the name of a way to predict, "adjusted (0.50)" with its power."""
    power = f" ({variant['strength']:.2f})" if "strength" in variant else ""
    return f"{variant['name']}{power}"


def exported_ways(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the ways to predict beside the plain one that can be exported."""
    return [
        variant
        for variant in report["variants"]
        if EXPORTED.get(variant["name"]) == variant["num_views"] and "targets" in variant
    ]


def explain_export(variant: Mapping[str, Any]) -> str:
    """Returns what an export of a way to predict serves."""
    return (
        f"Exported with --tta {variant['name']}, it is served with a temperature of "
        f"{variant['temperature']:.2f} and thresholds of its own, chosen on validation. "
        "How many pictures are then referred as unknown is not known: no distances of "
        "turned pictures were taken."
    )


def way_scores(variant: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns name, score and difference from the plain one of a way to predict.

    Of melanoma recall there is no difference in a report of before it was told, which says
    "not known"; and no row where no class is melanoma.
    """
    scores = {name: variant["metrics"][name] for name in ("balanced_accuracy", "macro_f1")}
    for name, of in describe(variant["classes"]).items():
        if of.name == "mel":
            scores[MELANOMA_RECALL] = variant["classes"][name]["recall"]
    gained = variant["differences"]
    return [
        (
            label(name),
            interval(score),
            interval(gained[name], "+.3f") if name in gained else "not known",
        )
        for name, score in scores.items()
    ]


def smallest_class(report: Mapping[str, Any]) -> tuple[str, int, float]:
    """Returns the class with the fewest pictures, how many, and what one of them moves.

    The last is the step of the balanced accuracy between one picture right and one wrong.
    """
    content = report["splits"][report["headline"]]
    sizes = {name: of["num_images"] for name, of in content["classes"].items()}
    there = {name: size for name, size in sizes.items() if size}
    name = min(there, key=lambda name: there[name])
    return name, there[name], 1 / (there[name] * len(there))


def backbone_name(report: Mapping[str, Any], backbone: str) -> str:
    """Returns what answers: the backbone of a run, or those of all models of a report.

    Args:
        report: The content of report.json.
        backbone: That of the run, or of the first of several.
    """
    named = [model.get("backbone", backbone) for model in report.get("models") or []]
    return " + ".join(dict.fromkeys(named or [backbone]))


def trained_like(corruptions: Mapping[str, Any]) -> str:
    """Returns which corruptions are like what the model was trained with, "" for none.

    Args:
        corruptions: Those of report.json.
    """
    names = [name.replace("_", " ") for name in corruptions.get("trained", ())]
    if not names:
        return ""
    return (
        f"The augmentation of its training does the like of {', '.join(names)}: these are "
        "not new to the model, and how it takes them tells little of what else may come."
    )


def data_name(report: Mapping[str, Any]) -> str:
    """Returns what a reader would call the pictures; synthetic ones are called so."""
    if report["synthetic"]:
        return "synthetic demo pictures"
    return data_id(report) if report["attribution"] else "pictures of one's own"


def data_id(report: Mapping[str, Any]) -> str:
    """Returns the variant of the dataset, "isic2018" of "ham10000/isic2018/2.0.0"."""
    parts = report["dataset"].split("/")
    return str(parts[min(1, len(parts) - 1)])


def headline_audit(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns what was counted of the headline's own split, or else of the training's."""
    return report["splits"][report["headline"]].get("audit", report["audit"])


def is_leaky(report: Mapping[str, Any]) -> bool:
    """Returns whether a picture, a lesion or a near-duplicate is in two splits."""
    audits = (report["audit"], headline_audit(report))
    return report["split_by"] == "image" or any(
        audit[name] for audit in audits for name in SHARED
    )


def leak(content: Mapping[str, Any]) -> str:
    """Returns what of a split beside val and test was trained on, "" for nothing.

    Args:
        content: A split of report.json.
    """
    audit = content.get("audit", {})
    if not any(audit.get(name) for name in SHARED):
        return ""
    return (
        f"LEAK: {audit['num_leaky_images']} of the {content['num_images']} pictures of "
        f"{content['fold']}, or others like them, were trained on or chosen with: "
        "DO NOT TRUST its scores."
    )


def role(split: str) -> str:
    """Returns what a split was used for."""
    return {
        "val": "validation (epoch, temperature and thresholds were chosen on it)",
        "test": "test (no choice of this run was made on it)",
        # Each fold that is validation for one model is tested by another.
        "out_of_fold": (
            "each picture was predicted by a model that did not train on it; temperature, "
            "thresholds and epochs were chosen on folds that other models were tested on"
        ),
    }.get(split, "no choice of this run was made on it")


def label(name: str) -> str:
    """Returns the name of a metric for a reader."""
    return " ".join(ABBREVIATIONS.get(word, word) for word in name.split("_"))


def interval(found: Interval, spec: str = ".3f") -> str:
    """Returns a score with its interval, as "0.637 [0.548, 0.727]".

    Args:
        found: The score.
        spec: How a number is written; "+.3f" for a difference.
    """
    if found["value"] is None:
        return "no picture"
    return f"{found['value']:{spec}} [{interval_ends(found, spec)}]"


def interval_ends(found: Interval, spec: str = ".3f") -> str:
    """Returns the interval of a score as "0.548, 0.727"."""
    if found["low"] is None or found["high"] is None:
        return "not known"
    return f"{found['low']:{spec}}, {found['high']:{spec}}"


def percent(found: Interval) -> str:
    """Returns a share as "64 %"."""
    return "no picture" if found["value"] is None else f"{100 * found['value']:.0f} %"


def percent_ends(found: Interval) -> str:
    """Returns the interval of a share as "55 to 73 %"."""
    if found["low"] is None or found["high"] is None:
        return "not known"
    return f"{100 * found['low']:.0f} to {100 * found['high']:.0f} %"
