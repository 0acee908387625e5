"""Configuration of the images and their augmentation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, TypeAdapter

from skincnn.config.section import UnitInterval, require, section

NUM_FOLDS = 10
Folds = tuple[Annotated[int, Field(ge=0, lt=NUM_FOLDS)], ...]


@section("data")
class DataConfig:
    """Which images are read, and how they become batches."""

    dataset: str = "demo"
    """Dataset config of `tfds_ham10000`: demo, demo_tiny, isic2018, isic2018_256, folder,
    ...; see scripts/prepare_data.py --help."""
    image_size: Annotated[int, Field(ge=32)] = 96
    """Height and width in pixels to which each image is resized."""
    resize_mode: Literal["stretch", "crop", "pad"] = "stretch"
    """How an image that is not square becomes square. stretch: without keeping the aspect
    ratio; crop: by cutting out the central square; pad: by adding black borders."""
    crop_border: bool = False
    """Whether the dark frame of the dermatoscope is cropped first."""
    color_constancy: bool = False
    """Whether the color of the illumination is removed (shades of gray, Minkowski norm
    6)."""
    train_folds: Folds = (0, 1, 2, 3, 4, 5, 6, 7)
    """Training folds."""
    validation_folds: Folds = (8,)
    """Validation folds: they select the epoch, the temperature and the thresholds."""
    test_folds: Folds = (9,)
    """Held-out test folds: predicted after training, and used for no choice."""
    split_by: Literal["lesion", "image"] = "lesion"
    """What is assigned to folds. lesion: lesions, so that all images of a lesion are in the
    same fold; image: single images, the leaky protocol of many published scores. The report
    then states how many test images show a training lesion."""
    one_image_per_lesion: Literal["none", "train", "evaluation", "all"] = "none"
    """Splits with only one image of each lesion. none: no split; train: the training split;
    evaluation: validation and test; all: all three."""
    batch_size: PositiveInt = 32
    """Images per training step."""

    def __post_init__(self) -> None:
        splits = ("train_folds", "validation_folds", "test_folds")
        for name in splits:
            require(bool(getattr(self, name)), f"data.{name}", "not empty", ())
        folds = [fold for name in splits for fold in getattr(self, name)]
        require(
            len(set(folds)) == len(folds),
            "data.train_folds, data.validation_folds and data.test_folds",
            "disjoint (a fold that is used twice is a leak)",
            tuple(folds),
        )


@section("augment")
class AugmentConfig:
    """Random augmentation of the training images, computed on the device."""

    parts: tuple[str, ...] = ("flip", "quarter_turn", "rotate", "zoom", "light", "color")
    """Names of `AUGMENTATIONS`. Geometry (flip, quarter_turn, rotate, zoom, shift, shear)
    comes first, as one affine map; the others follow in the given order. A sensible order:
    hair, ruler, blur, sharpen, light, color, hue, erase."""
    magnitude: UnitInterval = 0.5
    """Scales all strengths below: at 0.5 they apply as given, at 0 nothing changes, at 1
    they are twice as large, up to their bounds."""
    orientation_share: UnitInterval = 1.0
    """`flip` and `quarter_turn` apply to this fraction of the images."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 30.0
    """`rotate` rotates by an angle from [-x, x] degrees."""
    zoom: UnitInterval = 0.2
    """`zoom` scales by exp(u), u from [-x, x]."""
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """`shift` moves by fractions of the side, each from [-x, x]."""
    shear_degrees: Annotated[float, Field(ge=0, le=45)] = 8.0
    """`shear` slants by an angle from [-x, x] degrees."""
    brightness: UnitInterval = 0.1
    """`light` adds a value from [-x, x] times 255."""
    contrast: UnitInterval = 0.2
    """`light` scales the distance to the image's mean by a factor from [1-x, 1+x]."""
    saturation: UnitInterval = 0.15
    """`color` scales the distance to gray by a factor from [1-x, 1+x]."""
    color_cast: UnitInterval = 0.05
    """`color` scales red, green and blue by one factor each from [1-x, 1+x]."""
    hue_degrees: Annotated[float, Field(ge=0, le=180)] = 4.0
    """`hue` rotates the hue by an angle from [-x, x] degrees."""
    blur: Annotated[float, Field(ge=0, le=3)] = 0.7
    """`blur` uses a Gaussian with a standard deviation from [0, x] pixels."""
    sharpness: Annotated[float, Field(ge=0, le=4)] = 0.5
    """`sharpen` adds a fraction from [0, x] of the difference to a slightly blurred
    image."""
    erase: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """`erase` hides a rectangle that covers a fraction from [0, x] of the area."""
    hairs: Annotated[int, Field(ge=0, le=30)] = 6
    """`hair` draws 0 to x hairs."""
    ruler_share: UnitInterval = 0.25
    """`ruler` draws the scale of a ruler on this fraction of the images."""
    mix: Literal["none", "mixup", "cutmix"] = "none"
    """How pairs of training images and their labels are mixed. none: no mixing; mixup:
    weighted mean; cutmix: a rectangle of one image replaces that of the other."""
    mix_alpha: Annotated[float, Field(ge=0, le=10)] = 0.2
    """The mixing weight is drawn from Beta(x, x). For ImageNet the authors of MixUp use
    0.2, those of CutMix 1."""

    def strength(self, name: str) -> float:
        """Returns the strength in the field `name`, scaled by the magnitude."""
        return min(AUGMENT_BOUNDS[name], 2 * self.magnitude * getattr(self, name))


AUGMENT_BOUNDS: dict[str, float] = {
    name: schema["maximum"]
    for name, schema in TypeAdapter(AugmentConfig).json_schema()["properties"].items()
    if "maximum" in schema and name != "magnitude"
}
"""The largest value of each strength, at any magnitude."""
