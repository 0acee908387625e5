"""Predicts the classes of image files."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import tyro
from tqdm import tqdm

from skincnn.cli import common
from skincnn.cli.help.text import parse_arguments
from skincnn.errors import ConfigError, DataError
from skincnn.files import (
    replacing,
    require_writable_file,
    require_writable_folder,
    write_text,
)
from skincnn.paths import decode_names, real_path, to_path
from skincnn.write_errors import explain_write_errors

if TYPE_CHECKING:
    import pandas as pd

    from skincnn.metrics.decision_rule import DecisionRule
    from skincnn.serving.explain import Explainer
    from skincnn.serving.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Writes one row of predictions for each image.

    Unreadable files are listed at the end, and the exit code is then 3; all other files are
    predicted. Not a medical device.

    Columns:
      file, image_id         path; file name without suffix
      status                 ok, or why the file is unreadable; its numbers are then empty
      probability_<class>    calibrated probability of each class
      predicted_class        the class with the highest probability before calibration,
                             which the report scores; after calibration, another class
                             can have a higher probability
      prediction_set         the classes in the prediction set, separated by "; ". For about
                             90 % of the images of each class, the set contains this class;
                             a set can lack the predicted class
      malignant_probability  sum of the probabilities of the malignant classes; this column
                             and `refer` are left out unless it is known for each class
                             whether it is malignant, and there are classes of both kinds
      refer                  whether a dermatologist should examine the lesion: the
                             malignant probability reaches the threshold, or the image is
                             out-of-distribution or unreadable. The threshold was chosen on
                             the validation split and is printed at the end
      out_of_distribution    whether ood_distance exceeds the OOD limit; empty for
                             unreadable files, and if OOD detection is switched off for this
                             model
      ood_distance           Mahalanobis distance of the features of the image from those of
                             the validation images, divided by the 95 % quantile of the
                             distances of the validation images; the largest value of the
                             inner blocks of the network, averaged over the networks of an
                             ensemble; empty if an export was written with --no-ood

    For example:
      skincnn predict runs/mobilenet_160 images/ --output predictions.csv
      skincnn predict runs/mobilenet_160/export/skincnn_int8.tflite a.jpg b.png
      ls images/*.jpg | skincnn predict runs/mobilenet_160 - --output x.jsonl
    """

    model: tyro.conf.Positional[Path]
    """A SavedModel, the directory of a run or of an exported ensemble, the model.keras of a
    run, or a LiteRT or ONNX file."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files; directories, which are searched recursively; or - to read names from
    standard input."""
    output: Path | None = None
    """File to write: .csv, or .jsonl for one JSON object per line. By default, CSV is
    written to standard output."""
    isic_csv: Path | None = None
    """CSV file for an ISIC challenge submission, written in addition to --output. The
    model must have the classes of the challenge of 2018 or 2019. The file contains the
    readable images, with the probabilities before calibration, so that the predicted class
    has the highest one."""
    clinical_metadata: Path | None = None
    """Table (.csv, .tsv, .xlsx or .parquet) with the columns image_id, age, sex and
    localization, for a model with clinical metadata. The image_id is the name of the file,
    or the end of its path, with or without suffix; case is ignored. The other cells may be
    empty."""
    grad_cam: Path | None = None
    """Directory for Grad-CAM overlays of the predicted class; requires a run directory or
    model.keras as MODEL. A directory that is searched for images may contain it: the files
    in it are not predicted."""
    batch_size: int = 32
    """Number of images in a batch, at most 256."""


MAX_BATCH_SIZE = 256
"""Maximum of --batch-size. It limits the time until Ctrl-C takes effect, because batches in
progress are completed first."""


