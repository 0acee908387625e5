"""What a training runs on: one device or several, a precision, and XLA or not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import keras
import tensorflow as tf

from skincnn.config import Precision, TrainConfig
from skincnn.errors import ConfigError

BFLOAT16_CAPABILITY = 8.0
"""The compute capability from which on NVIDIA's GPUs multiply in bfloat16."""
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
        with dtype_policy(self.precision), _placement(self.names):
            yield

    @property
    def made_by(self) -> dict[str, str]:
        """What must be equal where a training is resumed."""
        return {"backend": keras.backend.backend(), "precision": self.precision}

    def describe(self, model: keras.Model) -> dict[str, Any]:
        """Returns what a compiled model runs on, for metadata.json."""
        return {**self.made_by, "devices": list(self.names), "jit": model.jit_compile}


def make_devices(config: TrainConfig, batch_size: int) -> Devices:
    """Returns what a configuration comes to on this machine.

    Raises:
        ConfigError: There are fewer devices, or they cannot do what is asked for.
    """
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


def _names(count: int) -> tuple[str, ...]:
    """Returns `count` devices; for 0 all GPUs or TPUs, or one CPU."""
    found = keras.distribution.list_devices()  # accelerators, or CPUs where there are none
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


def _placement(names: tuple[str, ...]) -> contextlib.AbstractContextManager[Any]:
    """Returns the scope of what holds a copy of the model on each device."""
    if len(names) == 1:
        return contextlib.nullcontext()
    if keras.backend.backend() == "jax":
        return keras.distribution.DataParallel(devices=list(names)).scope()
    # Summing on one device needs no NCCL, and two models of one process do not wait for
    # each other's sums.
    sums = tf.distribute.ReductionToOneDevice() if names[0].startswith("cpu") else None
    return tf.distribute.MirroredStrategy(
        [name.upper() for name in names], cross_device_ops=sums
    ).scope()
