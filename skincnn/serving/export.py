"""The SavedModel: picture files in, named probabilities out."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from skincnn import classes
from skincnn.config import Config
from skincnn.data import datasets, pipeline
from skincnn.data.preprocess import preprocess, preprocessing_fields, read_image
from skincnn.errors import DataError
from skincnn.evaluation.folder import read_run
from skincnn.evaluation.predictions import arrays, read_predictions
from skincnn.evaluation.runs import load_model
from skincnn.files import write_json
from skincnn.patient import METADATA_FIELDS, REGION_OF, SEXES, UNKNOWN
from skincnn.serving.patients import SIGNATURE as PATIENT_INPUTS
from skincnn.serving.patients import encode

NUM_CHECKED = 20
TOLERANCE = 1e-3
MODEL_NAME = "skincnn"


def export_saved_model(workdir: Path, data_dir: Path | None = None) -> Path:
    """Writes export/skincnn/<next version> and returns it.

    The folder is written under another name, loaded again, and compared with
    predictions/test.csv on pictures of the test fold; only then does it get its version.
    Where Keras has another backend, a process with TensorFlow does it.

    Args:
        workdir: The folder of an evaluated run.
        data_dir: Where TFDS keeps built datasets.

    Raises:
        ConfigError: The folder holds no finished run.
        DataError: The exported model does not give the probabilities that were
            evaluated.
    """
    metadata, config = read_run(workdir)
    if keras.backend.backend() != "tensorflow":
        return _export_by_tensorflow(workdir, data_dir)
    names = metadata["class_names"]
    parent = workdir / "export" / MODEL_NAME
    parent.mkdir(parents=True, exist_ok=True)
    temporary = parent / f".tmp-{os.getpid()}"
    try:
        model = load_model(workdir, metadata)
        _write(model, names, config, temporary)
        difference = _check(temporary, workdir, config, names, data_dir)
        extra = temporary / "assets.extra"
        extra.mkdir()
        write_json(
            extra / "metadata.json",
            {
                "class_names": names,
                "made_up": metadata["made_up"],
                "dataset": metadata["dataset"],
                "preprocessing": {
                    "decode": "JPEG, PNG, GIF, BMP or WebP to RGB, accurate inverse DCT",
                    "resize": "bilinear, antialiased, uint8",
                    "stored_longest_side": metadata["stored_longest_side"],
                    **preprocessing_fields(config.data),
                },
                **_describe_inputs(config.model.metadata),
                "sha256": metadata["sha256"],
                "largest_difference": difference,
                "not_a_medical_device": True,
            },
        )
        return _rename_to_next_version(temporary, parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _export_by_tensorflow(workdir: Path, data_dir: Path | None) -> Path:
    """Exports in a process whose Keras runs on TensorFlow, as the model's graph must."""
    # The GPU, whose memory this process may hold, is not needed.
    other = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
    before = dict(os.environ)
    os.environ.update(other)
    try:
        with concurrent.futures.ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn")
        ) as executor:
            return executor.submit(export_saved_model, workdir, data_dir).result()
    finally:
        for name in other:
            os.environ.pop(name)
        os.environ.update(before)


def find_saved_model(workdir: Path) -> Path | None:
    """Returns the newest version that was exported of a run's model, if there is one."""
    metadata, _ = read_run(workdir)
    parent = workdir / "export" / MODEL_NAME
    for version in sorted(_versions(parent), reverse=True):
        path = parent / str(version)
        found = json.loads((path / "assets.extra" / "metadata.json").read_text())
        if found["sha256"] == metadata["sha256"]:
            return path
    return None


