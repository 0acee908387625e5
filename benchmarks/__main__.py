"""Measures this project against what it is made of and what a user would write instead."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import tyro

from benchmarks import measure
from benchmarks.measure import Result
from skincnn.cli import common
from skincnn.errors import ConfigError
from skincnn.files import write_json


def measure_input(
    pictures: Path | None = None,
    num_images: int = 2048,
    only: tuple[str, ...] = (),
    output: Path = Path("runs/benchmark/input.json"),
) -> None:
    """Measures the way from files to batches, and the building of a dataset.

    Ratios in one run, median of eight interleaved pairs, beside the spread of the
    baseline against itself. Absolute rates are those of this machine.

    Args:
        pictures: A folder of JPEG originals; synthetic pictures by default.
        num_images: Pictures in each pass; files are repeated.
        only: first_pass, later_epochs, fitting, building, training_memory, keras_directory,
            torch_loader; all by default.
        output: The JSON file of the results.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")
    common.load_tensorflow()
    from benchmarks import input as benchmark

    with tempfile.TemporaryDirectory() as folder:
        _report(
            benchmark.run(pictures, num_images, Path(folder), only),
            output,
            num_images=num_images,
            synthetic=pictures is None,
        )


def measure_train(
    image_size: int = 224,
    batch_size: int = 32,
    steps: int = 4,
    affine_steps: int = 8,
    output: Path = Path("runs/benchmark/train.json"),
) -> None:
    """Measures training against bare steps of the same network on random pictures.

    Ratios in one run, as in `input`. On a GPU give more steps, so that each side of a
    ratio takes seconds.

    Args:
        image_size: Height and width of the pictures.
        batch_size: Pictures in a step.
        steps: Steps of a training, on each side of a ratio.
        affine_steps: Batches that are turned and zoomed, on each side.
        output: The JSON file of the results.
    """
    common.load_tensorflow()
    from benchmarks import training as benchmark

    size = benchmark.Size(image_size, batch_size, steps, affine_steps)
    _report(benchmark.run(size), output, **dataclasses.asdict(size))


def measure_serve(
    model: Path | None = None,
    pictures: Path | None = None,
    num_images: int = 256,
    requests: int = 10_000,
    only: tuple[str, ...] = (),
    output: Path = Path("runs/benchmark/serve.json"),
) -> None:
    """Measures what serving costs beside decoding and the network, and its memory.

    Ratios in one run, as in `input`. The copies need pip install -e .[export].

    Args:
        model: The folder of an evaluated run; by default MobileNet 0.75 at 160 px with
            random weights, which is as fast as a trained one.
        pictures: A folder of JPEG originals; synthetic pictures by default.
        num_images: Files that are answered in each pass; they are repeated.
        requests: How many single pictures the server answers whose memory is watched.
        only: calls, whole_way, copies, memory; all by default.
        output: The JSON file of the results.

    Raises:
        ConfigError: There are too few pictures or requests.
    """
    if num_images < 1 or requests < 10:
        raise ConfigError(
            "--num-images must be >= 1 and --requests >= 10. Received: "
            f"{num_images}, {requests}."
        )
    common.load_tensorflow()
    from benchmarks import serving as benchmark

    with tempfile.TemporaryDirectory() as folder:
        _report(
            benchmark.run(model, pictures, num_images, requests, Path(folder), only),
            output,
            model=None if model is None else str(model),
            num_images=num_images,
            synthetic=pictures is None,
        )


def _report(results: Iterable[Result], output: Path, **settings: object) -> None:
    """Prints each result when it is there and all in a table, and writes them."""
    before = measure.environment()
    found = []
    for result in results:
        found.append(result)
        print(json.dumps(measure.to_json(result)), flush=True)
    print(f"\n{measure.to_text(found)}\n")
    write_json(
        output,
        {
            "environment": before,
            "load_average_after": measure.environment()["load_average"],
            **settings,
            "results": [measure.to_json(result) for result in found],
        },
    )
    print(f"results  {output}")


def command() -> None:
    """Runs the benchmark that the first argument names."""
    tyro.extras.subcommand_cli_from_dict(
        {"input": measure_input, "train": measure_train, "serve": measure_serve}
    )


if __name__ == "__main__":
    common.main(command)
