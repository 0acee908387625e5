"""Makes a run's model ready for others: SavedModel, LiteRT, ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from skincnn.cli import common
from skincnn.errors import ConfigError
from skincnn.files import locked

Format = Literal["saved_model", "litert", "litert_float16", "litert_int8", "onnx"]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Writes a run's model in forms that answer without this package.

    Each is compared with the run's table of predictions before it gets its name, on at
    least 256 pictures of the test fold where it has as many, and on all of its rare
    classes. A SavedModel (the next version) may differ by 1e-5 in probability where the
    run was trained on a CPU, else by 1e-3. A copy that never tells a class that the model
    tells is refused. The model card then shows how each agrees, class by class.

    For example:
      python scripts/export.py runs/cpu
      python scripts/export.py runs/cpu --formats litert_int8 onnx
      python scripts/export.py runs/cpu --tta d4
      python scripts/export.py runs/a runs/b --ensemble runs/ab
    """

    workdirs: tyro.conf.Positional[tuple[Path, ...]]
    """The folder of an evaluated run; of several with --ensemble."""
    formats: tuple[Format, ...] = ("saved_model",)
    """saved_model: for TensorFlow Serving, takes files of pictures. litert: for phones, in
    32, 16 or 8 bits; onnx: for its runtimes; these need pip install -e .[export]."""
    ensemble: Path | None = None
    """The folder that scripts/evaluate.py --ensemble wrote of these runs: one SavedModel
    answers with their mean."""
    tta: Literal["", "d4"] = ""
    """Ask about each picture in its eight orientations, as the run was evaluated with
    scripts/evaluate.py --tta d4."""
    operating_point: str = "90 % sensitivity"
    """The operating point for malignant lesions, fixed on validation, from which on a
    picture is referred: 90 or 95, % sensitivity or % specificity."""
    data_dir: Path | None = None
    """Where built datasets lie; TFDS's own folder by default."""


def command() -> None:
    """Parses, exports, and says where the files are."""
    arguments = tyro.cli(Arguments)
    if len(arguments.workdirs) != 1 and arguments.ensemble is None:
        raise ConfigError(
            "Give the folder of one run, such as runs/quickstart, or several and "
            f"--ensemble. Received: {len(arguments.workdirs)}."
        )
    common.load_tensorflow()
    from skincnn.serving.conversion import check_formats, export_copies
    from skincnn.serving.export import ExportSpec, export_saved_model

    served = ExportSpec(
        workdir=arguments.ensemble or arguments.workdirs[0],
        runs=arguments.workdirs if arguments.ensemble else (),
        tta=arguments.tta,
        operating_point=arguments.operating_point,
    )
    others = [name for name in arguments.formats if name != "saved_model"]
    check_formats(served, others)
    if "saved_model" in arguments.formats:
        show({"saved_model": export_saved_model(served, arguments.data_dir)})
    if others:
        with locked(served.workdir):  # the report and the card tell of them
            show(export_copies(served, others, arguments.data_dir))


def show(paths: dict[str, Path]) -> None:
    """Prints where the file of each format is."""
    for name, path in paths.items():
        print(f"{name:<15} {path}", flush=True)
