"""Serving: does it lose time to anything but decoding and the network, or memory?"""

from __future__ import annotations

import concurrent.futures
import io
import math
import multiprocessing
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import tensorflow as tf
from PIL import Image

from benchmarks.images import picture_files
from benchmarks.measure import Result, Work, compare, rate
from skincnn.classes import HAM10000
from skincnn.cli import common
from skincnn.config import Config, DataConfig, ModelConfig, TrainConfig
from skincnn.data.preprocess import read_image
from skincnn.errors import ConfigError
from skincnn.inference.ood import FeatureGaussian
from skincnn.lookup import look_up
from skincnn.model.classifier import POOLING_LAYER, build_classifier
from skincnn.serving.export import ExportSpec, read_rules
from skincnn.serving.network import Network, read_network, with_distance
from skincnn.serving.orientations import TURNS
from skincnn.serving.postprocessing import DEFAULT_POINT, DecisionRule
from skincnn.serving.predictor import find_patients, open_saved_model
from skincnn.serving.prefetch import answer_files
from skincnn.serving.runtimes import RUNTIMES, Ask, fixed_size, require
from skincnn.serving.saved_model import IMAGES_SIGNATURE, write_saved_model

CONFIG = Config(
    data=DataConfig(dataset="isic2018", image_size=160),
    model=ModelConfig(
        backbone="mobilenet", width_multiplier=0.75, weights="none", batch_norm_momentum=0.0
    ),
    train=TrainConfig(scenario="from_scratch"),
)
"""Of the network with random weights, which is that of the preset `mobilenet_160`."""
BATCH_SIZE = 32
SINGLE_PICTURES = 16
"""Asked about one after the other, on each side of a ratio."""
NUM_CALIBRATED = 64
REQUEST_SIDES = (64, 96, 128, 200)
MB = 1_000_000


@dataclass(frozen=True)
class Setting:
    """A network in every form that is measured.

    Attributes:
        network: The network.
        rules: What answers depend on besides it.
        saved_model: The folder of its SavedModel.
        paths: Files of pictures.
        requests: How many requests the server of `memory` answers.
    """

    network: Network
    rules: DecisionRule
    saved_model: Path
    paths: list[Path]
    requests: int

    @property
    def data(self) -> DataConfig:
        """How pictures are read."""
        return self.network.config.data

    @property
    def called(self) -> str:
        """The network's name and the side of its pictures."""
        return f"{self.network.config.model.backbone}, {self.data.image_size} px"


def run(
    model: Path | None,
    pictures: Path | None,
    num_images: int,
    requests: int,
    root: Path,
    only: Collection[str] = (),
) -> Iterator[Result]:
    """Yields each result as it is there.

    Args:
        model: The folder of an evaluated run; None for a network with random weights.
        pictures: A folder of JPEG files; None for synthetic ones.
        num_images: How many files each pass answers; files are repeated.
        requests: How many requests the server of `memory` answers.
        root: An empty folder for the files.
        only: Names of `BENCHMARKS`; all by default.

    Raises:
        ConfigError: There is no such benchmark or run, or packages are missing.
    """
    chosen = [look_up(BENCHMARKS, name, "--only") for name in only or BENCHMARKS]
    setting = prepare(model, picture_files(pictures, num_images), requests, root)
    for benchmark in chosen:
        yield from benchmark(setting)


def prepare(
    model: Path | None, files: Sequence[bytes], requests: int, root: Path
) -> Setting:
    """Writes the pictures and the SavedModel."""
    network, rules = _random() if model is None else _of_run(model)
    write_saved_model([network], TURNS[""], rules, root / "saved_model")
    paths = [root / f"{number:06d}.jpg" for number in range(len(files))]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    return Setting(network, rules, root / "saved_model", paths, requests)


