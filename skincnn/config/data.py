"""Configuration of the images and their augmentation."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter

from skincnn.config.section import PositiveFraction, UnitInterval, require, section

NUM_FOLDS = 10
FINAL_TEST_FOLD = 0
"""The fold that is kept for the score of a final model.

Scores on test folds become optimistic when many models are compared on them. Models may be
trained on this fold, but only runs with `DataConfig.final_test` are tested on it, and no
model is validated on it. This does not apply to a split by image.
"""
Folds = tuple[Annotated[int, Field(ge=0, lt=NUM_FOLDS)], ...]


@section("data")
class DataConfig:
    """The datasets, their splits, and the preprocessing of the images."""

    datasets: tuple[str, ...] = ("demo",)
    """Names of the datasets whose images are used together: published, synthetic or your
    own. The command `skincnn datasets` lists all of them. The classes are those of the
    first dataset."""
    label_maps: tuple[str, ...] = ()
    """Label maps as NAME=FILE: the name of a dataset, and a JSON file with the class of
    each of its labels, or null to leave the images out. In the first dataset, a label that
    is not in the file is a class of its own. In other datasets, there are defaults: a label
    with the name or a synonym of a class belongs to this class; if all classes are
    published ones, a published label belongs to the class that contains it, or to none; all
    other labels must be in the file. The key * stands for all labels that are not in the
    file and, except in the first dataset, have no default."""
    leave_out: str = ""
    """Source that is left out of training and validation: the name of one of the
    `datasets`, or a value of their column `dataset`, such as rosendahl in HAM10000. Its
    images in all folds of the run, except fold 0, are the test split; with `split_by`
    image, fold 0 is included. Empty for none."""
    image_size: Annotated[int, Field(ge=32)] = 96
    """Height and width of the preprocessed images in pixels."""
    resize_mode: Literal["stretch", "crop", "pad"] = "stretch"
    """How an image is made square. stretch: changes the aspect ratio; crop: keeps the
    central square; pad: adds black borders."""
    resize_method: Literal["bilinear", "nearest"] = "bilinear"
    """Interpolation of resizing. bilinear: linear, with antialiasing; nearest: the value of
    the nearest pixel."""
    crop_height: PositiveFraction = 1.0
    """Fraction of the height that is kept. The image is resized to image_size / crop_height
    rows, of which the central image_size rows are kept."""
    crop_width: PositiveFraction = 1.0
    """Fraction of the width that is kept, as for `crop_height`. For example, resizing to
    224x280 pixels (height x width) and a central crop of 224x224 pixels is 0.8."""
    crop_border: bool = False
    """Whether to crop the dark border of dermatoscopic images before resizing."""
    color_constancy: bool = False
    """Whether to remove the color cast of the light (shades of gray, Minkowski norm 6)."""
    train_folds: Folds = (0, 1, 2, 3, 4, 5, 6, 7)
    """Folds for training, each in 0..9."""
    validation_folds: Folds = (8,)
    """Folds for validation, on which the epoch, the calibration and the thresholds are
    chosen."""
    test_folds: Folds = (9,)
    """Held-out folds for testing after training. Nothing is chosen on these folds."""
    final_test: bool = False
    """Whether this run is the final test, with fold 0 as the test fold. Other runs are
    neither validated nor tested on fold 0, except with `split_by` image. Use
    `skincnn train --final-test` to set this field."""
    split_by: Literal["lesion", "image"] = "lesion"
    """What is assigned to folds. lesion: the groups of the dataset, so that all images of a
    lesion are in the same fold, and those of a patient if the dataset is grouped by
    patient; image: single images. A split by image causes leakage, as in many published
    studies; the report then states the share of test images that show a lesion of the
    training split."""
    one_image_per_lesion: Literal["none", "train", "evaluation", "all"] = "none"
    """Splits that contain only one image of each lesion. none: no split; train: the
    training split; evaluation: validation and test; all: all three splits. Requires a
    dataset in which the lesion of each image is known."""
    single_image_lesions: bool = False
    """Whether validation and test contain only lesions of which the dataset has a single
    image, as in some published protocols. They then share no lesion with the training
    split, even with `split_by` image. In HAM10000, fewer of these lesions are melanomas.
    Requires a dataset in which the lesion of each image is known."""
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the groups (patients, lesions or images, with their near-duplicates) of each
    class whose images are used for training, to measure how the scores depend on the amount
    of data; at least one group of each class. The groups of a smaller share are among those
    of a larger share."""
    batch_size: PositiveInt = 32
    """Number of images per training step, on all devices together."""

    def __post_init__(self) -> None:
        names = self.datasets
        unique = len(set(names)) == len(names)
        require(
            unique and bool(names), "data.datasets", "one or more different names", names
        )
        mapped = [entry.partition("=")[0] for entry in self.label_maps]
        require(
            len(set(mapped)) == len(mapped)
            and set(mapped) <= set(names)
            and all("=" in entry for entry in self.label_maps),
            "data.label_maps",
            "entries NAME=FILE, at most one for each of the names in `data.datasets`",
            self.label_maps,
        )
        splits = ("train_folds", "validation_folds", "test_folds")
        for name in splits:
            require(bool(getattr(self, name)), f"data.{name}", "non-empty", ())
        folds = [fold for name in splits for fold in getattr(self, name)]
        require(
            len(set(folds)) == len(folds),
            "data.train_folds, data.validation_folds and data.test_folds",
            "disjoint and without duplicates (a fold in two splits is leakage)",
            tuple(folds),
        )
        scored = (*self.validation_folds, *self.test_folds)
        require(
            self.final_test or self.split_by == "image" or FINAL_TEST_FOLD not in scored,
            "data.validation_folds and data.test_folds",
            f"without fold {FINAL_TEST_FOLD}, which is kept for the final test "
            "(`skincnn train --final-test`)",
            scored,
        )
        final = self.test_folds == (FINAL_TEST_FOLD,) and self.split_by == "lesion"
        require(
            final or not self.final_test,
            "data.final_test",
            f"False unless `data.test_folds` is {FINAL_TEST_FOLD} and `data.split_by` is "
            "lesion",
            self.final_test,
        )
        require(
            not (self.final_test and self.leave_out),
            "data.leave_out",
            "empty in a final test, because a source that is left out is tested on all "
            "folds except fold 0",
            self.leave_out,
        )

    def for_final_test(self) -> DataConfig:
        """Returns a copy that is tested on fold 0, and trained also on the test folds.

        Raises:
            ConfigError: `split_by` is image, or `leave_out` is given.
        """
        train_folds = {*self.train_folds, *self.test_folds} - {FINAL_TEST_FOLD}
        return dataclasses.replace(
            self,
            train_folds=tuple(sorted(train_folds)),
            test_folds=(FINAL_TEST_FOLD,),
            final_test=True,
        )


