"""Grad-CAM overlays for image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import Image

from skincnn.clinical_metadata import encode_clinical_metadata
from skincnn.errors import ConfigError
from skincnn.files import replacing
from skincnn.inference.grad_cam import GradCam, overlay
from skincnn.inference.load import load_model
from skincnn.inference.run_dir import MODEL_FILE, read_run
from skincnn.reporting.templates import encode_png
from skincnn.serving.images import convert_file, read_images


class Explainer:
    """Explains the predictions of a run's classifier with Grad-CAM."""

    def __init__(self, path: Path):
        """Loads the classifier from a run directory or its model.keras.

        Raises:
            ConfigError: The path is neither a finished run nor its model.keras, or the
                architecture does not support Grad-CAM; see also `read_run` and
                `load_model`.
            DataError: The model file has changed or cannot be loaded.
            OSError: The model file is not readable.
        """
        workdir = path.parent if path.name == MODEL_FILE else path
        if not (workdir / MODEL_FILE).is_file():
            raise ConfigError(
                "Grad-CAM requires the feature maps of the Keras model. Expected a run "
                f"directory or its {MODEL_FILE}. Received: {path}."
            )
        info, self.config = read_run(workdir)
        self.class_names = info.class_names
        self.grad_cam = GradCam(load_model(workdir, info))
        # Compiled once, because each eager call would build a new graph, which takes
        # memory and a second.
        self._read = tf.function(
            lambda contents: read_images(contents, self.config.data, converted=True)[0],
            input_signature=[tf.TensorSpec((None,), tf.string)],
        )

    def explain(
        self,
        contents: Sequence[bytes | str],
        class_names: Sequence[str],
        clinical_metadata: pd.DataFrame,
    ) -> list[Image.Image | None]:
        """Returns for each file the model input beside the Grad-CAM overlay, or None.

        Args:
            contents: Content of each file, or the reason why it could not be read.
            class_names: Class to explain for each file. For "", the result is None; give ""
                for unreadable files, which would otherwise be explained as black images.
            clinical_metadata: Table of the `CLINICAL_COLUMNS`, one row per file.
        """
        pairs: list[Image.Image | None] = [None] * len(contents)
        explained = [index for index, name in enumerate(class_names) if name]
        if not explained:
            return pairs
        files = [convert_file(contents[index]) for index in explained]
        images = self._read(tf.constant(files, tf.string)).numpy()
        inputs = images
        if self.config.model.clinical_metadata:
            metadata = encode_clinical_metadata(clinical_metadata.iloc[explained])
            inputs = {"images": images, "metadata": metadata}
        classes = np.array([self.class_names.index(class_names[i]) for i in explained])
        maps = self.grad_cam(inputs, classes)
        for index, image, heatmap in zip(explained, images, maps, strict=True):
            pair = np.concatenate([image, overlay(image, heatmap)], axis=1)
            pairs[index] = Image.fromarray(pair)
        return pairs


def write_explanations(
    folder: Path, table: pd.DataFrame, images: Sequence[Image.Image | None], first: int
) -> None:
    """Writes the images to `folder`/<number>_<image_id>_<predicted_class>.png.

    None is skipped. The image_id is cut off after 50 characters. `images` is the result of
    `Explainer.explain` for the rows of `table`, which come from
    `serving.predictor.predict_files`. The rows are numbered from `first`.

    Raises:
        OSError: A file cannot be written.
    """
    for number, (row, image) in enumerate(
        zip(table.itertuples(), images, strict=True), first
    ):
        if image is not None:
            name = f"{number:05d}_{str(row.image_id)[:50]}_{row.predicted_class}.png"
            with replacing(folder / name) as temporary:
                temporary.write_bytes(encode_png(image))
