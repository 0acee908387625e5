"""The code and the hardware of a training run.

Code and hardware can affect the trained weights, for example through rounding errors.
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import keras
import tensorflow as tf

from skincnn import __version__
from skincnn.inference.run_dir import Provenance

CPUINFO = Path("/proc/cpuinfo")
"""The Linux file that can contain the name of the processor."""


def provenance() -> Provenance:
    """Returns the code version, the processor, the number of usable cores and the GPUs.

    In a Git checkout, the code version is the commit, with the suffix "-dirty" for
    uncommitted changes of tracked files. Otherwise, or if Git fails, it is "skincnn
    <package version>".
    """
    return Provenance(
        code=_commit(Path(__file__).parents[2]) or f"skincnn {__version__}",
        processor=_processor(),
        cores=_cores(),
        gpus=_gpus(),
    )


def _commit(checkout: Path) -> str | None:
    if not (checkout / ".git").exists():  # Git would also search the parent directories
        return None
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=7"]
    # Inside a Git hook, variables such as GIT_DIR name another repository.
    env = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    try:
        done = subprocess.run(
            command,
            cwd=checkout,
            env=env,
            capture_output=True,
            check=True,
            text=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return None  # for example, Git is not installed or does not trust the directory
    return done.stdout.strip()


def _processor() -> str:
    if CPUINFO.exists():
        for line in CPUINFO.read_text("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return " ".join(value.split())
    return platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus() -> tuple[str, ...]:
    if keras.backend.backend() == "jax":
        import jax

        return tuple(gpu.device_kind for gpu in jax.devices() if gpu.platform == "gpu")
    return tuple(
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in tf.config.list_physical_devices("GPU")
    )
