"""A trained model in any format, and the images that it predicts."""

from __future__ import annotations

import functools
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from skincnn.api.data import PathLike
from skincnn.clinical_metadata import CLINICAL_COLUMNS, normalize_clinical_metadata
from skincnn.config.section import require_count
from skincnn.errors import ConfigError
from skincnn.paths import to_path
from skincnn.serving.predictor import Predictor, load_predictor
from skincnn.serving.prefetch import files_to_read, predict_sources, read_file
from skincnn.startup import own_settings
from tfds_ham10000.image_decoding import to_rgb
from tfds_ham10000.image_files import IMAGE_SUFFIXES, find_files, printable
from tfds_ham10000.records import join_first

Array = npt.NDArray[np.uint8]
Images = PathLike | Image.Image | Array | pd.DataFrame
"""A file, a directory of image files, a PIL image, an array of one or several images or of
names of files, or a table of files."""


class Model:
    """A trained model: the directory or model.keras of a run, an ensemble, or an export.

    An export is a SavedModel, or a LiteRT or ONNX file.
    """

    def __init__(self, path: PathLike):
        """Stores the path; the model is loaded when it is first used.

        Raises:
            ConfigError: `path` is a URL or not a path.
        """
        self._given = to_path(path)
        self._absolute = self._given.absolute()
        self._predictor: Predictor | None = None

    @property
    def path(self) -> Path:
        """The path as given, or absolute if the working directory has changed since."""
        is_same = self._given.absolute() == self._absolute
        return self._given if is_same else self._absolute

    def __repr__(self) -> str:
        """Returns, for example, `Run('runs/a')`."""
        return f"{type(self).__name__}({str(self.path)!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state for `pickle`, without the loaded model."""
        return {**vars(self), "_predictor": None}

    @property
    @own_settings()
    def predictor(self) -> Predictor:
        """The loaded model; see `skincnn.serving.predictor.Predictor`.

        Raises:
            ConfigError, DataError, OSError: See
                `skincnn.serving.predictor.load_predictor`.
        """
        if self._predictor is None:
            self._predictor = load_predictor(self.path)
        return self._predictor

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities.

        Raises:
            ConfigError, DataError: See `predictor`.
        """
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

        `skincnn predict --help` describes the columns. An unreadable image has a `status`
        other than "ok" and NaN instead of numbers; it is referred (if the table has the
        column `refer`, its value is True). `out_of_distribution` is NA for unreadable
        images, and for all images if OOD detection is switched off for the model. Not a
        medical device.

        Args:
            images: One of the following, or a list of them: a file, a directory (searched
                for image files), a PIL image (rotated and converted to sRGB like a file),
                or an array uint8 [height, width, 3] in 0..255. Alternatively, an array
                uint8 [num_images, height, width, 3] or of names of files, or a table with
                the column `file`. The table can also have the columns age, sex and
                localization, which are used unless `clinical_metadata` is given; if one of
                them is missing, its values count as unknown.
            clinical_metadata: A table with the columns age (in years), sex and
                localization, and one row per image, in the order of the images (those of a
                directory are sorted by path). Missing values count as unknown. By default,
                all values are unknown. Models that use only images ignore the values,
                except that invalid ones are errors.
            batch_size: Number of images that are predicted at a time, 1 or more.

        Raises:
            ConfigError: The path contains no model, the run was not evaluated, the metadata
                of an export are missing or invalid, an export requires another version of
                the preprocessing, a required package or custom module cannot be imported,
                there are no images, none of the given files exists, a path is a URL, an
                object is neither a path nor an image, a table does not have the required
                columns and rows, or `batch_size` is not valid.
            DataError: A file of the model is missing or damaged or has changed, an ensemble
                was evaluated again after its export, an age is not a number in 0..120, or a
                sex or a localization is not a known word.
        """
        require_count("batch_size", batch_size)
        given: object = images
        if isinstance(images, pd.DataFrame):
            if clinical_metadata is None and not set(CLINICAL_COLUMNS).isdisjoint(images):
                missing = [name for name in CLINICAL_COLUMNS if name not in images]
                clinical_metadata = images.assign(**dict.fromkeys(missing))
            given = _column_of_files(images)
        sources = list_images(given)
        rows = rows_of_metadata(clinical_metadata, len(sources))
        names = [Path(printable(path)) for path, _ in sources]
        reads = [functools.partial(read_image, *source) for source in sources]
        batches = predict_sources(self.predictor, names, reads, rows, batch_size)
        return pd.concat([batch.table for batch in batches], ignore_index=True)


