"""What in a picture spoke for the answer that it was given, drawn over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import Image

from skincnn.clinical_metadata import encode_clinical_metadata
from skincnn.errors import ConfigError
from skincnn.evaluation.splits import load_model
from skincnn.files import replacing
from skincnn.inference.grad_cam import GradCam, overlay
from skincnn.inference.run_dir import read_run
from skincnn.serving.images import read_images

MAX_NAME = 100
"""Bytes of an image_id in the name of an explanation, which file systems let have 255."""


class Explainer:
    """A run's classifier, ready to be asked why."""

    def __init__(self, path: Path):
        """Loads it.

        Args:
            path: A run's folder, or its model.keras.

        Raises:
            ConfigError: It is another form of a model, which gives no feature maps.
            DataError: The file has changed.
        """
        workdir = path.parent if path.name == "model.keras" else path
        if not (workdir / "model.keras").is_file():
            raise ConfigError(
                "Grad-CAM needs the feature maps of a run's folder or model.keras. "
                f"Received: {path}."
            )
        metadata, self.config = read_run(workdir)
        self.class_names: list[str] = metadata["class_names"]
        self.grad_cam = GradCam(load_model(workdir, metadata))

    def explain(
        self,
        contents: Sequence[bytes | str],
        class_names: Sequence[str],
        patients: pd.DataFrame,
    ) -> list[Image.Image | None]:
        """Returns each picture beside itself under Grad-CAM's map of a class.

        Args:
            contents: Files; anything where no class is looked for.
            class_names: Of each picture, the class that is looked for; "" for none.
            patients: `CLINICAL_COLUMNS`, a row for each.

        Returns:
            Pictures as the model sees them, twice as wide; None where there is no class.
        """
        asked = [number for number, name in enumerate(class_names) if name]
        if not asked:
            return [None] * len(contents)
        files = tf.constant([contents[number] for number in asked], tf.string)
        images = read_images(files, self.config.data)[0].numpy()
        inputs = images
        if self.config.model.clinical_metadata:
            told = encode_clinical_metadata(patients.iloc[asked])
            inputs = {"images": images, "metadata": told}
        classes = np.array([self.class_names.index(class_names[n]) for n in asked])
        maps = self.grad_cam(inputs, classes)
        drawn: list[Image.Image | None] = [None] * len(contents)
        for number, image, heat in zip(asked, images, maps, strict=True):
            pair = np.concatenate([image, overlay(image, heat)], axis=1)
            drawn[number] = Image.fromarray(pair)
        return drawn


def write_explanations(
    folder: Path, table: pd.DataFrame, pictures: Sequence[Image.Image | None], first: int
) -> None:
    """Writes <number>_<image_id>_<class>.png for each picture that has one.

    Of a long image_id it is the beginning.

    Args:
        folder: Where to.
        table: Rows of `predictor.predict`.
        pictures: From `Explainer.explain`.
        first: The number of the first row, among all files.
    """
    for number, (row, picture) in enumerate(
        zip(table.itertuples(), pictures, strict=True), first
    ):
        if picture is not None:
            image_id = str(row.image_id).encode()[:MAX_NAME].decode(errors="ignore")
            name = f"{number:05d}_{image_id}_{row.class_name}.png"
            with replacing(folder / name) as temporary:
                picture.save(temporary, "PNG")
