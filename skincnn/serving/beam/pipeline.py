"""The same prediction on many machines, as a pipeline of Apache Beam.

Names are found, spread over the machines, and read there; batches are asked in the same
process, so that no picture travels. Apache Beam has to be installed (`make beam`).

References:
    Apache Beam, About Beam ML, https://beam.apache.org/documentation/ml/about-ml/.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import apache_beam as beam
import pandas as pd
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics.metric import Metrics, MetricsFilter
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.pvalue import PCollection, TaggedOutput
from apache_beam.runners.portability.fn_api_runner.fn_runner import (
    ExtendedProvisionInfo,
    FnApiRunner,
)
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.runners.runner import PipelineState

from skincnn.errors import ConfigError, DataError
from skincnn.serving.beam.io import (
    Picture,
    Place,
    Problem,
    look_into,
    look_up,
    match,
    read,
)
from skincnn.serving.images import READ
from skincnn.serving.predictor import Predictor, find_patients, load_predictor, predict
from skincnn.serving.tables import csv_line, read_patients, to_lines

Format = Literal["csv", "jsonl"]
ANSWERS, UNREAD = "answers", "unread"
"""The two outputs: tags, how the names of files begin, and the names of counters."""


@dataclass(frozen=True)
class Loaded:
    """What the process of a worker holds: a model, and what is known of patients."""

    predictor: Predictor
    patients: pd.DataFrame | None


class PictureHandler(ModelHandler[Picture, str | Problem, Loaded]):
    """Loads a model by its path, once in the process of a worker, and asks it.

    Attributes:
        model: For `load_predictor`; each worker opens it under this path.
        patients: For `read_patients`, likewise; None where nothing is known.
        format_name: Of the lines.
    """

    def __init__(
        self, model: Path, patients: Path | None, batch_size: int, format_name: Format
    ) -> None:
        super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
        self.model = model
        self.patients = patients
        self.format_name = format_name

    def load_model(self) -> Loaded:
        """Returns what each worker needs; the hashes are checked there too."""
        patients = None if self.patients is None else read_patients(self.patients)
        return Loaded(load_predictor(self.model), patients)

    def run_inference(
        self,
        batch: Sequence[Picture],
        model: Loaded,
        inference_args: dict[str, Any] | None = None,
    ) -> list[str | Problem]:
        """Returns a line for each picture, or why there is none.

        One that cannot be decoded spoils none of the others. Where a batch fails as a whole
        (a full memory, say), each picture is asked alone.
        """
        try:
            return self._ask(batch, model)
        except Exception as error:
            if len(batch) > 1:
                return [self.run_inference([one], model)[0] for one in batch]
            said = " ".join(f"{type(error).__name__}: {error}".split())
            return [Problem(batch[0].name, f"not answered: {said[:500]}")]

    def get_num_bytes(self, batch: Sequence[Picture]) -> int:
        """Returns the size of the files, for Beam's metrics."""
        return sum(len(picture.content) for picture in batch)

    def _ask(self, batch: Sequence[Picture], model: Loaded) -> list[str | Problem]:
        names = [picture.name for picture in batch]
        paths = [Path(name) for name in names]
        contents = [picture.content for picture in batch]
        known = find_patients(paths, model.patients)
        # A path makes gs:/ of gs://.
        table = predict(model.predictor, paths, contents, known).assign(file=names)
        lines = to_lines(table, as_json=self.format_name == "jsonl")
        return [
            line if status == READ else Problem(name, status)
            for name, status, line in zip(names, table["status"], lines, strict=True)
        ]


def run(
    handler: PictureHandler,
    patterns: Sequence[str],
    names: str | None,
    output: str,
    columns: Sequence[str],
    flags: Sequence[str],
) -> dict[str, int]:
    """Answers about pictures, and writes answers-* and unread-* files to a folder.

    Args:
        handler: The model.
        patterns: See `find_pictures`.
        names: See `find_pictures`.
        output: The folder, of any file system that Beam knows.
        columns: The columns of answers, for the headers of CSV files.
        flags: Beam's own; without --runner among them it all runs here.

    Returns:
        How many files are among `ANSWERS`, and how many among `UNREAD`.

    Raises:
        ConfigError: Beam cannot take its flags.
        RuntimeError: The pipeline was stopped elsewhere, or a worker failed.
    """
    pipeline, is_here = _begin(flags)
    places = find_pictures(pipeline, patterns, names)
    answers, problems = answer_pictures(places, handler)
    unread = problems | "UnreadLine" >> beam.Map(_unread_line, handler.format_name)
    write(answers, FileSystems.join(output, ANSWERS), handler.format_name, columns)
    write(unread, FileSystems.join(output, UNREAD), handler.format_name, Problem._fields)
    try:
        done = pipeline.run()
        state = done.wait_until_finish()
    except RuntimeError as error:
        meant = _meant_for_users(error)
        if meant is None:
            raise
        raise meant from None
    finally:
        if is_here:  # elsewhere it goes on when this process ends
            for folder in Path(output).glob("beam-temp-*"):
                shutil.rmtree(folder, ignore_errors=True)
    if state != PipelineState.DONE:
        raise RuntimeError(f"The pipeline ended as {state}; expected {PipelineState.DONE}.")
    counted = done.metrics().query(MetricsFilter().with_namespace("skincnn"))["counters"]
    counts = {one.key.metric.name: int(one.result) for one in counted}
    return {name: counts.get(name, 0) for name in (ANSWERS, UNREAD)}