def _column_of_files(table: pd.DataFrame) -> pd.Series[str]:
    if list(table).count("file") != 1:
        raise ConfigError(
            "A table of images must have one column `file`. Received the columns: "
            f"{', '.join(map(str, table))}."
        )
    return table["file"]


def rows_of_metadata(table: pd.DataFrame | None, count: int) -> pd.DataFrame:
    """Returns the `CLINICAL_COLUMNS` for `count` images, one row per image.

    All values are unknown if `table` is None.

    Raises:
        ConfigError: The table is not a `DataFrame`, one of the columns is missing or occurs
            more than once, or the number of rows is not `count`.
        DataError: A value is not valid; see `normalize_clinical_metadata`.
    """
    if table is None:
        table = pd.DataFrame(index=range(count), columns=list(CLINICAL_COLUMNS))
    if not isinstance(table, pd.DataFrame):
        raise ConfigError(
            "`clinical_metadata` must be a table (pandas.DataFrame). Received: "
            f"{type(table).__name__}."
        )
    counts = [list(table).count(name) for name in CLINICAL_COLUMNS]
    if set(counts) != {1} or len(table) != count:
        raise ConfigError(
            f"`clinical_metadata` must have the columns {', '.join(CLINICAL_COLUMNS)}, "
            f"each once, and {count} row(s), one per image. Received {len(table)} row(s) "
            f"with the columns {', '.join(map(str, table))}."
        )
    return normalize_clinical_metadata(table, "`clinical_metadata`")


def read_image(path: Path, pixels: Array | None) -> bytes | str:
    """Returns the content of an image file, or why it cannot be read.

    The arguments are from `list_images`. An image that is not in a file is encoded as PNG.
    """
    return read_file(path) if pixels is None else _to_png(pixels)


def list_images(images: object) -> list[tuple[Path, Array | None]]:
    """Returns a path and None for each image file; for other images, a name and the pixels.

    The pixels are uint8 [height, width, 3].

    Raises:
        ConfigError: There are no images, none of the given files exists, a path is a URL,
            or an object is neither a path nor an image.
    """
    item = "row" if isinstance(images, pd.Series) else "item"
    if isinstance(images, np.ndarray) and images.ndim in (1, 4):
        images = list(images)
    if isinstance(images, str | bytes | os.PathLike | Image.Image | np.ndarray):
        images = [images]
    if not isinstance(images, Iterable) or isinstance(images, Mapping | pd.DataFrame):
        raise ConfigError(
            "Expected files, directories, PIL images or arrays. Received: "
            f"{type(images).__name__}."
        )
    given = list(images)
    sources: list[tuple[Path, Array | None]] = []
    for number, image in enumerate(given):
        if isinstance(image, str | os.PathLike):
            path = to_path(image)
            files = files_to_read(find_files(path)) if path.is_dir() else [path]
            sources += [(file, None) for file in files]
        else:
            pixels = _to_pixels(image, f"{item} {number}, counted from 0")
            sources.append((Path(f"image_{len(sources)}"), pixels))
    if not any(x is not None or os.path.lexists(path) for path, x in sources):
        raise ConfigError(
            "Expected at least one image: files that exist (pathlib.Path.glob finds those "
            f"of a pattern), directories with {', '.join(IMAGE_SUFFIXES)} files, PIL "
            f"images or arrays. Received: {join_first(list(map(str, given))) or 'none'}."
        )
    return sources


def _to_pixels(image: object, where: str) -> Array:
    expected = "Expected a file, a PIL image or an array uint8 [height, width, 3] in 0..255"
    try:
        # The pixels of a file are converted in the same way.
        pixels = np.asarray(to_rgb(image) if isinstance(image, Image.Image) else image)
    except (OSError, SyntaxError, ValueError) as error:  # such as arrays of other shapes
        raise ConfigError(
            f"{expected}. Received: {type(image).__name__}, which cannot be converted "
            f"({error}; {where})."
        ) from error
    shape = pixels.shape
    if pixels.dtype != np.uint8 or len(shape) != 3 or shape[-1] != 3 or 0 in shape:
        received = f"{pixels.dtype} {list(shape)}" if shape else reprlib.repr(image)
        fix = "PIL.Image.open(io.BytesIO(content)), or os.fsdecode(name) for a name"
        hint = f" Use {fix}." if isinstance(image, bytes) else ""
        raise ConfigError(f"{expected}. Received: {received} ({where}).{hint}")
    return pixels


def _to_png(pixels: Array) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
