"""The parity of an export with its model: results/export.<name>.json."""

from __future__ import annotations

from pathlib import Path

from skincnn.evaluation.results import FOLDER, result_path
from skincnn.records import Part, Record, keep_named, read_record, write_record


class ClassParity(Part):
    """Parity on the images of one class. All scores are None if there are no images."""

    num_images: int
    same_class: float | None
    largest_difference: float | None
    model_recall: float | None
    export_recall: float | None


class ParityResult(Record):
    """How the predictions of an export differ from those of the exported model.

    A sample of the test split is compared; see `skincnn.serving.parity.choose_images`.

    Attributes:
        format: "saved_model" or a key of `skincnn.serving.runtimes.RUNTIMES`.
        variant: Inference variant that is part of the export; see `SplitResult.variant`.
        num_bytes: Size of the export in bytes.
        same_class: Share of images with the same predicted class.
        same_refer: Share of images with the same referral decision; None if the rule has no
            target "malignant".
        same_out_of_distribution: Share of images with the same OOD decision; 1 if neither
            the model nor the export detects OOD images.
        largest_difference: Largest difference in probability before calibration.
        largest_distance_difference: Largest difference in OOD distance, as a fraction of
            the OOD limit; None if the export does not detect OOD images.
    """

    format: str
    variant: str
    num_bytes: int
    num_images: int
    same_class: float
    same_refer: float | None
    same_out_of_distribution: float | None
    largest_difference: float
    largest_distance_difference: float | None
    model_balanced_accuracy: float
    export_balanced_accuracy: float
    classes: dict[str, ClassParity]

    @property
    def name(self) -> str:
        """The name of the export in file names and reports, such as "saved_model.d4"."""
        return f"{self.format}.{self.variant}" if self.variant else self.format


def write_parity(workdir: Path, result: ParityResult) -> None:
    """Writes results/export.<name>.json of a run directory.

    Raises:
        OSError: The file cannot be written.
    """
    write_record(result_path(workdir, f"export.{result.name}"), result)


def read_parity(workdir: Path) -> list[ParityResult]:
    """Returns the parity of each export of a run, sorted by name.

    Raises:
        ConfigError: A file is damaged or has another schema version.
    """
    fix = "Export again with `skincnn export`, or delete the file."
    paths = (workdir / FOLDER).glob("export.*.json")
    results = {path: read_record(path, ParityResult, fix) for path in paths}
    own = keep_named(results, lambda result: f"export.{result.name}")
    return sorted(own.values(), key=lambda result: result.name)
