"""Records every number that a checkout produces, and compares two recordings.

python benchmarks/same_numbers.py record CHECKOUT WORK OUT.json [--shared SHARED]
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
from pathlib import Path

import pandas as pd

TIMES = re.compile(
    r"seconds|cost|time|created|num_workers|sha256|version|schema|cores|memory"
)
NUMBER = re.compile(r"-?\d*\.\d+")


def commands(new: bool, demo: Path, real: Path | None) -> list[tuple[str, list[str]]]:
    """Returns the script and the flags of each step; run folders are relative to WORK."""
    tta = ["d4", "augment"] if new else ["orientations", "random"]
    quick = "quickstart"
    data = ["--data-dir", str(demo)]
    small = [quick, "--train.epochs", "2", "--train.deterministic", "True"]
    steps = [
        ("prepare_data", ["--config", "demo", *data]),
        ("prepare_data", ["--config", "demo_tiny", *data]),
        ("train", [*small, "--workdir", "a", *data]),
        ("evaluate", ["a", "--tta", *tta, "--logit-adjustment", "--corruptions", *data]),
        ("train", [*small, "--seed", "1", "--workdir", "b", *data]),
        ("evaluate", ["b", "--tta", *tta, "--logit-adjustment", *data]),
        ("evaluate", ["a", "b", "--ensemble", "ab"]),
        (
            "train",
            [
                quick,
                "--data.dataset",
                "demo_tiny",
                "--train.epochs",
                "1",
                "--optimizer.warmup-epochs",
                "0",
                "--data.batch-size",
                "8",
                "--folds",
                "3",
                "--workdir",
                "cv",
                *data,
            ],
        ),
        (
            "compare",
            ["a", "b", "ab", "--variants", "--average-seeds", "--output", "compared"],
        ),
    ]
    if real is not None:
        where = ["--data-dir", str(real)]
        probe = [
            "mobilenet_160" if new else "cpu",
            "--train.scenario",
            "linear_probe" if new else "feature_extractor",
            "--train.cached-views" if new else "--train.cached-features",
            "1",
            "--train.progressive-epochs" if new else "--train.small-epochs",
            "0",
            "--train.progressive-image-size" if new else "--train.small-image-size",
            "0",
            "--data.image-size",
            "96",
            "--train.epochs",
            "4",
            "--train.deterministic",
            "True",
        ]
        steps += [
            ("train", [*probe, "--workdir", "real", *where]),
            ("evaluate", ["real", "--tta", tta[0], "--logit-adjustment", *where]),
        ]
    return steps


def record(checkout: Path, work: Path, out: Path, shared: Path | None) -> None:
    """Runs everything and writes what came of it."""
    new = (checkout / "skincnn" / "cli").is_dir()
    work.mkdir(parents=True, exist_ok=True)
    # The images are cached by absolute path of the data: both checkouts read the same.
    demo = work.parent / "data"
    real = None
    env = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONHASHSEED": "0",
    }
    if shared is not None:
        real = demo
        home = work.parent / "keras_home"
        if not home.exists():
            shutil.copytree(shared / "keras_home", home)
        env["KERAS_HOME"] = str(home)
        steps = [
            (
                "prepare_data",
                [
                    "--config",
                    "isic2018",
                    "--manual-dir",
                    str(shared / "ham10000-200x150"),
                    "--data-dir",
                    str(demo),
                ],
            )
        ]
    else:
        steps = []
    done = work / "done.json"
    finished = json.loads(done.read_text()) if done.exists() else []
    for name, flags in [*steps, *commands(new, demo, real)]:
        step = [name, *flags]
        if step in finished:
            continue
        command = [sys.executable, str(checkout / "scripts" / f"{name}.py"), *flags]
        print("+", " ".join(command[1:]), flush=True)
        with open(work / "log.txt", "a") as log:
            subprocess.run(command, cwd=work, env=env, check=True, stdout=log, stderr=log)
        finished.append(step)
        done.write_text(json.dumps(finished))
    found = {}
    for run in sorted(path for path in work.rglob("predictions") if path.is_dir()):
        where = run.parent.relative_to(work)
        found[str(where)] = {
            "tables": sorted(table_hash(path) for path in run.glob("*.csv")),
            "numbers": numbers_of(run.parent),
        }
    table = pd.read_csv(work / "compared" / "compare.csv")
    found["compared"] = {
        "tables": [],
        "numbers": sorted(
            f"{value:.9g}"
            for column in table.select_dtypes("number")
            for value in table[column].dropna()
        ),
    }
    out.write_text(json.dumps(found, indent=1))


def table_hash(path: Path) -> str:
    """Returns the SHA-256 of all numbers of a predictions table."""
    numbers = pd.read_csv(path).select_dtypes("number")
    return hashlib.sha256(numbers.to_numpy("float64").tobytes()).hexdigest()[:16]


def numbers_of(run: Path) -> list[str]:
    """Returns every fractional number of a report that no clock measured."""
    files = [run / "report.json", *sorted((run / "results").glob("*.json"))]
    found: list[str] = []
    for path in files:
        if path.exists():
            collect(json.loads(path.read_text()), found)
    return sorted(found)


def collect(value: object, found: list[str], key: str = "") -> None:
    """Adds the fractional numbers of a JSON value."""
    if TIMES.search(key):
        return
    if isinstance(value, dict):
        for name, part in value.items():
            collect(part, found, name)
    elif isinstance(value, list):
        for part in value:
            collect(part, found, key)
    elif isinstance(value, float) and math.isfinite(value) and value != int(value):
        found.append(f"{value:.9g}")


def compare(before: Path, after: Path) -> int:
    """Prints what the first recording has and the second lacks."""
    old, new = (json.loads(path.read_text()) for path in (before, after))
    bad = 0
    for run, content in old.items():
        got = new.get(run)
        if got is None:
            print(f"{run}: missing")
            bad += 1
            continue
        for kind in ("tables", "numbers"):
            lost = sorted(set(content[kind]) - set(got[kind]))
            print(f"{run}: {len(content[kind])} {kind}, {len(lost)} lost")
            if lost:
                print("   ", lost[:10])
            bad += len(lost)
    return bad


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    first = actions.add_parser("record")
    for name in ("checkout", "work", "out"):
        first.add_argument(name, type=lambda text: Path(text).resolve())
    first.add_argument("--shared", type=lambda text: Path(text).resolve())
    second = actions.add_parser("compare")
    second.add_argument("before", type=Path)
    second.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.action == "record":
        record(arguments.checkout, arguments.work, arguments.out, arguments.shared)
    else:
        sys.exit(1 if compare(arguments.before, arguments.after) else 0)