@section("augment")
class AugmentConfig:
    """Random augmentation of the training images, computed on the device."""

    parts: tuple[str, ...] = ("flip", "quarter_turn", "rotate", "zoom", "light", "color")
    """Augmentations to apply. Geometric augmentations (flip, flip_vertical, transpose,
    quarter_turn, rotate, zoom, crop, shift, shear) are applied first, as one affine
    transform; the others follow in the given order. A sensible order is hair, ruler, blur,
    sharpen, light, color, hue, jitter, erase. Layers of Keras, such as
    `keras.layers:RandomZoom(0.2)`, and custom ones, `module:function`, are applied
    last (docs/guides/extending.md)."""
    choose: Literal["all", "one"] = "all"
    """Which of the `parts` are applied to an image. all: all of them; one: one of them,
    drawn at random."""
    border: Literal["reflect", "black"] = "reflect"
    """What geometric augmentations show beyond the border of an image. reflect: the mirror
    image; black: black pixels."""
    magnitude: UnitInterval = 0.5
    """All strengths below are multiplied by 2 * magnitude, up to the maximum of each
    strength. 0 for no augmentation and no mixing, 0.5 for the strengths as given, 1 for
    twice the strengths."""
    orientation_share: UnitInterval = 1.0
    """`quarter_turn`: probability that one of the four rotations (including 0 degrees) is
    drawn; `flip`, `flip_vertical`, `transpose`: each is applied with half this
    probability."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 30.0
    """`rotate`: maximum angle in degrees, in either direction."""
    zoom: UnitInterval = 0.2
    """`zoom`: images are scaled by exp(u), where u is uniform in [-zoom, zoom]."""
    crop: UnitInterval = 0.2
    """`crop`: maximum fraction of the height and of the width that is cut off, at a random
    position."""
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """`shift`: maximum translation along each axis, as a fraction of the longer side."""
    shear_degrees: Annotated[float, Field(ge=0, le=45)] = 8.0
    """`shear`: maximum angle in degrees, in either direction."""
    brightness: UnitInterval = 0.1
    """`light`: maximum change of the brightness, as a fraction of 255; `jitter`: maximum
    relative change of the brightness."""
    contrast: UnitInterval = 0.2
    """`light`, `jitter`: maximum relative change of the difference from the image mean."""
    saturation: UnitInterval = 0.15
    """`color`, `jitter`: maximum relative change of the difference from gray."""
    color_cast: UnitInterval = 0.05
    """`color`: maximum relative change of each color channel."""
    hue_degrees: Annotated[float, Field(ge=0, le=180)] = 4.0
    """`hue`, `jitter`: maximum rotation of the hue in degrees, in either direction."""
    blur: Annotated[float, Field(ge=0, le=5)] = 0.7
    """`blur`: maximum standard deviation of the Gaussian in pixels."""
    blur_kernel: tuple[NonNegativeInt, NonNegativeInt] = (0, 0)
    """`blur`: height and width of the kernel in pixels, to which the Gaussian is truncated;
    odd, or 0 for three times the maximum standard deviation on either side."""
    sharpness: Annotated[float, Field(ge=0, le=4)] = 0.5
    """`sharpen`: maximum amount of unsharp masking. The difference between the image and a
    slightly blurred image is multiplied by the amount and added to the image."""
    erase: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """`erase`: maximum fraction of the image that the erased rectangle covers."""
    hairs: Annotated[int, Field(ge=0, le=30)] = 6
    """`hair`: maximum number of hairs per image."""
    ruler_share: UnitInterval = 0.25
    """`ruler`: probability with which a ruler is drawn on an image."""
    mix: Literal["none", "mixup", "cutmix"] = "none"
    """How pairs of training images and their labels are mixed. none: no mixing; mixup:
    weighted mean; cutmix: a rectangle of one image is replaced by that of the other."""
    mix_alpha: Annotated[float, Field(ge=0, le=10)] = 0.2
    """Parameter a of the mixing weights x and 1 - x, where x is drawn from Beta(a, a). An
    image gets the larger weight, and its partner the smaller one. 0 for no mixing. On
    ImageNet, the authors of MixUp use 0.2, and those of CutMix use 1."""

    def __post_init__(self) -> None:
        valid = all(size == 0 or size % 2 for size in self.blur_kernel)
        require(
            valid, "augment.blur_kernel", "two numbers, each odd or 0", self.blur_kernel
        )

    def strength(self, name: str) -> float:
        """Returns the field `name` times 2 * magnitude, at most `AUGMENT_BOUNDS[name]`."""
        return min(AUGMENT_BOUNDS[name], 2 * self.magnitude * getattr(self, name))


AUGMENT_BOUNDS: dict[str, float] = {
    name: schema["maximum"]
    for name, schema in TypeAdapter(AugmentConfig).json_schema()["properties"].items()
    if "maximum" in schema and name != "magnitude"
}
"""Maximum of each strength, at any magnitude, by the name of the field."""
