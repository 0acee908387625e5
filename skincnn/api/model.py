"""A trained model in any format, and the images that it predicts."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from skincnn.api.data import PathLike
from skincnn.clinical_metadata import CLINICAL_COLUMNS, normalize_clinical_metadata
from skincnn.errors import ConfigError
from skincnn.paths import to_path
from skincnn.serving.predictor import Predictor, load_predictor
from skincnn.serving.prefetch import predict_sources, read_file
from skincnn.startup import own_settings
from tfds_ham10000.image_files import find_files, printable

Array = npt.NDArray[np.uint8]
Images = PathLike | Image.Image | Array | pd.DataFrame
"""A file, a directory of image files, an image, an array of images, or a table of files."""


class Model:
    """A trained model: a run directory, or an export (SavedModel, LiteRT or ONNX)."""

    def __init__(self, path: PathLike):
        """Stores the path; the model is loaded when it is first used."""
        self.path = to_path(path)
        self._predictor: Predictor | None = None

    def __repr__(self) -> str:
        """Returns, for example, `Run('runs/a')`."""
        return f"{type(self).__name__}({str(self.path)!r})"

    @property
    @own_settings()
    def predictor(self) -> Predictor:
        """The loaded model; see `skincnn.serving.predictor.Predictor`."""
        if self._predictor is None:
            self._predictor = load_predictor(self.path)
        return self._predictor

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.predictor.rule.class_names

    @own_settings()
    def predict(
        self,
        images: Images | Sequence[Images],
        clinical_metadata: pd.DataFrame | None = None,
        *,
        batch_size: int = 32,
    ) -> pd.DataFrame:
        """Returns a table with one row per image: probabilities, decision, status.

        Unreadable images have a `status` other than "ok" and no numbers. The column
        `out_of_distribution` is NA if OOD detection is switched off for the model. All
        columns are described by `python scripts/predict.py --help`. Not a medical device.

        Args:
            images: One of the following, or a list of them: a file, a directory (searched
                for image files), a PIL image, or an array uint8 [height, width, 3] in
                0..255. Alternatively, an array [num_images, height, width, 3], or a table
                with a column `file` and, for a model with clinical metadata, the columns
                age, sex and localization.
            clinical_metadata: A table with the columns age, sex and localization, and one
                row per image, in their order. Missing values count as unknown.
            batch_size: Number of images that are predicted at a time.

        Raises:
            ConfigError: The path contains no model, the run was not evaluated, there are no
                images, or a table does not have the required columns and rows.
            DataError: A file of the model is missing or has changed, an age is not in
                0..120, or a sex or a localization is not a known word.
        """
        if isinstance(images, pd.DataFrame):
            if clinical_metadata is None and set(CLINICAL_COLUMNS) <= set(images):
                clinical_metadata = images
            images = _column_of_files(images)
        sources = list_images(images)
        rows = rows_of_metadata(clinical_metadata, len(sources))
        names = [Path(printable(path)) for path, _ in sources]
        reads = [functools.partial(read_image, *source) for source in sources]
        batches = predict_sources(self.predictor, names, reads, rows, batch_size)
        return pd.concat([batch.table for batch in batches], ignore_index=True)


def _column_of_files(table: pd.DataFrame) -> list[str]:
    if "file" not in table:
        raise ConfigError(
            "A table of images must have a column `file`. Received the columns: "
            f"{', '.join(map(str, table))}."
        )
    return table["file"].tolist()


def rows_of_metadata(table: pd.DataFrame | None, count: int) -> pd.DataFrame:
    """Returns the `CLINICAL_COLUMNS`, one row per image; unknown values without a table.

    Raises:
        ConfigError: The table lacks a column, or has another number of rows.
        DataError: A value is not valid; see `normalize_clinical_metadata`.
    """
    if table is None:
        table = pd.DataFrame(index=range(count), columns=list(CLINICAL_COLUMNS))
    if not set(CLINICAL_COLUMNS) <= set(table) or len(table) != count:
        raise ConfigError(
            f"`clinical_metadata` must have the columns {', '.join(CLINICAL_COLUMNS)} and "
            f"{count} row(s), one per image. Received {len(table)} row(s) with the columns "
            f"{', '.join(map(str, table))}."
        )
    return normalize_clinical_metadata(table, "`clinical_metadata`")


def read_image(path: Path, pixels: Array | None) -> bytes | str:
    """Returns the content of an image file, or why it cannot be read."""
    return read_file(path) if pixels is None else _to_png(pixels)


def list_images(images: object) -> list[tuple[Path, Array | None]]:
    """Returns a path and None for each image file, a name and the pixels for other images.

    Raises:
        ConfigError: There are no images, or an object is not an image.
    """
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = list(images)
    if isinstance(images, str | Path | Image.Image | np.ndarray):
        images = [images]
    if not isinstance(images, Iterable):
        raise ConfigError(
            "Expected files, directories, PIL images or arrays. Received: "
            f"{type(images).__name__}."
        )
    sources: list[tuple[Path, Array | None]] = []
    for image in images:
        if isinstance(image, str | Path):
            path = to_path(image)
            files = find_files(path).files if path.is_dir() else [path]
            sources += [(file, None) for file in files]
        else:
            sources.append((Path(f"image_{len(sources)}"), _to_pixels(image)))
    if not sources:
        raise ConfigError("Expected at least one image. Received: none.")
    return sources


def _to_pixels(image: object) -> Array:
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise ConfigError(
            "Expected images as uint8 [height, width, 3] in 0..255. Received: "
            f"{pixels.dtype} {list(pixels.shape)}."
        )
    return pixels


def _to_png(pixels: Array) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