def _write(model: keras.Model, names: Sequence[str], config: Config, path: Path) -> None:
    class_names = tf.constant(list(names))
    # NaN where it is not known of a class: then no sum of probabilities tells it.
    is_malignant = tf.constant(
        [
            np.nan if lesion.malignant is None else float(lesion.malignant)
            for lesion in classes.describe(names).values()
        ]
    )

    def answer(images: tf.Tensor, patients: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        inputs: Any = tf.cast(images, tf.float32)
        if patients:
            inputs = {"images": inputs, "metadata": encode(*patients)}
        # The logits of `training=False`: a bare call would run dropout.
        logits = model(inputs, training=False)
        probabilities = tf.nn.softmax(logits)
        count = tf.shape(probabilities)[0]
        return {
            "probabilities": probabilities,
            "class_names": tf.tile(class_names[None], (count, 1)),
            "class_name": tf.gather(class_names, tf.argmax(probabilities, axis=-1)),
            "malignant_probability": tf.linalg.matvec(probabilities, is_malignant),
        }

    pictures = tf.TensorSpec((config.data.image_size,) * 2 + (3,), tf.uint8)

    def from_bytes(image_bytes: tf.Tensor, *patients: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.map_fn(
            lambda content: read_image(content, config.data),
            image_bytes,
            fn_output_signature=pictures,
        )
        return answer(images, patients)

    def from_images(images: tf.Tensor, *patients: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.map_fn(
            lambda image: preprocess(image, config.data),
            images,
            fn_output_signature=pictures,
        )
        return answer(images, patients)

    patients = PATIENT_INPUTS if config.model.metadata else ()
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serving_default",
        from_bytes,
        input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes"), *patients],
    )
    archive.add_endpoint(
        "images",
        from_images,
        input_signature=[
            tf.TensorSpec((None, None, None, 3), tf.uint8, name="images"),
            *patients,
        ],
    )
    archive.write_out(str(path), verbose=False)


def _describe_inputs(metadata: bool) -> dict[str, Any]:
    """Returns what the signatures take, and how a patient is encoded in the graph."""
    inputs = {
        "image_bytes": "string [batch]: files of pictures (signature serving_default)",
        "images": "uint8 [batch, height, width, 3]: pixels (signature images)",
    }
    if not metadata:
        return {"inputs": inputs}
    return {
        "inputs": {
            **inputs,
            "age": "float32 [batch]: years; NaN where it is not known",
            "sex": "string [batch]: words of the vocabulary; any other is refused",
            "localization": "string [batch]: words of the vocabulary, likewise",
        },
        "metadata_fields": METADATA_FIELDS,
        "vocabularies": {
            "sex": [*SEXES, UNKNOWN, ""],
            "localization": [*REGION_OF, UNKNOWN, ""],
        },
    }


def _check(
    saved_model: Path,
    workdir: Path,
    config: Config,
    names: Sequence[str],
    data_dir: Path | None,
) -> float:
    """Returns the largest difference in probability on pictures of the test fold."""
    builder = datasets.open_dataset(config.data.dataset, data_dir)
    checked = read_predictions(workdir / "predictions" / "test.csv").head(NUM_CHECKED)
    contents = pipeline.read_files(builder, checked)
    expected = arrays(checked, names)[1]
    # Held by a name: the signature alone does not keep the loaded model alive.
    loaded = tf.saved_model.load(str(saved_model))
    patients = PATIENT_INPUTS if config.model.metadata else ()
    served = loaded.signatures["serving_default"](
        image_bytes=tf.constant(contents),
        **{spec.name: tf.constant(checked[spec.name], spec.dtype) for spec in patients},
    )
    difference = float(np.abs(served["probabilities"].numpy() - expected).max())
    if not difference <= TOLERANCE:
        raise DataError(
            f"The exported model differs from predictions/test.csv by {difference:.2g} "
            f"in probability. Expected at most {TOLERANCE}. Evaluate the run again."
        )
    return difference


def _rename_to_next_version(temporary: Path, parent: Path) -> Path:
    while True:
        target = parent / str(max(_versions(parent), default=0) + 1)
        try:
            # A rename onto a folder that is not empty fails: no version is overwritten.
            return temporary.rename(target)
        except OSError:
            if not target.exists():
                raise


def _versions(parent: Path) -> list[int]:
    return [int(path.name) for path in parent.glob("*") if path.name.isdigit()]