def find_pictures(
    pipeline: beam.Pipeline, patterns: Sequence[str], names: str | None
) -> PCollection[Place]:
    """Returns where the pictures are, those in ZIP archives too, in no order.

    Args:
        pipeline: The pipeline, which begins here.
        patterns: See `places.list_files`.
        names: A text file with the name of a picture or an archive on each line.
    """
    found = pipeline | beam.Create(patterns) | "Match" >> beam.FlatMap(match)
    if names is not None:
        listed = (
            pipeline
            | "ReadNames" >> beam.io.ReadFromText(names)
            | "Strip" >> beam.Map(str.strip)
            | "IsName" >> beam.Filter(bool)
            | "LookUp" >> beam.Map(look_up)
        )
        found = (found, listed) | beam.Flatten()
    spread = found | "SpreadFiles" >> beam.Reshuffle()
    return spread | beam.FlatMap(look_into) | "SpreadPictures" >> beam.Reshuffle()


def answer_pictures(
    places: PCollection[Place], handler: PictureHandler
) -> tuple[PCollection[str], PCollection[Problem]]:
    """Returns lines of answers, and the files that have none."""
    found = places | "Read" >> beam.FlatMap(read)
    found = found | "SortRead" >> beam.FlatMap(_sort).with_outputs(UNREAD, main=ANSWERS)
    asked = found[ANSWERS] | RunInference(handler)
    asked = asked | "SortAsked" >> beam.FlatMap(_sort).with_outputs(UNREAD, main=ANSWERS)
    return asked[ANSWERS], (found[UNREAD], asked[UNREAD]) | "Unread" >> beam.Flatten()


def write(
    lines: PCollection[str], prefix: str, format_name: Format, columns: Sequence[str]
) -> None:
    """Writes and counts lines; the files appear when all are written.

    Args:
        lines: The lines.
        prefix: How the names of the files begin. There is none where there are no lines.
        format_name: Each file of csv begins with the columns.
        columns: The columns.
    """
    name = FileSystems.split(prefix)[1]
    header = csv_line(columns) if format_name == "csv" else None
    counted = lines | f"Count {name}" >> beam.Map(_count, name)
    counted | f"Write {name}" >> beam.io.WriteToText(
        prefix, f".{format_name}", header=header, skip_if_empty=True
    )


def _begin(flags: Sequence[str]) -> tuple[beam.Pipeline, bool]:
    """Returns an empty pipeline, and whether it runs on this machine."""
    options = PipelineOptions(list(flags))
    if options.view_as(StandardOptions).runner is None:
        # What a worker says would be said on this process's standard error.
        options = PipelineOptions(["--default_sdk_harness_log_level=ERROR", *flags])
        # It would print each error that is raised here as well.
        logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
        return beam.Pipeline(_local_runner(options), options), True
    try:
        return beam.Pipeline(options=options), False
    except (ValueError, ImportError) as error:
        raise ConfigError(f"Beam cannot take what stands after --: {error}") from error


def _local_runner(options: PipelineOptions) -> FnApiRunner:
    """Returns Beam's runner for this machine, whose processes know the options.

    Beam's DirectRunner would first look for a program on the network (Prism).
    """
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    about = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    return FnApiRunner(provision_info=ExtendedProvisionInfo(about))


def _meant_for_users(error: BaseException) -> BaseException | None:
    """Returns what an error of Beam was at first, where that is no error of a program."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, KeyboardInterrupt | ConfigError | DataError):
            return inner
        inner = inner.__cause__ or inner.__context__
    return None


def _sort(
    found: Picture | str | Problem,
) -> Iterator[Picture | str | TaggedOutput[str, Problem]]:
    yield TaggedOutput(UNREAD, found) if isinstance(found, Problem) else found


def _count(line: str, name: str) -> str:
    Metrics.counter("skincnn", name).inc()
    return line


def _unread_line(unread: Problem, format_name: Format) -> str:
    return csv_line(unread) if format_name == "csv" else json.dumps(unread._asdict())
