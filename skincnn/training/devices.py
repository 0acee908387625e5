"""Devices, distributed processes, precision and XLA compilation of a training run."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from skincnn.config import Precision, TrainConfig
from skincnn.errors import ConfigError
from skincnn.files import locked
from skincnn.inference.run_dir import CONFIG_FILE, RUN_FILE, DeviceInfo
from skincnn.interruption import StopRequest
from skincnn.preconditions import require_executable_memory
from skincnn.write_errors import explain_write_errors

BFLOAT16_CAPABILITY = 8.0
"""Lowest compute capability of NVIDIA GPUs that support bfloat16."""
PROCESSES = tuple(
    f"KERAS_DISTRIBUTION_{name}"
    for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)
"""Environment variables with which Keras connects the processes of a distributed run."""
RESUME_FILES = (CONFIG_FILE, RUN_FILE, "history.csv", "checkpoints/*")
"""Patterns of the files in a run directory that `run_folder` copies."""


@dataclass(frozen=True)
class Devices:
    """`train.devices`, `train.precision` and `train.jit`, resolved for this machine.

    Attributes:
        names: Device names from `keras.distribution.list_devices`, such as "gpu:0".
        precision: Name of a Keras dtype policy.
        jit: The argument `jit_compile` of `keras.Model.compile`.
    """

    names: tuple[str, ...]
    precision: str
    jit: bool | Literal["auto"]

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Applies the precision and the devices to models created inside the block.

        The previous dtype policy is restored at the end. Each block sets the policy again,
        because `keras.utils.clear_session()` resets the policy to float32.
        """
        distribution = self._distribution
        scope = contextlib.nullcontext() if distribution is None else distribution.scope()
        with dtype_policy(self.precision), scope:
            yield

    @functools.cached_property
    def _distribution(self) -> Any:
        """The strategy that replicates the model on each device; None for one device."""
        if len(self.names) == 1:
            return None
        if keras.backend.backend() == "jax":
            return keras.distribution.DataParallel(devices=list(self.names))
        # On CPUs, summing gradients on one device requires no NCCL, and two models in one
        # process do not block each other.
        on_cpu = self.names[0].startswith("cpu")
        reduction = tf.distribute.ReductionToOneDevice() if on_cpu else None
        return tf.distribute.MirroredStrategy(
            [name.upper() for name in self.names], cross_device_ops=reduction
        )

    def describe(self, model: keras.Model) -> DeviceInfo:
        """Returns the devices, precision, backend and XLA setting of a compiled model."""
        return DeviceInfo(
            devices=self.names,
            precision=self.precision,
            backend=keras.backend.backend(),
            jit=bool(model.jit_compile),
        )


def make_devices(config: TrainConfig, batch_size: int) -> Devices:
    """Returns the devices, precision and XLA setting for this machine.

    `batch_size` is the number of images per batch, over all devices.

    Raises:
        ConfigError: The configured number of devices is not available or does not divide
            the batch size, mixed_float16 is set for several devices, or TensorFlow does not
            support XLA with these settings; see also `join_processes` and
            `require_executable_memory`.
        RuntimeError, ValueError: See `join_processes`.
    """
    require_executable_memory()
    join_processes()
    names = _names(config.devices)
    several = len(names) > 1
    if batch_size % len(names):
        raise ConfigError(
            f"`data.batch_size` must be a multiple of {len(names)}, the number of devices. "
            f"Received: {batch_size}. Change --data.batch-size or --train.devices."
        )
    precision: str = config.precision
    if precision == "auto":
        kind = names[0].partition(":")[0]
        precision = choose_precision(kind, _capability(kind), several=several)
    if several and precision == "mixed_float16":
        raise ConfigError(
            "`train.precision` mixed_float16 supports only one device, because the loss "
            f"scale would depend on one device only. Received: {len(names)} devices. Use "
            "--train.precision mixed_bfloat16 or float32, or --train.devices 1."
        )
    conflict = f"on {len(names)} devices" if several else "with `train.deterministic`"
    on_tensorflow = config.jit == "on" and keras.backend.backend() == "tensorflow"
    if on_tensorflow and (several or config.deterministic):
        raise ConfigError(
            "`train.jit` must be auto or off, because TensorFlow does not support XLA "
            f"{conflict}. Received: on."
        )
    jit: Literal["auto"] | bool = config.jit == "on" if config.jit != "auto" else "auto"
    return Devices(names, precision, jit)


