"""Asks a model about pictures: files, folders, or names on standard input."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import tyro
from tqdm import tqdm

from skincnn.cli import common
from skincnn.errors import ConfigError, DataError
from skincnn.files import (
    IMAGE_SUFFIXES,
    images_in,
    printable,
    replacing,
    require_writable_file,
    require_writable_folder,
)

if TYPE_CHECKING:
    import pandas as pd

    from skincnn.serving.explain import Explainer
    from skincnn.serving.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Writes a row of answers for each picture.

    Files that cannot be read are listed at the end, with exit code 3; all others are
    answered. Not a medical device.

    Columns:
      file, image_id         its name; the same without folder and ending
      status                 ok, or why it could not be read
      probability_<class>    of each class, calibrated
      class_name             the most probable class
      malignant_probability  the sum over malignant classes, where these are known
      refer                  whether somebody who knows more should look: malignant enough,
                             unknown, or not read. How probable is enough was chosen on
                             validation, and is said at the end
      unknown                whether it is like no picture of validation
      distance               how unlike these it is

    For example:
      python scripts/predict.py runs/cpu pictures/ --output answers.csv
      python scripts/predict.py runs/cpu/export/skincnn_int8.tflite a.jpg b.png
      ls pictures/*.jpg | python scripts/predict.py runs/cpu - --output answers.jsonl
    """

    model: tyro.conf.Positional[Path]
    """A SavedModel, a run's folder or model.keras, or a LiteRT or ONNX file."""
    pictures: tyro.conf.Positional[tuple[str, ...]]
    """Files; folders, where pictures are looked for; or - for names on standard input."""
    output: Path | None = None
    """Where to write: .csv, or .jsonl for a JSON object on each line. By default CSV goes
    to standard output."""
    isic_csv: Path | None = None
    """Also write a submission to the ISIC challenge whose classes the model has."""
    clinical_metadata: Path | None = None
    """A CSV with image_id, age, sex and localization, for a model that is told of them."""
    grad_cam: Path | None = None
    """A folder for pictures of what spoke for each answer (Grad-CAM); of a run's folder or
    model.keras."""
    batch_size: int = 32
    """Pictures at a time, 256 at most."""


MAX_BATCH_SIZE = 256
"""Who interrupts waits for the batches that were begun."""


def command() -> None:
    """Parses, predicts, and says which files could not be read."""
    arguments = tyro.cli(Arguments)
    check(arguments)
    paths = find_pictures(arguments.pictures)
    common.load_tensorflow()
    predictor, explainer, patients = load(arguments, paths)
    with told_where_full():
        read, bad = write_answers(arguments, paths, predictor, explainer, patients)
        submitted = write_submission(arguments.isic_csv, read, predictor.class_names)
    say_where(arguments.output, submitted, predictor)
    if bad and arguments.isic_csv:
        said = f"{len(bad)} of {len(paths)} picture(s) are missing from"
        said = said if submitted else "There is nothing to submit, and none was written:"
        print(said, arguments.isic_csv, file=sys.stderr)
    if bad:
        raise unread(bad, len(paths))


def check(arguments: Arguments) -> None:
    """Checks what needs no model, so that nobody waits for one in vain.

    Raises:
        ConfigError: Something cannot be used.
    """
    if not 1 <= arguments.batch_size <= MAX_BATCH_SIZE:
        raise ConfigError(
            f"--batch-size must be >= 1 and <= {MAX_BATCH_SIZE}. Received: "
            f"{arguments.batch_size}."
        )
    output, isic_csv = arguments.output, arguments.isic_csv
    if output and output.suffix not in (".csv", ".jsonl"):
        raise ConfigError(f"--output must end in .csv or .jsonl. Received: {output}.")
    for path, flag in ((output, "--output"), (isic_csv, "--isic-csv")):
        if path is not None:
            require_writable_file(path, flag)
    if output and isic_csv and output.resolve() == isic_csv.resolve():
        raise ConfigError(f"--output and --isic-csv must be two files. Received: {output}.")
    if arguments.grad_cam is not None:
        require_writable_folder(arguments.grad_cam, "--grad-cam")


def load(
    arguments: Arguments, paths: Sequence[Path]
) -> tuple[Predictor, Explainer | None, pd.DataFrame | None]:
    """Returns the model, what draws, and what is known of the patients."""
    from skincnn.serving.explain import Explainer
    from skincnn.serving.isic import find_year, require_unique
    from skincnn.serving.predictor import load_predictor, require_told
    from skincnn.serving.tables import read_patients

    patients = (
        read_patients(arguments.clinical_metadata) if arguments.clinical_metadata else None
    )
    if arguments.isic_csv:
        require_unique(printable(path.stem) for path in paths)
    predictor = load_predictor(arguments.model)
    require_told(predictor, arguments.clinical_metadata)
    if arguments.isic_csv:
        find_year(predictor.class_names)
    explainer = Explainer(arguments.model) if arguments.grad_cam else None
    return predictor, explainer, patients


