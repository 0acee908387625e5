"""Measures this project against what it is made of and what a user would write instead."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import tyro

from skincnn import cli


def measure_input(
    pictures: Path | None = None,
    num_images: int = 1024,
    output: Path = Path("runs/benchmark/input.json"),
) -> None:
    """Measures the way from files to batches, and the building of a dataset.

    Ratios in one run, median of six interleaved pairs, beside the spread of the
    baseline against itself. Absolute rates are those of this machine.

    Args:
        pictures: A folder of JPEG originals; made-up pictures by default.
        num_images: Pictures in each pass; files are repeated.
        output: The JSON file of the results.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")
    cli.load_tensorflow()
    from skincnn.benchmark import input as benchmark
    from skincnn.benchmark import measure
    from skincnn.files import write_json

    before = measure.environment()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for result in benchmark.run(pictures, num_images, Path(folder)):
            results.append(result)
            print(json.dumps(measure.to_json(result)), flush=True)
    print(f"\n{measure.to_text(results)}\n")
    write_json(
        output,
        {
            "environment": before,
            "load_average_after": measure.environment()["load_average"],
            "num_images": num_images,
            "made_up": pictures is None,
            "results": [measure.to_json(result) for result in results],
        },
    )
    print(f"results  {output}")


def command() -> None:
    """Runs the benchmark that the first argument names."""
    tyro.extras.subcommand_cli_from_dict({"input": measure_input})


if __name__ == "__main__":
    cli.main(command)