def command() -> None:
    """Parses the arguments, predicts the images, and lists unreadable files."""
    arguments = parse_arguments(Arguments)
    check(arguments)
    common.load_tensorflow([arguments.model])
    paths = find_images(arguments.images, arguments.grad_cam)
    from skincnn.serving.decision import explain_rule

    predictor, explainer, clinical_metadata = load(arguments, paths)
    with explain_write_errors("The predictions"):
        readable, unreadable = write_predictions(
            arguments, paths, predictor, explainer, clinical_metadata
        )
        if arguments.isic_csv is not None:
            write_submission(arguments.isic_csv, readable, predictor.rule)
    for path in filter(None, (arguments.output, arguments.isic_csv)):
        print(f"predictions  {path}", file=sys.stderr)
    print(f"refer        {explain_rule(predictor.rule)}", file=sys.stderr)
    if names := predictor.rule.always_in_set:
        text = "too few validation images show these classes, which are in every set"
        print(f"prediction_set  {text}: {', '.join(names)}", file=sys.stderr)
    common.warn_of_synthetic_images(predictor)
    if unreadable:
        raise unreadable_error(unreadable, len(paths))


def check(arguments: Arguments) -> None:
    """Checks the batch size and the output paths.

    Raises:
        ConfigError: One of them is not valid, or an output is not writable.
    """
    size, output, isic_csv = arguments.batch_size, arguments.output, arguments.isic_csv
    if not 1 <= size <= MAX_BATCH_SIZE:
        raise ConfigError(f"--batch-size must be in 1..{MAX_BATCH_SIZE}. Received: {size}.")
    if output and output.suffix not in (".csv", ".jsonl"):
        raise ConfigError(f"--output must end in .csv or .jsonl. Received: {output}.")
    for path, flag in ((output, "--output"), (isic_csv, "--isic-csv")):
        if path is not None:
            require_writable_file(path, flag)
    if output and isic_csv and real_path(output) == real_path(isic_csv):
        raise ConfigError(
            f"--output and --isic-csv must be different files. Received: {output}."
        )
    if arguments.grad_cam is not None:
        require_writable_folder(arguments.grad_cam, "--grad-cam")


def load(
    arguments: Arguments, paths: Sequence[Path]
) -> tuple[Predictor, Explainer | None, pd.DataFrame | None]:
    """Returns the predictor, the explainer and the clinical metadata.

    The explainer and the clinical metadata are None if they are not requested.

    Raises:
        ConfigError: See `load_predictor`, `check_clinical_metadata`, `find_isic_year` and
            `Explainer`; or the table of clinical metadata does not exist.
        DataError: See `load_predictor`, `read_clinical_metadata`, `describe_matches` and
            `Explainer`.
        SourceError: See `read_clinical_metadata`.
        OSError: See `load_predictor` and `Explainer`.
    """
    from skincnn.serving import tables
    from skincnn.serving.predictor import check_clinical_metadata, load_predictor
    from tfds_ham10000.image_files import printable

    source = arguments.clinical_metadata
    clinical_metadata = tables.read_clinical_metadata(source)
    names = [Path(printable(path)) for path in paths]
    predictor = load_predictor(arguments.model)
    check_clinical_metadata(predictor, source)
    if note := tables.describe_matches(names, clinical_metadata, source):
        print(f"note: {note}", file=sys.stderr)
    if arguments.isic_csv:
        tables.find_isic_year(predictor.rule.class_names)
    explainer = None
    if arguments.grad_cam:
        from skincnn.serving.explain import Explainer

        explainer = Explainer(arguments.model)
    return predictor, explainer, clinical_metadata


