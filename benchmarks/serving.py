"""Benchmarks of serving: speed relative to simple baselines, model size, memory growth."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import tensorflow as tf
from PIL import Image

from benchmarks.measure import Result, Work, compare, in_new_process, rate
from skincnn.classes import HAM10000
from skincnn.config import Config, DataConfig, ModelConfig, TrainConfig
from skincnn.data.preprocess import read_image
from skincnn.errors import ConfigError
from skincnn.inference.ood import (
    BlockGaussian,
    FeatureGaussian,
    inner_blocks,
)
from skincnn.inference.predict import with_features
from skincnn.metrics.calibration import CalibrationMap
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.model.classifier import build_classifier
from skincnn.serving.export_spec import ExportSpec, read_rule
from skincnn.serving.images import read_images
from skincnn.serving.network import Network, build_network, load_network
from skincnn.serving.predictor import Predictor, converting_files
from skincnn.serving.prefetch import predict_batches
from skincnn.serving.runtimes import RUNTIMES, Infer, find_runtime, with_fixed_size
from skincnn.serving.saved_model import SIGNATURE, open_saved_model, write_saved_model
from skincnn.serving.tables import select_clinical_metadata

CONFIG = Config(
    data=DataConfig(datasets=("isic2018",), image_size=160),
    model=ModelConfig(
        backbone="mobilenet", width_multiplier=0.75, weights="none", batch_norm_momentum=0.0
    ),
    train=TrainConfig(scenario="from_scratch"),
)
"""The network of the preset `mobilenet_160` with random weights."""
BATCH_SIZE = 32
SINGLE_IMAGES = 16
"""Number of one-image batches per measurement."""
NUM_CALIBRATION = 64
"""Maximum number of images for the calibration of the int8 conversion."""
REQUEST_SIDES = (64, 96, 128, 200)
"""Heights of the images of `request_files`, in pixels."""
MB = 1_000_000


@dataclass(frozen=True)
class Setting:
    """The network to measure, its SavedModel and the images."""

    network: Network
    rule: DecisionRule
    saved_model: Path  # the directory
    paths: list[Path]  # image files
    requests: int  # number of requests to the server in `memory`

    @property
    def data(self) -> DataConfig:
        """The data configuration of the network."""
        return self.network.config.data

    @property
    def description(self) -> str:
        """The name of the backbone and the image size."""
        return f"{self.network.config.model.backbone}, {self.data.image_size} px"


def prepare(
    model: Path | None, files: Sequence[bytes], requests: int, root: Path
) -> Setting:
    """Writes the images and the SavedModel of the network to `root`.

    `model` is the directory of a run; if it is None, the network has random weights.

    Raises:
        ConfigError: The run is not finished, not evaluated, or uses clinical metadata.
        DataError: The model file has changed or cannot be loaded.
    """
    network, rule = _random_network() if model is None else _load_run(model)
    write_saved_model([network], rule, root / "saved_model")
    paths = [root / f"{number:06d}.jpg" for number in range(len(files))]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    return Setting(network, rule, root / "saved_model", paths, requests)


def signature(setting: Setting) -> Iterator[Result]:
    """Compares the SavedModel with the compiled Keras model.

    Both map PNG files of the input size to probabilities, and decode the files in the same
    way. The baseline does not check their sizes or read EXIF data.
    """
    loaded = tf.saved_model.load(str(setting.saved_model))
    serve = loaded.signatures[SIGNATURE]
    keras_call = _keras_call(setting)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def read(contents: tf.Tensor) -> tf.Tensor:
        return read_images(contents, setting.data, converted=True)[0]

    images = _read(setting, BATCH_SIZE)
    files = tf.stack([tf.io.encode_png(image) for image in images])
    for name, batches in _in_batches(files).items():
        yield compare(
            f"time of SavedModel / Keras compiled, {name} ({setting.description})",
            _predict_all(lambda batch: keras_call(read(batch)), batches),
            _predict_all(lambda batch: serve(image_bytes=batch)["probabilities"], batches),
            at_most=1.1,
        )


def end_to_end(setting: Setting) -> Iterator[Result]:
    """Compares prediction, from files to a table, with decoding and the network alone.

    Files are converted and predicted as in `skincnn predict`. The baseline decodes with
    `read_image`, as in training, on all cores while the compiled network predicts. The
    baseline does not convert files, check their sizes, read EXIF data or build a table. In
    the second result, the SavedModel predicts all files as one batch.
    """
    predict = converting_files(
        open_saved_model(setting.saved_model, setting.rule.class_names)
    )
    predictor = Predictor("saved_model", setting.rule, setting.data, True, False, predict)
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
    metadata = select_clinical_metadata(setting.paths, None)

    def overlapped() -> int:
        return sum(len(keras_call(batch).numpy()) for batch in decoded)

    def predict_files() -> int:
        batches = predict_batches(predictor, setting.paths, BATCH_SIZE)
        return sum(len(batch.table) for batch in batches)

    def predict_in_one_batch() -> int:
        return len(predictor.predict(contents, metadata)["status"])

    yield compare(
        f"files to table / decoding and network overlapped ({setting.description})",
        predict_files,
        overlapped,
        at_least=0.9,
    )
    yield compare(
        f"SavedModel, {len(contents)} files at once / decoding and network overlapped",
        predict_in_one_batch,
        overlapped,
    )


def conversions(setting: Setting) -> Iterator[Result]:
    """Measures the sizes of LiteRT models, and the speed of LiteRT and ONNX models.

    The sizes of the int8 and float16 LiteRT models are relative to the float32 model. The
    speed of all models is relative to Keras.
    """
    images = _read(setting, max(BATCH_SIZE, min(NUM_CALIBRATION, len(setting.paths))))
    pixels = images.astype(np.float32)
    network, size = setting.network.model, setting.data.image_size
    converted, sizes = {}, {}
    for name in RUNTIMES:
        runtime = find_runtime(name)
        limit = setting.rule.max_distance if runtime.detects_ood else None
        rule = setting.rule.model_copy(update={"max_distance": limit})
        model = with_fixed_size(network, size, rule)
        path = setting.saved_model.parent / f"model{runtime.suffix}"
        runtime.write(model, {"images": pixels}, path)
        converted[name], sizes[name] = runtime.open(path), path.stat().st_size
    for name in ("litert_int8", "litert_float16"):
        yield Result(
            f"size of {name} / litert ({setting.description})",
            sizes[name] / sizes["litert"],
            at_most=0.3 if name == "litert_int8" else None,
        )
    keras_call = _keras_call(setting)
    keras_batches = _in_batches(tf.constant(images[:BATCH_SIZE]))
    for name, batches in _in_batches(pixels[:BATCH_SIZE]).items():
        baseline = _predict_all(keras_call, keras_batches[name])
        baseline()  # the first call compiles
        yield Result(f"Keras compiled, {name}", rate(baseline), "images/s")
        for runtime_name, predict in converted.items():
            work = _predict_all(_logits_of(predict), batches)
            yield compare(f"{runtime_name} / Keras compiled, {name}", work, baseline)


def memory(setting: Setting) -> Iterator[Result]:
    """Measures how much the memory of a server grows after the first tenth of requests.

    The server is a process that loads the SavedModel and calls `serving_default` with one
    file at a time: small images of several sizes, and invalid files.
    """
    first, last = in_new_process(handle_requests, setting.saved_model, setting.requests)
    yield Result(
        f"server: growth of memory from request {setting.requests // 10} "
        f"({first / MB:.0f} MB) to request {setting.requests}",
        (last - first) / MB,
        "MB",
        at_most=50,
    )


BENCHMARKS: dict[str, Callable[[Setting], Iterator[Result]]] = {
    "signature": signature,
    "end_to_end": end_to_end,
    "conversions": conversions,
    "memory": memory,
}


def handle_requests(saved_model: Path, requests: int) -> tuple[int, int]:
    """Returns the resident memory in bytes after a tenth and after all of the requests."""
    loaded = tf.saved_model.load(str(saved_model))
    serve = loaded.signatures[SIGNATURE]
    files, process, resident = request_files(), psutil.Process(), []
    for number in range(1, requests + 1):
        outputs = serve(image_bytes=tf.constant([files[number % len(files)]]))
        {name: value.numpy() for name, value in outputs.items()}
        if number in (requests // 10, requests):
            resident.append(process.memory_info().rss)
    return resident[0], resident[1]


def request_files() -> list[bytes]:
    """Returns small images of several sizes and formats, and three invalid files."""
    rng = np.random.default_rng(0)
    files = [b"", b"not an image"]
    for side in REQUEST_SIDES:
        pixels = rng.integers(0, 256, (side, side * 4 // 3, 3), np.uint8)
        for suffix in ("JPEG", "PNG"):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, suffix)
            files.append(file.getvalue())
    return [*files, files[-1][: len(files[-1]) // 2]]


def _random_network() -> tuple[Network, DecisionRule]:
    class_names = tuple(lesion.name for lesion in HAM10000)
    classifier = build_classifier(CONFIG.model, len(class_names))
    # A forward pass in training mode sets the statistics of BatchNorm. With the initial
    # statistics, activations would vanish, which changes the speed.
    size = CONFIG.data.image_size
    noise = np.random.default_rng(0).uniform(0, 255, (8, size, size, 3))
    classifier(noise.astype(np.float32), training=True)
    _, *features = with_features(classifier).outputs
    sizes = [block.shape[-1] for block in inner_blocks(features)]
    gaussian = FeatureGaussian(
        tuple(
            BlockGaussian(np.zeros(n, "float32"), np.eye(n, dtype="float32")) for n in sizes
        )
    )
    rule = DecisionRule(
        class_names=class_names,
        calibration_map=CalibrationMap(temperature=1.0, bias=(0.0,) * len(class_names)),
        threshold=0.5,
        max_distance=math.inf,
        set_thresholds=(0.1,) * len(class_names),
    )
    return Network(build_network(classifier, gaussian), CONFIG), rule


def _load_run(workdir: Path) -> tuple[Network, DecisionRule]:
    network, rule = load_network(workdir), read_rule(ExportSpec(workdir=workdir))
    if network.config.model.clinical_metadata:
        raise ConfigError(
            f"--model must be a run without `model.clinical_metadata`. Received: {workdir}."
        )
    return network, rule


def _keras_call(setting: Setting) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the compiled network, a function from uint8 images to probabilities."""

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)])
    def call(images: tf.Tensor) -> tf.Tensor:
        inputs = {"images": tf.cast(images, tf.float32)}
        outputs = setting.network.model(inputs, training=False)
        return tf.nn.softmax(outputs["logits"])

    return call


def _read(setting: Setting, count: int) -> np.ndarray:
    """Returns `count` preprocessed images, uint8 [count, image_size, image_size, 3]."""
    paths = [setting.paths[number % len(setting.paths)] for number in range(count)]
    return np.stack(
        [read_image(tf.io.read_file(str(path)), setting.data) for path in paths]
    )


def _in_batches(images: tf.Tensor | np.ndarray) -> dict[str, list[tf.Tensor | np.ndarray]]:
    """Returns one-image batches, and one batch of all images, by description."""
    singles = [images[number : number + 1] for number in range(SINGLE_IMAGES)]
    return {"one image": singles, f"{len(images)} images": [images]}


def _predict_all(
    predict: Callable[[tf.Tensor], tf.Tensor], batches: Sequence[tf.Tensor | np.ndarray]
) -> Work:
    """Returns a function that predicts batches and returns the number of images."""
    return lambda: sum(len(np.asarray(predict(batch))) for batch in batches)


def _logits_of(run: Infer) -> Callable[[np.ndarray], np.ndarray]:
    return lambda batch: run({"images": batch})["logits"]
