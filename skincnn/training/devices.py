"""Devices, processes, precision and XLA of a training run."""

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

BFLOAT16_CAPABILITY = 8.0
"""Lowest NVIDIA compute capability of GPUs that compute in bfloat16."""
PROCESSES = tuple(
    f"KERAS_DISTRIBUTION_{name}"
    for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)
"""Environment variables by which Keras finds the other processes of a training run."""
RESUME_FILES = (CONFIG_FILE, RUN_FILE, "history.csv", "checkpoints/*")
"""Files of a run directory that decide how a training run is resumed."""


@dataclass(frozen=True)
class Devices:
    """`train.devices`, `train.precision` and `train.jit`, resolved for this machine.

    Attributes:
        names: As in `keras.distribution.list_devices`: "gpu:0", "cpu:0".
        precision: Name of a Keras dtype policy.
        jit: `jit_compile` of `keras.Model.compile`.
    """

    names: tuple[str, ...]
    precision: str
    jit: bool | Literal["auto"]

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Applies precision and devices to all models inside the block.

        The previous dtype policy is restored. It is set for each model because
        `keras.utils.clear_session()` resets it to float32.
        """
        distribution = self._distribution
        scope = contextlib.nullcontext() if distribution is None else distribution.scope()
        with dtype_policy(self.precision), scope:
            yield

    @functools.cached_property
    def _distribution(self) -> Any:
        """The strategy that copies the model to each device; None for one device."""
        if len(self.names) == 1:
            return None
        if keras.backend.backend() == "jax":
            return keras.distribution.DataParallel(devices=list(self.names))
        # On CPUs, sums on one device need no NCCL, and two models in one process do not
        # wait for each other.
        on_cpu = self.names[0].startswith("cpu")
        reduction = tf.distribute.ReductionToOneDevice() if on_cpu else None
        return tf.distribute.MirroredStrategy(
            [name.upper() for name in self.names], cross_device_ops=reduction
        )

    def describe(self, model: keras.Model) -> DeviceInfo:
        """Returns the devices and settings of a compiled model."""
        return DeviceInfo(
            devices=self.names,
            precision=self.precision,
            backend=keras.backend.backend(),
            jit=bool(model.jit_compile),
        )


def make_devices(config: TrainConfig, batch_size: int) -> Devices:
    """Resolves the devices, the precision and XLA for this machine.

    Raises:
        ConfigError: There are too few devices, or they do not support the configuration.
    """
    join_processes()
    names = _names(config.devices)
    several = len(names) > 1
    if batch_size % len(names):
        raise ConfigError(
            f"`data.batch_size` must be a multiple of the {len(names)} devices that share "
            f"it. Received: {batch_size}. Change it, or --train.devices."
        )
    precision: str = config.precision
    if precision == "auto":
        kind = names[0].partition(":")[0]
        precision = choose_precision(kind, _capability(kind), several=several)
    if several and precision == "mixed_float16":
        raise ConfigError(
            "`train.precision` mixed_float16 supports one device: the loss scale would "
            "follow the gradients of the first device only. Give mixed_bfloat16 or "
            "float32, or --train.devices 1."
        )
    if (
        config.jit == "on"
        and keras.backend.backend() == "tensorflow"
        and (several or config.deterministic)
    ):
        raise ConfigError(
            "`train.jit` on: TensorFlow supports XLA neither on several devices nor with "
            "`train.deterministic`. Give auto or off."
        )
    jit: Literal["auto"] | bool = config.jit == "on" if config.jit != "auto" else "auto"
    return Devices(names, precision, jit)


def choose_precision(kind: str, capability: float, *, several: bool = False) -> Precision:
    """Returns the fastest precision of a device.

    Args:
        kind: "cpu", "gpu" or "tpu".
        capability: Compute capability of a GPU, such as 8.6.
        several: Whether there are several devices; see `make_devices`.
    """
    if kind == "cpu":  # few CPUs compute in bfloat16, and none was faster with it
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
    """Joins the other processes of a training run on several machines, if there are any.

    Returns:
        The rank of this process, counted from 0; 0 if it trains alone.

    Raises:
        ConfigError: `PROCESSES` are set incompletely in the environment, or the backend
            does not support several machines.
    """
    given = [name for name in PROCESSES if os.environ.get(name)]
    if not given:
        return 0
    if len(given) < len(PROCESSES):
        raise ConfigError(
            "Training on several machines needs all of the environment variables "
            f"{', '.join(PROCESSES)}. Received: {', '.join(given)}. Unset them to train "
            "on one machine."
        )
    if keras.backend.backend() != "jax":
        raise ConfigError(
            "Training on several machines needs KERAS_BACKEND=jax in the environment "
            f"(and pip install skincnn[jax]). Received: {keras.backend.backend()}."
        )
    if not is_distributed():
        keras.distribution.initialize()
    import jax

    return int(jax.process_index())


@contextlib.contextmanager
def run_folder(workdir: Path) -> Iterator[Path]:
    """Locks a run directory and yields it; processes after the first get a copy.

    The copy is a temporary directory with `RESUME_FILES`, so that all processes make the
    same decisions while only the first one writes the run.

    Args:
        workdir: The run directory; only that of the first process is used.

    Raises:
        ConfigError: Another process uses the directory; see also `join_processes`.
    """
    with contextlib.ExitStack() as stack:
        if join_processes() == 0:
            try:
                stack.enter_context(locked(workdir))
            except ConfigError as error:
                broadcast(error)  # otherwise the other processes would wait forever
                raise
            files = {
                str(path.relative_to(workdir)): path.read_bytes()
                for pattern in RESUME_FILES
                for path in workdir.glob(pattern)
            }
            broadcast(files)
        else:
            workdir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            files = broadcast(None)
            if isinstance(files, ConfigError):
                raise files
            for name, content in files.items():
                (workdir / name).parent.mkdir(exist_ok=True)
                (workdir / name).write_bytes(content)
        yield workdir


def broadcast(value: Any) -> Any:
    """Returns the value of the first process in all processes.

    Args:
        value: Any value that can be pickled; ignored in the other processes.
    """
    if not is_distributed():
        return value
    from jax.experimental import multihost_utils

    content = np.frombuffer(pickle.dumps(value), np.uint8)
    (size,) = multihost_utils.broadcast_one_to_all(np.array([len(content)]))
    content = np.resize(content, int(size))  # only the content of the first process counts
    return pickle.loads(bytes(multihost_utils.broadcast_one_to_all(content)))


class CommonStopRequest(StopRequest):
    """Stops all processes after the same step when one of them receives a signal.

    All processes must read `requested` at the same time.
    """

    @property
    def requested(self) -> bool:
        """Whether any process was asked to stop."""
        from jax.experimental import multihost_utils

        signals = multihost_utils.process_allgather(np.array([self.signal or 0]))
        common = int(np.max(signals))
        self.signal = common or self.signal  # a signal may arrive during the exchange
        return common > 0

    def exit(self) -> None:
        """Ends the process without waiting for the others, which also end now."""
        leave_processes()
        super().exit()


def stop_request() -> StopRequest:
    """Returns a stop request that all processes of this training run share."""
    return CommonStopRequest() if is_distributed() else StopRequest()


def leave_processes() -> None:
    """Lets each process end after the last step without waiting for the others."""
    if is_distributed():
        import jax

        jax.distributed.shutdown()


def is_distributed() -> bool:
    """Returns whether this process trains together with others."""
    if keras.backend.backend() != "jax":
        return False
    import jax

    return bool(jax.distributed.is_initialized())


def _names(count: int) -> tuple[str, ...]:
    """Returns `count` devices; for 0, all GPUs or TPUs, or one CPU per process."""
    names = keras.distribution.list_devices()  # accelerators; CPUs if there are none
    if is_distributed():
        if count not in (0, len(names)):
            raise ConfigError(
                f"`train.devices` must be 0 or {len(names)}, all devices of all "
                f"processes. Received: {count}."
            )
        return tuple(names)
    if count > len(names):
        raise ConfigError(
            f"`train.devices` must be at most {len(names)} on this machine: "
            f"{', '.join(names)}. Received: {count}."
        )
    if count == 0:
        count = 1 if names[0].startswith("cpu") else len(names)
    return tuple(names[:count])


def _capability(kind: str) -> float:
    """Returns the lowest compute capability of the GPUs; 0 if unknown."""
    if kind != "gpu":
        return 0.0
    if keras.backend.backend() == "jax":
        import jax

        return min(float(getattr(gpu, "compute_capability", 0)) for gpu in jax.devices())
    details = map(
        tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU")
    )
    return min(
        float("{}.{}".format(*detail.get("compute_capability", (0, 0))))
        for detail in details
    )
