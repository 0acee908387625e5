"""What a training runs on: devices, machines, a precision, and XLA or not."""

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
from skincnn.inference.run_dir import DeviceInfo
from skincnn.interruption import StopRequest

BFLOAT16_CAPABILITY = 8.0
"""The compute capability from which on NVIDIA's GPUs multiply in bfloat16."""
PROCESSES = tuple(
    f"KERAS_DISTRIBUTION_{name}"
    for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)
"""What tells Keras of the other processes of a training on several machines."""
CARRIED = ("config.json", "metadata.json", "history.csv", "checkpoints/*")
"""What of a run's folder decides how a training goes on."""
Jit = bool | Literal["auto"]
JIT: dict[str, Jit] = {"auto": "auto", "on": True, "off": False}


@dataclass(frozen=True)
class Devices:
    """What `train.devices`, `train.precision` and `train.jit` came to on this machine.

    Attributes:
        names: As `keras.distribution.list_devices` gives them: "gpu:0", "cpu:0".
        precision: The name of a dtype policy of Keras.
        jit: What `compile` is given as `jit_compile`.
    """

    names: tuple[str, ...]
    precision: str
    jit: Jit

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Makes all models in the block compute in this precision, on these devices.

        The policy of before comes back. `keras.utils.clear_session()` would set it to
        float32, so it is set here for every model anew.
        """
        with dtype_policy(self.precision):
            if self._distribution is None:
                yield
            else:
                with self._distribution.scope():
                    yield

    @functools.cached_property
    def _distribution(self) -> Any:
        """What holds a copy of the model on each device; None for one device."""
        if len(self.names) == 1:
            return None
        if keras.backend.backend() == "jax":
            return keras.distribution.DataParallel(devices=list(self.names))
        # Summing on one device needs no NCCL, and two models of one process do not wait
        # for each other's sums.
        on_cpu = self.names[0].startswith("cpu")
        sums = tf.distribute.ReductionToOneDevice() if on_cpu else None
        return tf.distribute.MirroredStrategy(
            [name.upper() for name in self.names], cross_device_ops=sums
        )

    @property
    def made_by(self) -> dict[str, Any]:
        """What must be equal where a training is resumed."""
        return {
            "backend": keras.backend.backend(),
            "precision": self.precision,
            "num_devices": len(self.names),
        }

    def describe(self, model: keras.Model) -> DeviceInfo:
        """Returns what a compiled model runs on."""
        return DeviceInfo(
            devices=tuple(self.names),
            precision=self.precision,
            backend=keras.backend.backend(),
            jit=bool(model.jit_compile),
        )


def make_devices(config: TrainConfig, batch_size: int) -> Devices:
    """Returns what a configuration comes to on this machine.

    Raises:
        ConfigError: There are fewer devices, or they cannot do what is asked for.
    """
    join_processes()
    names = _names(config.devices)
    several = len(names) > 1
    if batch_size % len(names):
        raise ConfigError(
            f"`data.batch_size` must be a multiple of the {len(names)} devices that share "
            f"it. Received: {batch_size}. Change it, or --train.devices."
        )
    if config.precision == "auto":
        kind = names[0].partition(":")[0]
        precision = choose_precision(kind, _capability(kind), several=several)
    else:
        precision = config.precision
    if several and precision == "mixed_float16":
        raise ConfigError(
            "`train.precision` mixed_float16 works on one device: the scale of the loss "
            "would follow the gradients of the first alone. Give mixed_bfloat16 or "
            "float32, or --train.devices 1."
        )
    if (
        config.jit == "on"
        and keras.backend.backend() == "tensorflow"
        and (several or config.deterministic)
    ):
        raise ConfigError(
            "`train.jit` on: TensorFlow compiles neither for several devices nor with "
            "`train.deterministic`. Give auto or off."
        )
    return Devices(names, precision, JIT[config.jit])


def choose_precision(kind: str, capability: float, *, several: bool = False) -> Precision:
    """Returns the precision that is fast on a device.

    Args:
        kind: "cpu", "gpu" or "tpu".
        capability: The compute capability of a GPU, as 8.6.
        several: Whether there are several devices; see `make_devices`.
    """
    if kind == "cpu":  # of which few compute in bfloat16, and none gained by it
        return "float32"
    if kind == "tpu" or capability >= BFLOAT16_CAPABILITY:
        return "mixed_bfloat16"
    return "float32" if several else "mixed_float16"


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Makes layers with this policy of Keras, and brings the one of before back."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@functools.cache
def join_processes() -> int:
    """Joins the processes of a training on several machines, if there are others.

    Returns:
        The number of this one, counted from 0; 0 where it is alone.

    Raises:
        ConfigError: The environment names others (`PROCESSES`), but not completely, or
            the backend cannot train with them.
    """
    given = [name for name in PROCESSES if os.environ.get(name)]
    if not given:
        return 0
    if len(given) < len(PROCESSES):
        raise ConfigError(
            f"The environment holds {', '.join(given)}. Expected all of "
            f"{', '.join(PROCESSES)}, or none to train alone."
        )
    if keras.backend.backend() != "jax":
        raise ConfigError(
            "Training on several machines needs KERAS_BACKEND=jax in the environment "
            f"(and pip install skincnn[jax]). Received: {keras.backend.backend()}."
        )
    keras.distribution.initialize()
    import jax

    return int(jax.process_index())


@contextlib.contextmanager
def run_folder(workdir: Path) -> Iterator[Path]:
    """Locks a run's folder; of several processes the first has it, the others a copy.

    The copy is a temporary folder with what decides how the training goes on, so that all
    processes come to the same decisions and only the first writes the run.

    Args:
        workdir: The run's folder, of which only that of the first process counts.

    Raises:
        ConfigError: Another training has the folder; see also `join_processes`.
    """
    with contextlib.ExitStack() as stack:
        if join_processes() == 0:
            try:
                stack.enter_context(locked(workdir))
            except ConfigError as error:
                from_first(error)  # or the others would wait
                raise
            files = {
                str(path.relative_to(workdir)): path.read_bytes()
                for pattern in CARRIED
                for path in workdir.glob(pattern)
            }
            from_first(files)
        else:
            workdir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            files = from_first(None)
            if isinstance(files, ConfigError):
                raise files
            for name, content in files.items():
                (workdir / name).parent.mkdir(exist_ok=True)
                (workdir / name).write_bytes(content)
        yield workdir


def from_first(value: Any) -> Any:
    """Returns what the first process gave here, in all of them.

    Args:
        value: What can be pickled; that of the other processes is not used.
    """
    if not is_distributed():
        return value
    from jax.experimental import multihost_utils

    content = np.frombuffer(pickle.dumps(value), np.uint8)
    (size,) = multihost_utils.broadcast_one_to_all(np.array([len(content)]))
    content = np.resize(content, int(size))  # of the others only the size counts
    return pickle.loads(bytes(multihost_utils.broadcast_one_to_all(content)))


class CommonStopRequest(StopRequest):
    """A signal to one of several processes, which stops all of them after the same step.

    All must ask for it at the same time.
    """

    @property
    def requested(self) -> bool:
        """Whether a process was asked to stop."""
        from jax.experimental import multihost_utils

        signals = multihost_utils.process_allgather(np.array([self.signal or 0]))
        self.signal = int(np.max(signals)) or None
        return self.signal is not None

    def obey(self) -> None:
        """Ends the process, which need not wait for the others: all end now."""
        leave_processes()
        super().obey()


def stop_request() -> StopRequest:
    """Returns what tells the processes of a training that the user asked to stop."""
    return CommonStopRequest() if is_distributed() else StopRequest()


def leave_processes() -> None:
    """Lets the processes end without waiting for each other; after the last step."""
    if is_distributed():
        import jax

        jax.distributed.shutdown()


def is_distributed() -> bool:
    """Returns whether this process trains with others."""
    if keras.backend.backend() != "jax":
        return False
    import jax

    return bool(jax.distributed.is_initialized())


def _names(count: int) -> tuple[str, ...]:
    """Returns `count` devices; for 0 all GPUs or TPUs, or one CPU of each process."""
    found = keras.distribution.list_devices()  # accelerators, or CPUs where there are none
    if is_distributed():
        if count not in (0, len(found)):
            raise ConfigError(
                f"`train.devices` must be 0 or {len(found)}, all devices of all "
                f"processes. Received: {count}."
            )
        return tuple(found)
    if count > len(found):
        raise ConfigError(
            f"`train.devices` must be at most {len(found)} here: {', '.join(found)}. "
            f"Received: {count}."
        )
    if count == 0:
        count = 1 if found[0].startswith("cpu") else len(found)
    return tuple(found[:count])


def _capability(kind: str) -> float:
    """Returns the least compute capability of the GPUs; 0 where it is not known."""
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