def calls(setting: Setting) -> Iterator[Result]:
    """The SavedModel's signature of pixels against the network, compiled, on the same.

    The pictures are uint8 and have the network's size: both do all that there is to do
    between decoding and probabilities, one in TensorFlow's runtime from a file.
    """
    loaded = tf.saved_model.load(str(setting.saved_model))
    signature = loaded.signatures[IMAGES_SIGNATURE]
    keras_call = _keras_call(setting)
    images = tf.constant(_read(setting, BATCH_SIZE))
    for name, batches in _in_batches(images).items():
        yield compare(
            f"time of SavedModel / Keras compiled, {name} ({setting.called})",
            _asking(keras_call, batches),
            _asking(lambda batch: signature(images=batch)["probabilities"], batches),
            at_most=1.1,
        )


def whole_way(setting: Setting) -> Iterator[Result]:
    """Files to a table, as scripts/predict.py, against decoding and network overlapped.

    The yardstick decodes with all cores by training's own functions and has the next
    batches ready while the compiled network computes. It has no limits, reads no EXIF,
    and makes no table. The signature is then asked about all files in one batch.
    """
    predictor = open_saved_model(
        setting.saved_model, setting.rules, setting.data, synthetic=True, told=False
    )
    keras_call = _keras_call(setting)
    decoded = (
        tf.data.Dataset.from_tensor_slices([str(path) for path in setting.paths])
        .map(
            lambda path: read_image(tf.io.read_file(path), setting.data),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .batch(BATCH_SIZE)
        .prefetch(tf.data.AUTOTUNE)
    )
    contents = [path.read_bytes() for path in setting.paths]
    patients = find_patients(setting.paths, None)

    def overlapped() -> int:
        return sum(len(keras_call(batch).numpy()) for batch in decoded)

    def ours() -> int:
        answered = answer_files(predictor, setting.paths, BATCH_SIZE)
        return sum(len(batch.table) for batch in answered)

    def at_once() -> int:
        return len(predictor.ask(contents, patients)["status"])

    yield compare(
        f"files to table / decoding and network overlapped ({setting.called})",
        ours,
        overlapped,
        at_least=0.9,
    )
    yield compare(
        f"SavedModel, {len(contents)} files at once / decoding and network overlapped",
        at_once,
        overlapped,
    )


def copies(setting: Setting) -> Iterator[Result]:
    """The sizes of the copies, and their speed on pixels against the compiled network."""
    images = _read(setting, max(BATCH_SIZE, min(NUM_CALIBRATED, len(setting.paths))))
    pixels = images.astype(np.float32)
    model = fixed_size(setting.network.model, setting.data.image_size)
    asks, sizes = {}, {}
    for name, runtime in RUNTIMES.items():
        require(name, runtime)
        path = setting.saved_model.parent / f"copy{runtime.suffix}"
        runtime.write(model, {"images": pixels}, path)
        asks[name], sizes[name] = runtime.open(path), path.stat().st_size
    for name in ("litert_int8", "litert_float16"):
        yield Result(
            f"size of {name} / litert ({setting.called})",
            sizes[name] / sizes["litert"],
            at_most=0.3 if name == "litert_int8" else None,
        )
    keras_call = _keras_call(setting)
    whole = _in_batches(tf.constant(images[:BATCH_SIZE]))
    for (name, batches), parts in zip(
        _in_batches(pixels[:BATCH_SIZE]).items(), whole.values(), strict=True
    ):
        baseline = _asking(keras_call, parts)
        yield Result(f"Keras compiled, {name}", _rate_twice(baseline), "pictures/s")
        for copy, ask in asks.items():
            work = _asking(_logits_of(ask), batches)
            yield compare(f"{copy} / Keras compiled, {name}", work, baseline)


def memory(setting: Setting) -> Iterator[Result]:
    """What a server that answers single pictures holds more after its first tenth.

    It is a process that has loaded the SavedModel and answers through `serving_default`:
    small pictures of several sizes, and files that are none.
    """
    with concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=common.load_tensorflow
    ) as executor:
        first, last = executor.submit(
            answer_requests, setting.saved_model, setting.requests
        ).result()
    yield Result(
        f"server: memory after {setting.requests} requests beyond that after "
        f"{setting.requests // 10} ({first / MB:.0f} MB)",
        (last - first) / MB,
        "MB",
        at_most=50,
    )