def choose_precision(kind: str, capability: float, *, several: bool = False) -> Precision:
    """Returns the precision that `train.precision` auto selects for a device.

    Args:
        kind: "cpu", "gpu" or "tpu".
        capability: Compute capability of a GPU, such as 8.6, or 0 if unknown; ignored for
            other devices.
        several: Whether several devices are used, which excludes mixed_float16.
    """
    if kind == "cpu":  # few CPUs support bfloat16, and no tested CPU was faster with it
        return "float32"
    if kind == "tpu" or capability >= BFLOAT16_CAPABILITY:
        return "mixed_bfloat16"
    return "float32" if several else "mixed_float16"


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Sets the Keras dtype policy inside the block, and restores the previous one."""
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)


def join_processes() -> int:
    """Connects the processes of a distributed run, and returns the rank of this process.

    Does nothing and returns 0 if none of the environment variables `PROCESSES` is set.

    Raises:
        ConfigError: Only some of `PROCESSES` are set, or the backend is not JAX.
        RuntimeError, ValueError: A value of `PROCESSES` is invalid, or the processes cannot
            be connected; see `keras.distribution.initialize`.
    """
    given = [name for name in PROCESSES if os.environ.get(name)]
    if not given:
        return 0
    if len(given) < len(PROCESSES):
        raise ConfigError(
            "Training on several machines requires all of the environment variables "
            f"{', '.join(PROCESSES)}. Received: {', '.join(given)}. To train on "
            "one machine, unset all of these variables."
        )
    if keras.backend.backend() != "jax":
        raise ConfigError(
            "Training on several machines requires the JAX backend. Received: "
            f"{keras.backend.backend()}. Run pip install -e '.[jax]', and set "
            "KERAS_BACKEND=jax in the environment."
        )
    if not is_distributed():
        keras.distribution.initialize()
    import jax

    return int(jax.process_index())


@contextlib.contextmanager
def run_folder(workdir: Path) -> Iterator[Path]:
    """Locks a run directory and yields its path, or the path of a temporary copy.

    In distributed training, only the first process locks and writes the run directory. The
    other processes get a temporary directory with `RESUME_FILES`, so that all processes
    resume in the same way.

    Raises:
        ConfigError: The directory is in use or not writable, cannot be created, or is not
            a directory; see also `join_processes`.
    """
    with contextlib.ExitStack() as stack:
        if join_processes() == 0:
            try:
                stack.enter_context(locked(workdir))
            except ConfigError as error:
                broadcast(error)  # otherwise the other processes would wait forever
                raise
            files = {
                path.relative_to(workdir).as_posix(): path.read_bytes()
                for pattern in RESUME_FILES
                for path in workdir.glob(pattern)
            }
            broadcast(files)
        else:
            workdir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            files = broadcast(None)
            if isinstance(files, ConfigError):
                raise files
            with explain_write_errors(workdir):
                for name, content in files.items():
                    (workdir / name).parent.mkdir(exist_ok=True)
                    (workdir / name).write_bytes(content)
        yield workdir


def broadcast(value: Any) -> Any:
    """Sends a picklable value from the first process to all processes, and returns it.

    The argument is ignored in processes other than the first.
    """
    if not is_distributed():
        return value
    from jax.experimental import multihost_utils

    content = np.frombuffer(pickle.dumps(value), np.uint8)
    (size,) = multihost_utils.broadcast_one_to_all(np.array([len(content)]))
    content = np.resize(content, int(size))  # ignored except in the first process
    return pickle.loads(bytes(multihost_utils.broadcast_one_to_all(content)))


class CommonStopRequest(StopRequest):
    """A stop request that all processes of a distributed training run share.

    A signal to one process stops all processes after the same step. Reading `requested`
    waits until every process reads it.
    """

    @property
    def requested(self) -> bool:
        """Whether any process has received a signal to stop."""
        from jax.experimental import multihost_utils

        signals = multihost_utils.process_allgather(np.array([self.signal or 0]))
        common = int(np.max(signals))
        self.signal = common or self.signal  # a signal may arrive during the exchange
        return common > 0

    def exit(self) -> None:
        """Disconnects this process from the others, and calls `StopRequest.exit`."""
        leave_processes()
        super().exit()


def stop_request() -> StopRequest:
    """Returns a stop request that all processes of this training run share."""
    return CommonStopRequest() if is_distributed() else StopRequest()


def leave_processes() -> None:
    """Disconnects this process, so that the processes can end at different times."""
    if is_distributed():
        import jax

        jax.distributed.shutdown()


def is_distributed() -> bool:
    """Returns whether this process is connected to others; see `join_processes`."""
    if keras.backend.backend() != "jax":
        return False
    import jax

    return bool(jax.distributed.is_initialized())


def _names(count: int) -> tuple[str, ...]:
    """Returns the names of `count` devices; 0 means all GPUs or TPUs, or one CPU.

    Distributed training always uses all devices of all processes.
    """
    names = keras.distribution.list_devices()  # CPUs only if the machine has no other
    if is_distributed():
        if count not in (0, len(names)):
            raise ConfigError(
                f"`train.devices` must be 0 or {len(names)}, the number of devices of all "
                f"processes. Received: {count}."
            )
        return tuple(names)
    if count > len(names):
        raise ConfigError(
            f"`train.devices` must be at most {len(names)}, because this machine has "
            f"{', '.join(names)}. Received: {count}."
        )
    if count == 0:
        count = 1 if names[0].startswith("cpu") else len(names)
    return tuple(names[:count])


def _capability(kind: str) -> float:
    """Returns the lowest compute capability of all GPUs; 0 if unknown or without GPUs."""
    if kind != "gpu":
        return 0.0
    if keras.backend.backend() == "jax":
        import jax

        versions = [str(getattr(gpu, "compute_capability", 0)) for gpu in jax.devices()]
        # Those of AMD are names such as "gfx90a".
        known = all(version.replace(".", "", 1).isdigit() for version in versions)
        return min(map(float, versions)) if known else 0.0
    details = map(
        tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU")
    )
    return min(
        float("{}.{}".format(*detail.get("compute_capability", (0, 0))))
        for detail in details
    )
