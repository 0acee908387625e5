"""Measures speed, memory, the coverage of intervals, and OOD detection.

python -m benchmarks input|train|serve|startup|scale|coverage|ood --help
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import tyro

from benchmarks import measure
from benchmarks.measure import Result, Size
from skincnn.cli import common, process
from skincnn.errors import ConfigError
from skincnn.files import require_writable_file, write_json, write_text
from skincnn.lookup import look_up

Setting = TypeVar("Setting")


def measure_input(
    image_dir: Path | None = None,
    num_images: int = 2048,
    only: tuple[str, ...] = (),
    output: Path = Path("runs/benchmark/input.json"),
) -> None:
    """Measures the input pipeline and the building of a dataset.

    A speed ratio is the median over eight rounds in which baseline and candidate alternate.
    Each round measures the baseline twice; the range, over the rounds, of the second rate
    divided by the first shows the noise.

    Args:
        image_dir: A directory of .jpg files; by default, the images are synthetic.
        num_images: Number of images per pass; files are repeated as needed.
        only: The benchmarks to run; all by default. first_pass: decoding and resizing;
            later_epochs: reading the cache; fitting: training from the pipeline; building:
            building the dataset; training_memory: peak memory of a training run;
            keras_directory: comparison with image_dataset_from_directory; torch_loader:
            comparison with a PyTorch DataLoader.
        output: The JSON file for the results.

    Raises:
        ConfigError: `only` has an unknown name, or `image_dir` contains no .jpg files.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")
    common.load_tensorflow()
    from benchmarks import images, input

    _run(
        input.BENCHMARKS,
        only,
        lambda root: input.prepare(images.image_files(image_dir, num_images), root),
        output,
        num_images=num_images,
        synthetic=image_dir is None,
    )


def measure_train(
    size: tyro.conf.OmitArgPrefixes[Size],
    only: tuple[str, ...] = (),
    output: Path = Path("runs/benchmark/train.json"),
) -> None:
    """Measures training: its overhead, plain Keras, augmentation and cached features.

    The images are random. Ratios are computed as for `input`. On a GPU, increase --steps
    and --affine-steps, so that each measurement takes seconds.

    Args:
        size: The amount of work.
        only: The benchmarks to run; all by default. fitting: `fit` and training steps
            alone; efficientnet_lite: EfficientNet-Lite0 in plain Keras, and in PyTorch if
            timm is installed; augmenting: steps with and without augmentation;
            fused_affine: augmentation layers of Keras; caching: cached features.
        output: The JSON file for the results.
    """
    common.load_tensorflow()
    from benchmarks import training

    _run(training.BENCHMARKS, only, lambda root: size, output, **dataclasses.asdict(size))


def measure_serve(
    model: Path | None = None,
    image_dir: Path | None = None,
    num_images: int = 256,
    requests: int = 10_000,
    only: tuple[str, ...] = (),
    output: Path = Path("runs/benchmark/serve.json"),
) -> None:
    """Measures the speed of serving relative to baselines, and the memory growth.

    Ratios are computed as for `input`; other speeds hold for this machine only.
    `conversions` requires pip install -e .[export], and `http` requires .[serve].

    Args:
        model: The directory of an evaluated run; by default, a MobileNet 0.75 at 160 px
            with random weights, which do not affect the speed.
        image_dir: A directory of .jpg files; by default, the images are synthetic.
        num_images: Number of images per pass; files are repeated as needed.
        requests: Number of one-file requests to the server in the benchmark `memory`.
        only: The benchmarks to run; all by default. signature: the SavedModel alone;
            end_to_end: from files to a table of predictions; conversions: size of LiteRT,
            speed of LiteRT and ONNX; memory: memory growth of a server; http: 1,000
            requests to the HTTP service by 16 clients.
        output: The JSON file for the results.

    Raises:
        ConfigError: An argument is invalid; see also `benchmarks.serving.prepare`.
        DataError: See `benchmarks.serving.prepare`.
    """
    if num_images < 1 or requests < 10:
        raise ConfigError(
            "--num-images must be >= 1 and --requests >= 10. Received: --num-images "
            f"{num_images} --requests {requests}."
        )
    common.load_tensorflow()
    from benchmarks import images, service, serving

    def prepare(root: Path) -> serving.Setting:
        files = images.image_files(image_dir, num_images)
        return serving.prepare(model, files, requests, root)

    _run(
        {**serving.BENCHMARKS, "http": service.http_service},
        only,
        prepare,
        output,
        model=None if model is None else str(model),
        num_images=num_images,
        synthetic=image_dir is None,
    )


