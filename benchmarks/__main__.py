"""Measures speed and memory as ratios to simple baselines.

python -m benchmarks input|train|serve --help
"""

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
    image_dir: Path | None = None,
    num_images: int = 2048,
    only: tuple[str, ...] = (),
    output: Path = Path("runs/benchmark/input.json"),
) -> None:
    """Measures the input pipeline and the building of a dataset.

    Each ratio is the median of eight interleaved pairs of one run, reported with the spread
    of the baseline against itself. Absolute rates hold for this machine only.

    Args:
        image_dir: A directory of JPEG originals; synthetic images by default.
        num_images: Images per pass; files are repeated.
        only: The benchmarks to run; all by default. first_pass: decoding and resizing;
            later_epochs: reading the cache; fitting: training from the pipeline; building:
            building the dataset; training_memory: peak memory of a training;
            keras_directory: against image_dataset_from_directory; torch_loader: against a
            PyTorch DataLoader.
        output: The JSON file of the results.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")
    common.load_tensorflow()
    from benchmarks import input as benchmark

    with tempfile.TemporaryDirectory() as folder:
        _report(
            benchmark.run(image_dir, num_images, Path(folder), only),
            output,
            num_images=num_images,
            synthetic=image_dir is None,
        )


def measure_train(
    image_size: int = 224,
    batch_size: int = 32,
    steps: int = 4,
    affine_steps: int = 8,
    output: Path = Path("runs/benchmark/train.json"),
) -> None:
    """Measures training against bare steps of the same network on random images.

    Ratios as in `input`. On a GPU give more steps, so that each side of a ratio takes
    seconds.

    Args:
        image_size: Height and width of the images.
        batch_size: Images per step.
        steps: Training steps on each side of a ratio.
        affine_steps: Augmented batches on each side of a ratio.
        output: The JSON file of the results.
    """
    common.load_tensorflow()
    from benchmarks import training as benchmark

    size = benchmark.Size(image_size, batch_size, steps, affine_steps)
    _report(benchmark.run(size), output, **dataclasses.asdict(size))


def measure_serve(
    model: Path | None = None,
    image_dir: Path | None = None,
    num_images: int = 256,
    requests: int = 10_000,
    only: tuple[str, ...] = (),
    output: Path = Path("runs/benchmark/serve.json"),
) -> None:
    """Measures the overhead of serving over decoding and the network, and its memory.

    Ratios as in `input`. The benchmark `conversions` needs pip install -e .[export].

    Args:
        model: The directory of an evaluated run; by default MobileNet 0.75 at 160 px with
            random weights, which is as fast as a trained one.
        image_dir: A directory of JPEG originals; synthetic images by default.
        num_images: Files to predict in each pass; files are repeated.
        requests: Requests of one image each that the server of `memory` handles.
        only: The benchmarks to run; all by default. signature: the SavedModel on pixels;
            end_to_end: files to a table of predictions; conversions: size and speed of
            LiteRT and ONNX; memory: growth of a server's memory.
        output: The JSON file of the results.

    Raises:
        ConfigError: The number of images or requests is too small.
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
            benchmark.run(model, image_dir, num_images, requests, Path(folder), only),
            output,
            model=None if model is None else str(model),
            num_images=num_images,
            synthetic=image_dir is None,
        )


def command() -> None:
    """Runs the benchmarks that the first argument names."""
    tyro.extras.subcommand_cli_from_dict(
        {"input": measure_input, "train": measure_train, "serve": measure_serve}
    )


def _report(results: Iterable[Result], output: Path, **settings: object) -> None:
    """Prints each result as soon as it is measured, then a table, and writes a file."""
    before = measure.environment()
    measured = []
    for result in results:
        measured.append(result)
        print(json.dumps(measure.to_json(result)), flush=True)
    print(f"\n{measure.to_text(measured)}\n")
    write_json(
        output,
        {
            "environment": before,
            "load_average_after": measure.environment()["load_average"],
            **settings,
            "results": [measure.to_json(result) for result in measured],
        },
    )
    print(f"results  {output}")


if __name__ == "__main__":
    common.main(command)
