"""Exports a run as a SavedModel, or as a LiteRT or ONNX file."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from skincnn.cli import common
from skincnn.cli.help.text import parse_arguments
from skincnn.errors import ConfigError
from skincnn.files import locked

Format = Literal[
    "saved_model",
    "litert",
    "litert_float16",
    "litert_int8_weights",
    "litert_int8",
    "onnx",
]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Exports an evaluated run or ensemble in formats that do not require this package.

    Each export is compared with the predictions table on at least 256 images of the test
    split (all images, if there are fewer), including rare classes. Probabilities may differ
    by up to 1e-5 for a SavedModel of a run trained with TensorFlow on a CPU, 1e-4 for
    litert and onnx, and 1e-3 for other SavedModels; for formats with fewer than 32 bits,
    the difference is not limited. An export is rejected if it never predicts a class, or
    never predicts it correctly, although the Keras model does, or if the distances for
    out-of-distribution detection differ too much (unless --no-ood is given). litert_int8
    and litert_int8_weights files do not detect out-of-distribution images, because 8 bits
    are too few for the distances.
    results/export.*.json and the model card show the parity of each export for each class.
    A new SavedModel gets the next version number; LiteRT and ONNX files are replaced.

    For example:
      skincnn export runs/mobilenet_160
      skincnn export runs/mobilenet_160 --formats litert_int8 onnx
      skincnn export runs/mobilenet_160 --tta d4 --logit-adjustment
      skincnn export runs/ensemble5 --logit-adjustment
      skincnn export runs/a runs/b --ensemble runs/ab
    """

    workdirs: tyro.conf.Positional[tuple[Path, ...]]
    """Directory of an evaluated run or of an ensemble from `skincnn train`; with
    --ensemble, the directories of its runs."""
    formats: tuple[Format, ...] = ("saved_model",)
    """saved_model: for TensorFlow Serving, with image files as inputs; litert*: for phones,
    with 32, 16 or 8 bits, or with 8 bits for the weights only; onnx: for ONNX runtimes.
    LiteRT and ONNX require a single run and pip install -e '.[export]'."""
    ensemble: Path | None = None
    """Directory that `skincnn evaluate --ensemble` wrote for these runs. Exports one
    SavedModel that averages the predictions of the runs."""
    tta: Literal["", "d4", "augment"] = ""
    """Test-time augmentation. d4: average the predictions for the eight orientations of
    each image; evaluate the run with `skincnn evaluate --tta d4` first. augment is
    rejected, because its views are random."""
    logit_adjustment: bool = False
    """Adjust the logits for the class frequencies of the training images; evaluate the run
    with `skincnn evaluate --logit-adjustment` first."""
    ood: bool = True
    """Whether the export detects out-of-distribution images. For this, the export contains
    a matrix for each inner block of the backbone, with a row and a column per channel."""
    operating_point: str = "sensitivity=0.90"
    """Operating point on validation at which the referral threshold is set: sensitivity or
    specificity for malignant lesions, 0.90 or 0.95, such as specificity=0.95."""
    data_dir: Path | None = None
    """Directory of the built datasets; by default, that of TFDS."""


def command() -> None:
    """Parses the arguments, exports the model, renders the report, and prints the paths."""
    arguments = parse_arguments(Arguments)
    if len(arguments.workdirs) != 1 and arguments.ensemble is None:
        raise ConfigError(
            "Expected the directory of one run, such as runs/quickstart, or of several "
            f"runs with --ensemble. Received {len(arguments.workdirs)} directories."
        )
    common.load_tensorflow(arguments.workdirs)
    from skincnn.reporting.report import render_report
    from skincnn.serving.export import export
    from skincnn.serving.export_info import read_export_info
    from skincnn.serving.export_spec import ExportSpec, find_runs

    workdir = arguments.ensemble or arguments.workdirs[0]
    spec = ExportSpec(
        workdir=workdir,
        runs=arguments.workdirs if arguments.ensemble else find_runs(workdir),
        tta=arguments.tta,
        logit_adjustment=arguments.logit_adjustment,
        ood=arguments.ood,
        operating_point=arguments.operating_point,
    )
    exported = False
    try:
        for name, path in export(spec, arguments.formats, arguments.data_dir):
            exported = True
            print(f"{name:<15} {path}", flush=True)
            if reason := read_export_info(path).ood_off:
                print(
                    f"{name}: out-of-distribution detection is off: {reason}",
                    file=sys.stderr,
                )
    finally:
        if exported:
            # The report shows the parity. Another export may be rendering the same report.
            with locked(spec.workdir / "export", wait=True):
                render_report(spec.workdir)