BENCHMARKS: dict[str, Callable[[Setting], Iterator[Result]]] = {
    benchmark.__name__: benchmark for benchmark in (calls, whole_way, copies, memory)
}


def answer_requests(saved_model: Path, requests: int) -> tuple[int, int]:
    """Returns the memory of this process after a tenth of the requests and after all.

    Args:
        saved_model: The folder.
        requests: Ten or more.

    Returns:
        Resident bytes, twice.
    """
    loaded = tf.saved_model.load(str(saved_model))
    signature = loaded.signatures["serving_default"]
    files, process, held = request_files(), psutil.Process(), []
    for number in range(1, requests + 1):
        answers = signature(image_bytes=tf.constant([files[number % len(files)]]))
        {name: value.numpy() for name, value in answers.items()}
        if number in (requests // 10, requests):
            held.append(process.memory_info().rss)
    return held[0], held[1]


def request_files() -> list[bytes]:
    """Returns small pictures of several sizes and formats, and files that are none."""
    rng = np.random.default_rng(0)
    files = [b"", b"no picture"]
    for side in REQUEST_SIDES:
        pixels = rng.integers(0, 256, (side, side * 4 // 3, 3), np.uint8)
        for suffix in ("JPEG", "PNG"):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, suffix)
            files.append(file.getvalue())
    return [*files, files[-1][: len(files[-1]) // 2]]


def _random() -> tuple[Network, DecisionRule]:
    class_names = tuple(one.name for one in HAM10000)
    classifier = build_classifier(CONFIG.model, len(class_names))
    # Normalised by noise: else all would shrink to 0 on its way, which is not as fast.
    size = CONFIG.data.image_size
    noise = np.random.default_rng(0).uniform(0, 255, (8, size, size, 3))
    classifier(noise.astype(np.float32), training=True)
    features = classifier.get_layer(POOLING_LAYER).output.shape[-1]
    familiar = FeatureGaussian(np.zeros(features), np.eye(features))
    rules = DecisionRule(class_names, 1.0, DEFAULT_POINT, 0.5, math.inf)
    return Network(with_distance(classifier, familiar), CONFIG, {}), rules


def _of_run(workdir: Path) -> tuple[Network, DecisionRule]:
    network, rules = read_network(workdir), read_rules(ExportSpec(workdir=workdir))
    if network.config.model.clinical_metadata:
        raise ConfigError(
            f"--model must be a run that is told of no patients. Received: {workdir}."
        )
    return network, rules


def _keras_call(setting: Setting) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the network as a function of uint8 pictures of its size, compiled."""

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)])
    def call(images: tf.Tensor) -> tf.Tensor:
        outputs = setting.network.model(tf.cast(images, tf.float32), training=False)
        return tf.nn.softmax(outputs["logits"])

    return call


def _read(setting: Setting, count: int) -> np.ndarray:
    """Returns the first pictures as the network sees them, uint8."""
    paths = [setting.paths[number % len(setting.paths)] for number in range(count)]
    read = [read_image(tf.io.read_file(str(path)), setting.data) for path in paths]
    return np.stack(read)


def _in_batches(images: tf.Tensor | np.ndarray) -> dict[str, list[tf.Tensor | np.ndarray]]:
    """Returns pictures one by one and together, by what that is called."""
    singles = [images[number : number + 1] for number in range(SINGLE_PICTURES)]
    return {"one picture": singles, f"{len(images)} pictures": [images]}


def _asking(
    ask: Callable[[tf.Tensor], tf.Tensor], batches: Sequence[tf.Tensor | np.ndarray]
) -> Work:
    """Returns the work of answering batches one after the other."""
    return lambda: sum(len(np.asarray(ask(batch))) for batch in batches)


def _logits_of(ask: Ask) -> Callable[[np.ndarray], np.ndarray]:
    return lambda batch: ask({"images": batch})["logits"]


def _rate_twice(work: Work) -> float:
    """Returns the rate of some work, which is done once before."""
    work()
    return rate(work)
