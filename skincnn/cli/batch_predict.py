"""Predicts images on one or many machines with Apache Beam."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from skincnn.cli import common
from skincnn.cli.help.text import parse_arguments
from skincnn.errors import ConfigError, DataError

IRRELEVANT_WARNINGS = {
    "root": ("apitools not found", "Resource module is not available"),
    "apache_beam.io.filebasedsink": ("No shards found to finalize",),
}
"""First words of warnings that require no action, by the name of the logger."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    r"""Writes one row for each image, with the columns of `skincnn predict`.

    The rows are in any order. The files in --output are predictions-00000-of-00007.csv and
    so on. Beam chooses the number of files, which appear when all files are complete. If
    images cannot be read or predicted, the column `status` contains the reasons, and the
    exit code is 3; all other images are predicted. Images and --output can be on any file
    system that Beam supports (gs://, s3:// and hdfs:// require extra packages). Not a
    medical device.

    Arguments after -- are passed to Beam, such as -- --direct_running_mode multi_processing
    --direct_num_workers 4, or -- --runner FlinkRunner --flink_master 10.0.0.1:8081. Without
    --runner, the pipeline runs on this machine and requires no network.

    In a checkout of this package, `make beam` creates .venv-beam, an environment with
    Apache Beam.

    For example:
      skincnn batch-predict runs/mobilenet_160 images/ --output predictions
      skincnn batch-predict runs/mobilenet_160 'a/**.jpg' 'b/*.zip' --output out
      skincnn batch-predict /shared/skincnn/1 gs://b/images/ --output gs://b/out \
        -- --runner FlinkRunner --flink_master 10.0.0.1:8081
    """

    model: tyro.conf.Positional[Path]
    """A SavedModel, the directory of a run or of an exported ensemble, the model.keras of a
    run, or a LiteRT or ONNX file. Each worker opens this path, which must therefore be on a
    shared file system or in the container image of the workers. A SavedModel loads fastest;
    each worker process keeps one model in memory."""
    images: tyro.conf.Positional[tuple[str, ...]] = ()
    """Image files or ZIP archives of images; directories, which are searched recursively
    for image files (a remote directory must end in /); or quoted patterns, in which *
    matches any text without slashes, ** also text with slashes: 'a/**.jpg' matches a/x.jpg
    and a/b/x.jpg."""
    names: str | None = None
    """Text file with the name of one image or archive per line."""
    output: str
    """Directory to write to; must not contain files of an earlier run of this command."""
    format: Literal["csv", "jsonl"] = "csv"
    """csv: CSV files, each with a header; jsonl: one JSON object per line."""
    clinical_metadata: Path | None = None
    """Table with the columns image_id, age, sex and localization, for a model with clinical
    metadata; see `skincnn predict --help`. Each worker opens this path, as it opens
    MODEL."""
    batch_size: int = 32
    """Number of images in a batch."""


def command() -> None:
    """Parses the arguments, predicts the images, and prints the paths of the results."""
    argv = sys.argv[1:]
    own = argv[: argv.index("--")] if "--" in argv else argv
    arguments = parse_arguments(Arguments, own)
    if arguments.batch_size < 1:
        raise ConfigError(f"--batch-size must be >= 1. Received: {arguments.batch_size}.")
    load_beam()
    common.load_tensorflow()
    from skincnn.serving.beam import pipeline
    from skincnn.serving.beam.io import list_skipped, require_empty, require_images
    from skincnn.serving.decision import explain_rule
    from skincnn.serving.predictor import check_clinical_metadata, columns

    require_images(arguments.images, arguments.names)
    require_empty(arguments.output, pipeline.PREDICTIONS)
    handler = pipeline.ImageHandler(
        arguments.model, arguments.clinical_metadata, arguments.batch_size, arguments.format
    )
    # Loaded once here, so that errors are reported before the pipeline starts.
    predictor = handler.load_model().predictor
    check_clinical_metadata(predictor, arguments.clinical_metadata)
    for line in list_skipped(arguments.images):
        print(f"note: {line}", file=sys.stderr)
    counts = pipeline.run(
        handler,
        arguments.images,
        arguments.names,
        arguments.output,
        columns(predictor.rule),
        argv[len(own) + 1 :],
    )
    predictions = f"{arguments.output.rstrip('/')}/{pipeline.PREDICTIONS}-*"
    num_files = counts.predicted + counts.failed
    print(f"predictions  {predictions}.{arguments.format}", file=sys.stderr)
    print(f"refer        {explain_rule(predictor.rule)}", file=sys.stderr)
    common.warn_of_synthetic_images(predictor)
    if counts.without_metadata:
        text = f"has no row for {counts.without_metadata} of {num_files} images"
        text = f"{arguments.clinical_metadata} {text}"
        if counts.without_metadata == num_files:
            raise DataError(
                f"{text}. Expected the names of the images in the column image_id."
            )
        print(f"note: {text}", file=sys.stderr)
    if counts.failed:
        others = "All other files were" if counts.predicted else "No file was"
        raise DataError(
            f"{counts.failed} of {num_files} file(s) could not be read or predicted. The "
            f"column `status` contains the reasons. {others} predicted."
        )


def load_beam() -> None:
    """Imports Apache Beam without showing `IRRELEVANT_WARNINGS`.

    Raises:
        ConfigError: Apache Beam is not installed.
    """
    for name in IRRELEVANT_WARNINGS:
        # The filters of a logger do not apply to its children, so each logger gets one.
        logging.getLogger(name).addFilter(
            lambda record: (
                not record.getMessage().startswith(IRRELEVANT_WARNINGS[record.name])
            )
        )
    try:
        import apache_beam  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"Apache Beam is not installed ({error}). In a checkout of this package, run "
            "`make beam`, then .venv-beam/bin/skincnn batch-predict ..."
        ) from error