def write_predictions(
    arguments: Arguments,
    paths: Sequence[Path],
    predictor: Predictor,
    explainer: Explainer | None,
    clinical_metadata: pd.DataFrame | None,
) -> tuple[list[pd.DataFrame], list[str]]:
    """Writes rows and Grad-CAM overlays batch by batch.

    Returns a table of the rows of the readable files for each batch (no tables without
    --isic-csv), and the names of the unreadable files.

    Raises:
        OSError: A file cannot be written.
    """
    from skincnn.serving.images import OK
    from skincnn.serving.prefetch import predict_batches
    from skincnn.serving.tables import to_text

    readable, unreadable = [], []
    as_json = arguments.output is not None and arguments.output.suffix == ".jsonl"
    batches = predict_batches(predictor, paths, arguments.batch_size, clinical_metadata)
    starts = range(0, len(paths), arguments.batch_size)
    bar = tqdm(starts, unit="batch", disable=None)
    with contextlib.ExitStack() as stack:
        file: TextIO = sys.stdout
        if arguments.output is not None:  # the file appears when it is complete
            temporary = stack.enter_context(replacing(arguments.output))
            file = stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))
        stack.enter_context(contextlib.closing(batches))
        for start, batch in zip(bar, batches, strict=True):
            table = batch.table
            file.write(to_text(table, as_json=as_json, header=start == 0))
            file.flush()
            if explainer is not None and arguments.grad_cam is not None:
                from skincnn.serving.explain import write_explanations

                names = table["predicted_class"].tolist()
                images = explainer.explain(batch.contents, names, batch.clinical_metadata)
                write_explanations(arguments.grad_cam, table, images, start)
            is_readable = table["status"] == OK
            unreadable += table["file"][~is_readable].tolist()
            if arguments.isic_csv:
                readable.append(table[is_readable])
    return readable, unreadable


def write_submission(
    path: Path, tables: Sequence[pd.DataFrame], rule: DecisionRule
) -> None:
    """Writes an ISIC submission with the rows of readable files.

    Raises:
        ConfigError: See `isic_submission`.
        OSError: The file cannot be written.
    """
    import pandas as pd

    from skincnn.inference.predictions import to_csv
    from skincnn.serving.tables import isic_submission

    write_text(path, to_csv(isic_submission(pd.concat(tables), rule)))


def unreadable_error(names: Sequence[str], num_files: int) -> DataError:
    """Returns the error that lists unreadable files."""
    listed = "\n  ".join(names[:20])
    more = f"\n  and {len(names) - 20} more" if len(names) > 20 else ""
    others = "All other files were" if len(names) < num_files else "No file was"
    return DataError(
        f"{len(names)} of {num_files} file(s) are unreadable:\n  {listed}{more}\n"
        f"The column `status` contains the reasons. {others} predicted."
    )


def find_images(names: Sequence[str], overlays: Path | None = None) -> list[Path]:
    """Returns the given files, and the sorted image files in the given directories.

    Directories that cannot be read are among the files, so that they count as unreadable.
    The name "-" stands for the names on standard input, one per line. Files in the
    directory `overlays` are used only if they are given by name. Prints a line for each
    reason why other files in the directories are not used.

    Raises:
        ConfigError: There are no files, none of them exists, or a name is a URL.
    """
    from skincnn.serving.prefetch import files_to_read
    from tfds_ham10000.image_files import (
        IMAGE_SUFFIXES,
        describe_skipped,
        find_files,
        printable,
    )

    if overlays and not overlays.is_dir():
        overlays = None
    paths: list[Path] = []
    skipped: dict[str, str] = {}
    for argument in names:
        lines = [str(to_path(argument))]
        if argument == "-":
            lines = decode_names(sys.stdin.buffer.read())
        for name in lines:
            # Path.is_dir raises an error for an invalid name.
            if os.path.isdir(name):
                found = find_files(Path(name))
                skipped |= {printable(path): why for path, why in found.skipped.items()}
                for path in files_to_read(found):
                    if overlays and path.parent.samefile(overlays):
                        skipped[printable(path)] = "in the directory --grad-cam"
                    else:
                        paths.append(path)
            elif name:
                paths.append(Path(name))
    for line in describe_skipped(skipped):
        print(f"note: {line}", file=sys.stderr)
    if not any(map(os.path.lexists, paths)):
        raise ConfigError(
            f"No image was found in: {' '.join(names) or 'the arguments'}. Expected image "
            f"files that exist, directories with {', '.join(IMAGE_SUFFIXES)} files, or - "
            "if standard input contains such paths, one per line."
        )
    return paths
