"""Predicts images on one or many machines with Apache Beam.

File names are listed and distributed over the workers. Each worker reads and predicts
images in the same process, so that no image is sent from one worker to another.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import apache_beam as beam
import pandas as pd
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics.metric import Metrics, MetricsFilter
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.pvalue import PCollection
from apache_beam.runners.portability.fn_api_runner.fn_runner import (
    ExtendedProvisionInfo,
    FnApiRunner,
)
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.runners.runner import PipelineState

from skincnn.errors import ConfigError, DataError
from skincnn.serving import tables
from skincnn.serving.beam import io
from skincnn.serving.images import OK
from skincnn.serving.predictor import (
    Predictor,
    columns,
    load_predictor,
    predict_files,
)
from skincnn.startup import own_settings
from tfds_ham10000.records import SourceError

Format = Literal["csv", "jsonl"]
PREDICTIONS = "predictions"
"""Prefix of the output files."""


class Counts(NamedTuple):
    """Numbers of images, each a counter of Beam.

    Attributes:
        predicted: Images that were predicted.
        failed: Files that could not be read or predicted.
        without_metadata: Images without a row in the table of clinical metadata.
    """

    predicted: int = 0
    failed: int = 0
    without_metadata: int = 0


@dataclass(frozen=True)
class LoadedModel:
    """The model and the clinical metadata in the memory of a worker process."""

    predictor: Predictor
    clinical_metadata: pd.DataFrame | None


class ImageHandler(ModelHandler[io.ImageFile, str, LoadedModel]):
    """Loads a model once in each worker process, and predicts batches of images.

    See `load_predictor` for `model`, and `tables.read_clinical_metadata` for
    `clinical_metadata`.
    """

    def __init__(
        self,
        model: Path,
        clinical_metadata: Path | None,
        batch_size: int,
        format_name: Format,
    ) -> None:
        super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
        self.model = model
        self.clinical_metadata = clinical_metadata
        self.format_name = format_name

    @own_settings()
    def load_model(self) -> LoadedModel:
        """Loads the clinical metadata, and the model after verifying its hashes.

        Raises:
            ConfigError, DataError, SourceError: See `load_predictor` and
                `tables.read_clinical_metadata`.
        """
        table = tables.read_clinical_metadata(self.clinical_metadata)
        return LoadedModel(load_predictor(self.model), table)

    def run_inference(
        self,
        batch: Sequence[io.ImageFile],
        model: LoadedModel,
        inference_args: dict[str, Any] | None = None,
    ) -> list[str]:
        """Returns one text: the rows of the images, without the final newline.

        If the batch fails, for example because it does not fit into memory, each image is
        predicted separately.
        """
        table = self._try_predict(batch, model)
        rows, missing = model.clinical_metadata, 0
        if rows is not None:
            missing = tables.find_rows([Path(one.name) for one in batch], rows).count(None)
        num_predicted = int((table["status"] == OK).sum())
        counts = Counts(num_predicted, len(batch) - num_predicted, missing)
        for name, number in counts._asdict().items():
            Metrics.counter("skincnn", name).inc(number)
        text = tables.to_text(table, as_json=self.format_name == "jsonl")
        return [text.removesuffix("\n")]

    def get_num_bytes(self, batch: Sequence[io.ImageFile]) -> int:
        """Returns the total size of the files in bytes, for the metrics of Beam."""
        return sum(len(image.content) for image in batch)

    def _try_predict(
        self, batch: Sequence[io.ImageFile], model: LoadedModel
    ) -> pd.DataFrame:
        try:
            return self._predict(batch, model)
        except Exception as error:
            if len(batch) > 1:
                return pd.concat([self._try_predict([image], model) for image in batch])
            name = batch[0].name
            text = " ".join(f"{type(error).__name__}: {error}".split())
            row = {"status": f"not predicted: {text[:500]}", "refer": True}
            row |= {"file": name, "image_id": Path(name).stem}
            return pd.DataFrame([row], columns=columns(model.predictor.rule))

    @own_settings()
    def _predict(self, batch: Sequence[io.ImageFile], model: LoadedModel) -> pd.DataFrame:
        names, contents = zip(*batch, strict=True)
        paths = [Path(name) for name in names]
        metadata = tables.select_clinical_metadata(paths, model.clinical_metadata)
        table = predict_files(model.predictor, paths, contents, metadata)
        return table.assign(file=names)  # `Path` changes gs:// into gs:/.


def run(
    handler: ImageHandler,
    patterns: Sequence[str],
    names: str | None,
    output: str,
    column_names: Sequence[str],
    flags: Sequence[str],
) -> Counts:
    """Predicts images, and writes the files `PREDICTIONS`-* to a directory.

    Args:
        handler: Loads and applies the model.
        patterns: See `io.list_files`.
        names: Text file with the name of an image or an archive on each line, or None.
        output: Directory to write to, on any file system that Beam supports.
        column_names: Names of the columns, for the headers of CSV files.
        flags: Flags of Beam. Without --runner, the pipeline runs on this machine.

    Returns:
        The numbers of images; `Counts.without_metadata` is 0 without a table.

    Raises:
        ConfigError: Beam rejects the flags; see also `ImageHandler.load_model`.
        DataError, SourceError: See `ImageHandler.load_model`.
        RuntimeError: The pipeline was stopped, or a worker failed.
    """
    pipeline, is_local = _create_pipeline(flags)
    refs = find_images(pipeline, patterns, names)
    rows = refs | "Read" >> beam.FlatMap(io.read) | RunInference(handler)
    header = None
    if handler.format_name == "csv":
        empty = pd.DataFrame(columns=list(column_names))
        header = tables.to_text(empty, as_json=False, header=True).removesuffix("\n")
    prefix = FileSystems.join(output, PREDICTIONS)
    suffix = f".{handler.format_name}"
    rows | beam.io.WriteToText(prefix, suffix, header=header, skip_if_empty=True)
    try:
        result = pipeline.run()
        state = result.wait_until_finish()
    except RuntimeError as error:
        user_error = _find_user_error(error)
        if user_error is None:
            raise
        raise user_error from None
    finally:
        if is_local:  # a remote pipeline continues when this process ends
            for folder in Path(output).glob("beam-temp-*"):
                shutil.rmtree(folder, ignore_errors=True)
    if state != PipelineState.DONE:
        raise RuntimeError(f"The pipeline ended in the state {state}. Expected DONE.")
    counters = result.metrics().query(MetricsFilter().with_namespace("skincnn"))["counters"]
    return Counts(**{one.key.metric.name: int(one.result) for one in counters})


def find_images(
    pipeline: beam.Pipeline, patterns: Sequence[str], names: str | None
) -> PCollection[io.FileRef]:
    """Returns references to all images, including those in ZIP archives; see `run`."""
    refs = pipeline | beam.Create(patterns) | "Match" >> beam.FlatMap(io.match)
    if names is not None:
        listed = (
            pipeline
            | "ListNames" >> beam.Create([names])
            | "ReadNames" >> beam.FlatMap(io.read_names)
        )
        refs = (refs, listed) | beam.Flatten()
    files = refs | "DistributeFiles" >> beam.Reshuffle()
    return files | beam.FlatMap(io.list_members) | "DistributeImages" >> beam.Reshuffle()


def _create_pipeline(flags: Sequence[str]) -> tuple[beam.Pipeline, bool]:
    """Returns an empty pipeline, and whether it runs here because --runner is missing."""
    options = PipelineOptions(list(flags))
    if options.view_as(StandardOptions).runner is None:
        # Workers log to the standard error of this process, so they log only errors.
        options = PipelineOptions(["--default_sdk_harness_log_level=ERROR", *flags])
        # Otherwise, Beam would also log the errors that `run` raises.
        logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
        # The DirectRunner of Beam would first try to download Prism. The FnApiRunner passes
        # the options to its workers.
        encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
        info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
        runner = FnApiRunner(provision_info=ExtendedProvisionInfo(info))
        return beam.Pipeline(runner, options), True
    try:
        return beam.Pipeline(options=options), False
    except (ValueError, ImportError) as error:
        raise ConfigError(f"Beam rejects the arguments after --: {error}") from error


def _find_user_error(error: BaseException) -> BaseException | None:
    """Returns the interruption or user error that caused an error of Beam, or None."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt | ConfigError | DataError | SourceError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None
