"""The result of an external validation, results/external.<name>.json."""

from __future__ import annotations

from pathlib import Path

from skincnn.data import links
from skincnn.data.label_maps import LabelMap
from skincnn.evaluation.results import FOLDER, SplitResult, read_result
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.predictive_values import PrevalenceScores
from skincnn.records import Part, Record, keep_named

PREFIX = "external."
GROUP = "group"
KINDS = (*links.KINDS, GROUP)
"""Kinds of overlap with training or validation images, in the order of their checks.

They are the kinds of links to these images and, last, `GROUP`: the image is in the same
group of the external dataset, such as a lesion, as a linked image."""
REFERRAL = "referral"
"""`ChosenPrevalence.point` of the referral rule."""


class Overlap(Part):
    """The result of the overlap audit of an external dataset.

    Attributes:
        counts: Number of images that were left out, by kind of overlap with the training
            and validation images, from `KINDS`.
        searched: Whether near-duplicates were searched for. This is False if all images of
            the run, or all external images, are synthetic. If only some images of the run
            are synthetic, the search leaves these out: all synthetic images are similar.
        num_test_images: Number of scored images that are also in the test split of the
            run, with the same published image_id or the same file.
    """

    counts: dict[str, int]
    searched: bool
    num_test_images: int

    @property
    def num_images(self) -> int:
        """Number of images that were left out."""
        return sum(self.counts.values())


class OtherLabel(Part):
    """How the images of a label that is not a class of the model were predicted.

    Attributes:
        num_groups: Number of groups that the bootstrap resamples, such as lesions.
        predicted: Number of images by predicted class, in decreasing order.
        referred: Share of the images that the referral rule refers; None without a rule.
    """

    label: str
    num_images: int
    num_groups: int
    predicted: dict[str, int]
    referred: Estimate | None


class ChosenPrevalence(Part):
    """PPV, NPV and net benefit of a target at the prevalence that the user chose.

    `point` is the key of an operating point, such as "specificity=0.90", or `REFERRAL`.
    """

    target: str
    point: str
    scores: PrevalenceScores


class ExternalResult(Record):
    """results/external.<name>.json: the scores of a run on another dataset.

    Attributes:
        name: Name of the dataset, such as "isic2019".
        dataset: Full name of the TFDS dataset.
        attribution: See `skincnn.data.characteristics.DatasetInfo`.
        num_images: Number of images of the dataset.
        overlap: Result of the overlap audit; None if it was skipped.
        other_labels: Labels that are not classes of the model, without the images that the
            overlap audit left out. None of their images are scored.
        scores: All scores, without the images of other labels and those that the overlap
            audit left out. The calibration map, the thresholds and the OOD limit are those
            of the run.
        out_of_distribution: Share of the scored images above the OOD limit; None if OOD
            detection is switched off.
        prevalences: Scores at the prevalences that the user chose.
    """

    name: str
    dataset: str
    attribution: str
    synthetic: bool
    label_map: LabelMap
    num_images: int
    overlap: Overlap | None
    other_labels: tuple[OtherLabel, ...]
    scores: SplitResult
    out_of_distribution: Estimate | None
    prevalences: tuple[ChosenPrevalence, ...]

    def __repr__(self) -> str:
        """Returns the main scores with their intervals."""
        counted = f"{self.scores.num_images:,} of {self.num_images:,} images were scored"
        return f"{self.dataset}: {counted}\n{self.scores}"


def external_name(dataset: str) -> str:
    """Returns the name of the table and the result of a dataset: "external.<dataset>"."""
    return f"{PREFIX}{dataset}"


def read_external(workdir: Path) -> tuple[ExternalResult, ...]:
    """Returns the results of all external validations of a run, sorted by name.

    Raises:
        ConfigError: A file is damaged or has another schema version.
    """
    results = {
        path: read_result(workdir, path.stem, ExternalResult)
        for path in sorted((workdir / FOLDER).glob(f"{PREFIX}*.json"))
    }
    return tuple(keep_named(results, lambda result: external_name(result.name)).values())
