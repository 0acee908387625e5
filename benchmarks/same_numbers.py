"""Records every number that a checkout computes, and compares two records.

A safety net for refactoring: both checkouts run the same commands on the demo data and, if
--shared is given, on the real images; predictions and results must be equal.

python benchmarks/same_numbers.py record CHECKOUT WORKDIR RECORD.json [--shared DIR]
python benchmarks/same_numbers.py compare BEFORE.json AFTER.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

IGNORED_KEYS = re.compile(
    r"seconds|cost|time|created|num_workers|sha256|version|schema|^cores$|memory"
)
"""Keys of values that are measured by a clock or describe the machine or the files."""


@dataclass(frozen=True)
class Names:
    """The names that a checkout uses.

    Attributes:
        tta: Values of --tta: the eight orientations, then random views.
        preset: The preset of the real images.
        probe: Flags of a short linear probe on cached features.
    """

    tta: tuple[str, str]
    preset: str
    probe: str


CURRENT = Names(
    ("d4", "augment"),
    "mobilenet_160",
    "--train.scenario linear_probe --train.cached-views 1 --train.progressive-epochs 0 "
    "--train.progressive-image-size 0",
)
BEFORE_RENAMING = Names(
    ("orientations", "random"),
    "cpu",
    "--train.scenario feature_extractor --train.cached-features 1 --train.small-epochs 0 "
    "--train.small-image-size 0",
)
"""Of checkouts without `skincnn/cli`."""


def commands(names: Names, data_dir: Path, shared: Path | None) -> list[list[str]]:
    """Returns the script and the arguments of each step; runs are relative to WORKDIR."""
    data = f"--data-dir {data_dir}"
    short = "quickstart --train.epochs 2 --train.deterministic True"
    all_tta = f"--tta {' '.join(names.tta)} --logit-adjustment"
    lines = [
        f"prepare_data --config demo {data}",
        f"prepare_data --config demo_tiny {data}",
        f"train {short} --workdir a {data}",
        f"evaluate a {all_tta} --corruptions {data}",
        f"train {short} --seed 1 --workdir b {data}",
        f"evaluate b {all_tta} {data}",
        "evaluate a b --ensemble ab",
        "train quickstart --data.dataset demo_tiny --train.epochs 1 --data.batch-size 8 "
        f"--optimizer.warmup-epochs 0 --folds 3 --workdir cv {data}",
        "compare a b ab --variants --average-seeds --output compared",
    ]
    if shared is not None:
        images = shared / "ham10000-200x150"
        lines += [
            f"prepare_data --config isic2018 --manual-dir {images} {data}",
            f"train {names.preset} {names.probe} --data.image-size 96 --train.epochs 4 "
            f"--train.deterministic True --workdir real {data}",
            f"evaluate real --tta {names.tta[0]} --logit-adjustment {data}",
        ]
    return [line.split() for line in lines]


def record(checkout: Path, workdir: Path, path: Path, shared: Path | None) -> None:
    """Runs all commands with the code of a checkout and writes the record to `path`.

    Commands that finished before are skipped, so that an interrupted record resumes.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    names = CURRENT if (checkout / "skincnn" / "cli").is_dir() else BEFORE_RENAMING
    # The image cache depends on the path of the data, so both checkouts share it.
    data_dir = workdir.parent / "data"
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONHASHSEED": "0",
    }
    if shared is not None:
        keras_home = workdir.parent / "keras_home"
        if not keras_home.exists():
            shutil.copytree(shared / "keras_home", keras_home)
        environment["KERAS_HOME"] = str(keras_home)
    progress = workdir / "done.json"
    finished = json.loads(progress.read_text()) if progress.exists() else []
    for step in commands(names, data_dir, shared):
        if step in finished:
            continue
        script, *arguments = step
        command = [sys.executable, str(checkout / "scripts" / f"{script}.py"), *arguments]
        print("+", *command[1:], flush=True)
        with (workdir / "log.txt").open("a") as log:
            subprocess.run(
                command, cwd=workdir, env=environment, check=True, stdout=log, stderr=log
            )
        finished.append(step)
        progress.write_text(json.dumps(finished))
    path.write_text(json.dumps(collect(workdir), indent=1))


def collect(workdir: Path) -> dict[str, dict[str, list[str]]]:
    """Returns the hashes of the tables and the numbers of the results of each run."""
    collected = {}
    for folder in sorted(path for path in workdir.rglob("predictions") if path.is_dir()):
        run = folder.parent
        collected[str(run.relative_to(workdir))] = {
            "tables": sorted(hash_table(path) for path in folder.glob("*.csv")),
            "numbers": read_numbers(run),
        }
    compared = pd.read_csv(workdir / "compared" / "compare.csv").select_dtypes("number")
    numbers = [f"{value:.9g}" for name in compared for value in compared[name].dropna()]
    collected["compared"] = {"tables": [], "numbers": sorted(numbers)}
    return collected


def hash_table(path: Path) -> str:
    """Returns the SHA-256 of the numeric columns of a predictions table."""
    numbers = pd.read_csv(path).select_dtypes("number")
    return hashlib.sha256(numbers.to_numpy("float32").tobytes()).hexdigest()[:16]


def read_numbers(run: Path) -> list[str]:
    """Returns all fractional numbers in the result files of a run, sorted."""
    numbers: list[str] = []
    records = (run / "report.json", run / "run.json", *(run / "results").glob("*.json"))
    for path in records:
        if path.exists():
            append_numbers(json.loads(path.read_text()), numbers)
    return sorted(numbers)


def append_numbers(value: object, numbers: list[str], key: str = "") -> None:
    """Appends the fractional numbers of a JSON value, except below `IGNORED_KEYS`."""
    if IGNORED_KEYS.search(key):
        return
    if isinstance(value, dict):
        for name, part in value.items():
            append_numbers(part, numbers, name)
    elif isinstance(value, list):
        for part in value:
            append_numbers(part, numbers, key)
    elif isinstance(value, float) and math.isfinite(value) and value != int(value):
        numbers.append(f"{value:.9g}")


def compare(before: Path, after: Path) -> int:
    """Prints the entries that the second record lacks and returns their number."""
    old, new = (json.loads(path.read_text()) for path in (before, after))
    num_missing = 0
    for run, entries in old.items():
        if run not in new:
            print(f"{run}: missing")
            num_missing += 1
            continue
        for kind in ("tables", "numbers"):
            missing = sorted(set(entries[kind]) - set(new[run][kind]))
            print(f"{run}: {len(entries[kind])} {kind}, {len(missing)} missing")
            if missing:
                print("   ", missing[:10])
            num_missing += len(missing)
    return num_missing


def main() -> None:
    """Parses the arguments and runs one of the two actions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    recording = actions.add_parser("record", help="run all commands and write a record")
    for name in ("checkout", "workdir", "record"):
        recording.add_argument(name, type=lambda text: Path(text).resolve())
    recording.add_argument("--shared", type=lambda text: Path(text).resolve())
    comparing = actions.add_parser("compare", help="compare two records; 1 if they differ")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.action == "record":
        record(arguments.checkout, arguments.workdir, arguments.record, arguments.shared)
    else:
        sys.exit(1 if compare(arguments.before, arguments.after) else 0)


if __name__ == "__main__":
    main()