def measure_startup(
    model: tyro.conf.Positional[Path],
    output: Path = Path("runs/benchmark/startup.json"),
) -> None:
    """Measures the CPU time of `skincnn predict` for one image.

    Args:
        model: A run directory, its model.keras, or a SavedModel.
        output: The JSON file for the results.

    Raises:
        ConfigError: The directory contains several models and no current one.
    """
    common.load_tensorflow()
    from benchmarks import startup

    _run(
        startup.BENCHMARKS,
        (),
        lambda root: startup.prepare(model, root),
        output,
        model=str(model),
    )


def measure_scale(
    num_images: int = 400_000,
    num_resamples: int = 2000,
    only: tuple[str, ...] = (),
    output: Path = Path("runs/benchmark/scale.json"),
) -> None:
    """Measures the time and the peak memory of each step for a dataset with many images.

    Each step should take at most 15 minutes and 6 GB of memory on two cores.

    Args:
        num_images: Number of images of the dataset.
        num_resamples: Number of bootstrap resamples.
        only: The benchmarks to run; all by default. extraction: features of images;
            near_duplicates: search for near-duplicates; folds: assignment to folds; audit:
            leakage audit; evaluation: scores with intervals.
        output: The JSON file for the results.

    Raises:
        ConfigError: `only` has an unknown name.
    """
    common.load_tensorflow()
    from benchmarks import scale

    _run(
        scale.BENCHMARKS,
        only,
        lambda root: scale.Setting(num_images, num_resamples, root),
        output,
        num_images=num_images,
        num_resamples=num_resamples,
    )


def measure_coverage(
    num_simulations: int = 1000,
    num_lesions: int = 750,
    num_resamples: int = 199,
    num_true: int = 300_000,
    num_workers: int = 1,
    output: Path = Path("docs/coverage.md"),
) -> None:
    """Measures the coverage of the confidence intervals by simulation.

    Args:
        num_simulations: Number of simulated test sets; up to four times as many for
            intervals that take little time.
        num_lesions: Number of lesions of a test set, and of a validation set.
        num_resamples: Number of bootstrap resamples, >= 100.
        num_true: Number of lesions from which the true scores are computed.
        num_workers: Number of processes.
        output: The Markdown file for the results.

    Raises:
        ConfigError: `num_resamples` is below 100, or `output` is not writable.
    """
    from benchmarks.coverage import measure

    require_writable_file(output, "--output")
    settings = measure.Settings(
        num_simulations, num_lesions, num_resamples, num_true, num_workers
    )
    write_text(output, measure.to_markdown(measure.measure(settings), settings))
    print(f"results  {output}")


def measure_ood(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    data_dir: Path | None = None,
    output: Path = Path("runs/benchmark/ood.md"),
) -> None:
    """Compares methods of out-of-distribution detection on unsuitable images.

    Requires pip install scikit-image, which contains some of the images.

    Args:
        runs: Directories of finished runs whose models use images only.
        data_dir: Directory of the built TFDS datasets; by default, that of TFDS.
        output: The Markdown file for the results.

    Raises:
        ConfigError: `output` is not writable; see also `benchmarks.ood.compare`.
        DataError: See `benchmarks.ood.compare`.
    """
    require_writable_file(output, "--output")
    common.load_tensorflow()
    from benchmarks import ood

    tables = (
        f"{run.name}:\n\n{ood.to_markdown(ood.compare(run, data_dir))}" for run in runs
    )
    write_text(output, "\n".join(tables))
    print(f"results  {output}")


def command() -> None:
    """Runs the benchmarks that the first command-line argument selects."""
    tyro.extras.subcommand_cli_from_dict(
        {
            "input": measure_input,
            "train": measure_train,
            "serve": measure_serve,
            "startup": measure_startup,
            "scale": measure_scale,
            "coverage": measure_coverage,
            "ood": measure_ood,
        }
    )


def _run(
    benchmarks: Mapping[str, Callable[[Setting], Iterator[Result]]],
    only: Collection[str],
    prepare: Callable[[Path], Setting],
    output: Path,
    **settings: object,
) -> None:
    """Runs benchmarks, prints each result and a table, and writes the JSON file."""
    require_writable_file(output, "--output")
    chosen = [look_up(benchmarks, name, "--only") for name in only or benchmarks]
    content = {"environment": measure.environment(), **settings}
    results = []
    with tempfile.TemporaryDirectory() as folder:
        setting = prepare(Path(folder))
        for result in itertools.chain.from_iterable(run(setting) for run in chosen):
            results.append(result)
            print(json.dumps(measure.to_json(result)), flush=True)
    print(f"\n{measure.to_text(results)}\n")
    content["load_average_after"] = os.getloadavg()
    write_json(output, {**content, "results": list(map(measure.to_json, results))})
    print(f"results  {output}")


if __name__ == "__main__":
    process.main(command)