def write_answers(
    arguments: Arguments,
    paths: Sequence[Path],
    predictor: Predictor,
    explainer: Explainer | None,
    patients: pd.DataFrame | None,
) -> tuple[list[pd.DataFrame], list[str]]:
    """Writes rows and explanations batch by batch.

    Returns:
        The rows of files that could be read, where a submission needs them; and the names
        of the others.
    """
    from skincnn.serving.explain import write_explanations
    from skincnn.serving.images import READ
    from skincnn.serving.prefetch import answer_files

    read, bad = [], []
    lines = arguments.output is not None and arguments.output.suffix == ".jsonl"
    answered = answer_files(predictor, paths, arguments.batch_size, patients)
    starts = range(0, len(paths), arguments.batch_size)
    bar = tqdm(starts, unit="batch", disable=None)
    with writing(arguments.output) as file, contextlib.closing(answered):
        for start, batch in zip(bar, answered, strict=True):
            table = batch.table
            write_rows(table, file, lines=lines, header=start == 0)
            if explainer is not None and arguments.grad_cam is not None:
                names = table["class_name"].tolist()
                drawn = explainer.explain(batch.contents, names, batch.patients)
                write_explanations(arguments.grad_cam, table, drawn, start)
            is_read = table["status"] == READ
            bad += table["file"][~is_read].tolist()
            if arguments.isic_csv:
                read.append(table[is_read])
    return read, bad


def write_submission(
    path: Path | None, read: Sequence[pd.DataFrame], class_names: Sequence[str]
) -> Path | None:
    """Writes the challenge's columns of what could be read.

    Returns:
        Where, or None: none is asked for, or nothing could be read.
    """
    import pandas as pd

    from skincnn.serving.isic import submission

    if path is None or not any(map(len, read)):
        return None
    with replacing(path) as temporary:
        submission(pd.concat(read), class_names).to_csv(temporary, index=False)
    return path


def say_where(output: Path | None, submitted: Path | None, predictor: Predictor) -> None:
    """Says where the answers are, and by which threshold pictures are referred."""
    for path in (output, submitted):
        if path is not None:
            print(f"answers  {path}", file=sys.stderr)
    print(f"refer    {predictor.rules.referral}", file=sys.stderr)


def unread(bad: Sequence[str], num_files: int) -> DataError:
    """Returns the error that lists the files that could not be read."""
    named = "\n  ".join(bad[:20])
    more = f"\n  and {len(bad) - 20} more" if len(bad) > 20 else ""
    others = "The others are" if len(bad) < num_files else "None is"
    return DataError(
        f"{len(bad)} of {num_files} file(s) could not be read:\n  {named}{more}\n"
        f"{others} answered; `status` of these says what was wrong."
    )


def find_pictures(names: Sequence[str]) -> list[Path]:
    """Returns the files that are meant, those of a folder in order.

    Raises:
        ConfigError: There is none.
    """
    found = []
    for name in names:
        for given in [name] if name != "-" else read_names(sys.stdin.buffer):
            # It says False of what is no name, where Path.is_dir raises.
            if os.path.isdir(given):
                found += images_in(Path(given))
            elif given:
                found.append(Path(given))
    if not found:
        raise ConfigError(
            f"Give files of pictures, folders with {', '.join(IMAGE_SUFFIXES)} files, or "
            f"- for names on standard input. Received: {' '.join(names) or 'nothing'}."
        )
    return found


def read_names(file: Iterable[bytes]) -> list[str]:
    """Returns the names on the lines of a file, of any bytes; blank lines are none."""
    return [os.fsdecode(line.rstrip(b"\r\n")) for line in file if line.strip()]


@contextlib.contextmanager
def writing(path: Path | None) -> Iterator[TextIO]:
    """Yields the file to write to, which appears whole; standard output for None."""
    if path is None:
        yield sys.stdout
        return
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        yield file


@contextlib.contextmanager
def told_where_full() -> Iterator[None]:
    """Says in a line what could not be written; files that cannot be read have a row."""
    try:
        yield
    except BrokenPipeError:
        raise  # to `cli.main`
    except OSError as error:
        raise ConfigError(f"The answers could not be written: {error}.") from error


def write_rows(table: pd.DataFrame, file: TextIO, *, lines: bool, header: bool) -> None:
    """Writes the rows of a batch as CSV, or as a JSON object on each line."""
    from skincnn.serving.tables import csv_line, to_lines

    if header and not lines:
        file.write(f"{csv_line(table)}\n")
    file.writelines(f"{line}\n" for line in to_lines(table, as_json=lines))
    file.flush()
