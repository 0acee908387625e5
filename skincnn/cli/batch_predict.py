"""Asks a model about archives of pictures, on one machine or many (Apache Beam)."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from skincnn.cli import common
from skincnn.errors import ConfigError, DataError

UNASKED = {
    "root": ("apitools not found", "Resource module is not available"),
    "apache_beam.io.filebasedsink": ("No shards found to finalize",),
}
"""How Beam's warnings begin that ask nothing of the user, by their loggers."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Writes the rows of scripts/predict.py, in no order, as a pipeline of Apache Beam.

    OUTPUT gets answers-00000-of-00007.csv and so on, as many as Beam finds good, when all
    are written. Files that cannot be read are listed in its unread-* files with the reason,
    with exit code 3; all others are answered. Pictures and OUTPUT may be on any file system
    that Beam knows (gs://, s3://, hdfs://, with its packages). Not a medical device.

    What stands after -- goes to Beam, such as -- --direct_running_mode multi_processing
    --direct_num_workers 4, or -- --runner FlinkRunner --flink_master 10.0.0.1:8081. Without
    --runner it all runs here and needs no network.

    `make beam` makes .venv-beam, an environment with Beam.

    For example:
      python scripts/batch_predict.py runs/cpu pictures/ --output answers
      python scripts/batch_predict.py runs/cpu 'a/**/*.jpg' 'b/*.zip' --output answers
      python scripts/batch_predict.py /shared/skincnn/1 gs://b/pictures/ --output gs://b/out
        -- --runner FlinkRunner --flink_master 10.0.0.1:8081
    """

    model: tyro.conf.Positional[Path]
    """A SavedModel, a run's folder or model.keras, or a LiteRT or ONNX file. Each worker
    opens it under this path: on a folder that all mount, or in their image. A SavedModel
    loads fastest; each process of a worker holds one model."""
    pictures: tyro.conf.Positional[tuple[str, ...]] = ()
    """Files of pictures, or ZIP archives of them; folders, where pictures are looked for,
    and which end in / where they are not local; or patterns in quotes, of which ** means
    any folders."""
    names: str | None = None
    """A text file with the name of a picture or an archive on each line."""
    output: str
    """The folder to write to, without answers in it."""
    format: Literal["csv", "jsonl"] = "csv"
    """csv, with a header in each file; jsonl: a JSON object on each line."""
    clinical_metadata: Path | None = None
    """A CSV with image_id, age, sex and localization, for a model that is told of them;
    each worker opens it like MODEL."""
    batch_size: int = 32
    """Pictures at a time."""


def command() -> None:
    """Parses, predicts, and says where the answers are."""
    given = sys.argv[1:]
    own = given[: given.index("--")] if "--" in given else given
    arguments = tyro.cli(Arguments, args=own)
    if arguments.batch_size < 1:
        raise ConfigError(f"--batch-size must be >= 1. Received: {arguments.batch_size}.")
    load_beam()
    common.load_tensorflow()
    from skincnn.serving.beam import pipeline
    from skincnn.serving.beam.io import list_files, require_empty, require_pictures
    from skincnn.serving.predictor import columns, require_told

    require_pictures(arguments.pictures, arguments.names)
    require_empty(arguments.output, (pipeline.ANSWERS, pipeline.UNREAD))
    handler = pipeline.PictureHandler(
        arguments.model, arguments.clinical_metadata, arguments.batch_size, arguments.format
    )
    # Once here, so that what is wrong with it is said before anything is begun.
    predictor = handler.load_model().predictor
    require_told(predictor, arguments.clinical_metadata)
    rules = predictor.rules
    counts = pipeline.run(
        handler,
        arguments.pictures,
        arguments.names,
        arguments.output,
        columns(rules.class_names),
        given[len(own) + 1 :],
    )
    answers, unread = (
        f"{arguments.output.rstrip('/')}/{name}-*.{arguments.format}" for name in counts
    )
    print(f"answers  {answers}\nrefer    {rules.referral}", file=sys.stderr)
    if list_files(unread, 1):
        raise DataError(
            f"{counts[pipeline.UNREAD]} of {sum(counts.values())} file(s) could not be "
            f"read. They are listed, each with the reason, in {unread}\n"
            "The others are answered."
        )


def load_beam() -> None:
    """Imports Apache Beam without what it says of packages and files that it does without.

    Raises:
        ConfigError: It is not installed.
    """
    for name in UNASKED:
        # A logger's filters see no more than what is said to itself.
        logging.getLogger(name).addFilter(
            lambda record: not record.getMessage().startswith(UNASKED[record.name])
        )
    try:
        import apache_beam  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"Apache Beam is not installed ({error}). `make beam` makes an environment "
            "with it: .venv-beam/bin/python scripts/batch_predict.py ..."
        ) from error
