"""Configuration of the network, the loss, the optimizer and the training stages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from skincnn.config.section import (
    Fraction,
    OpenInterval,
    PositiveFraction,
    UnitInterval,
    require,
    section,
)

Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]


@section("model")
class ModelConfig:
    """The classifier: a backbone, global pooling, dropout and a linear head."""

    backbone: str = "mobilenet_v2"
    """Name of `BACKBONES`, or `package.module:function` for your own backbone; see
    `find_backbone`."""
    width_multiplier: PositiveFloat = 1.0
    """Width multiplier of the backbone (alpha of Keras Applications), if it has one."""
    weights: str = "imagenet"
    """Initial weights of the backbone. imagenet: pretrained; none: random; otherwise the
    path of a weights file."""
    dropout: Fraction = 0.2
    """Dropout rate of the pooled features."""
    batch_norm: Literal["train", "frozen", "frozen_statistics"] = "train"
    """BatchNorm in the trainable blocks of the backbone. train: uses the statistics of the
    batch; frozen: keeps its statistics and weights; frozen_statistics: trains only scale
    and shift. Both frozen modes scored lower than `train` (docs/results.md)."""
    batch_norm_momentum: Fraction = 0.99
    """Momentum of the moving statistics of BatchNorm."""
    clinical_metadata: bool = False
    """Whether age, sex and anatomical site are additional inputs of the model."""


@section("imbalance")
class ImbalanceConfig:
    """How training handles unequal class frequencies."""

    strategy: str = "class_weights"
    """Name of `STRATEGIES`. none: no balancing; class_weights: rare classes weigh more in
    the loss; effective_number_weights: class_weights by the effective number of images;
    logit_adjusted: class priors are added to the logits in the loss; focal: easy images
    weigh less; class_balanced_focal: focal with effective_number_weights; ldam: larger
    margins for rare classes; balanced_sampling: all classes are drawn equally often;
    square_root_sampling: classes are drawn in proportion to the square root of their size;
    effective_number_sampling: images are drawn in proportion to effective_number_weights;
    oversampling: images of rare classes are replicated; weights_and_sampling: class_weights
    and balanced_sampling at once."""
    power: UnitInterval = 0.75
    """`class_weights` weights a class by (1 / its images) ** power, `logit_adjusted` adds
    power * log(frequency of the class) to the logits: 0 for none, 1 for full
    balancing."""
    beta: Fraction = 0.999
    """`effective_number_*`, `class_balanced_focal`, `ldam`: values closer to 1 balance the
    classes more; 0 for no balancing."""
    ratio: PositiveFraction = 1.0
    """`oversampling` replicates images until each class has this fraction of the largest
    class; epochs become longer."""
    gamma: NonNegativeFloat = 2.0
    """`focal`, `class_balanced_focal`: an image whose class has probability p is weighted
    by (1 - p) ** gamma; 0 for equal weights."""
    margin: NonNegativeFloat = 0.5
    """`ldam`: margin of the rarest class, in logits."""
    drw_start: Fraction = 0.8
    """`ldam`: fraction of `train.epochs` after which rare classes weigh more (deferred
    re-weighting)."""


@section("loss")
class LossConfig:
    """Options of the loss that every `imbalance.strategy` uses."""

    label_smoothing: Fraction = 0.0
    """Fraction of each label that is spread evenly over all classes."""


@section("optimizer")
class OptimizerConfig:
    """The optimizer, the learning-rate schedule, and the averaging of the weights."""

    name: str = "adamw"
    """Name of `OPTIMIZERS`. sgd: gradient descent with momentum; adam: adaptive rates per
    weight; adamw: adam with decoupled weight decay; lion: sign of the momentum."""
    schedule: str = "cosine"
    """Name of `SCHEDULES`, after the warm-up. constant: no decay; step: drops at
    `milestones`; cosine: half a cosine to 1/100 of the peak rate; one_cycle: half a cosine
    up from 1/25 of the peak, another down to 1/100,000."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate of the stage that trains all layers."""
    head_learning_rate: PositiveFloat = 3e-3
    """Peak learning rate of the stage that trains only the head."""
    warmup_epochs: NonNegativeFloat = 0.5
    """Epochs of linear warm-up; `one_cycle` uses `warmup_fraction` instead."""
    milestones: tuple[OpenInterval, ...] = (0.5, 0.75)
    """`step`: fractions of a stage after which the rate is multiplied by
    `milestone_factor`."""
    milestone_factor: PositiveFloat = 0.1
    """`step`: factor of the learning rate at each milestone."""
    warmup_fraction: OpenInterval = 0.25
    """`one_cycle`: fraction of a stage in which the rate rises."""
    momentum: Fraction = 0.9
    """Momentum of `sgd`; 0 for none."""
    nesterov: bool = False
    """Whether `sgd` uses Nesterov momentum."""
    weight_decay: NonNegativeFloat = 1e-2
    """Decoupled weight decay of every optimizer, except for biases, normalization weights
    and layer scales. `adam` with it is `adamw`."""
    clip_norm: NonNegativeFloat = 1.0
    """Largest norm of the gradient; 0 for no clipping."""
    clip_by: Literal["variable", "global"] = "variable"
    """What `clip_norm` bounds. variable: the gradient of each variable; global: the
    gradient of all variables together, whose direction is kept."""
    layer_decay: PositiveFraction = 1.0
    """Factor of the learning rate from each block of the backbone to the block before it;
    1 for one rate everywhere."""
    ema_momentum: Fraction = 0.0
    """Momentum of the exponential moving average of the weights, which is evaluated; 0 for
    none."""

    def __post_init__(self) -> None:
        rising = sorted(set(self.milestones)) == list(self.milestones)
        expected = "rising fractions between 0 and 1"
        require(rising, "optimizer.milestones", expected, self.milestones)
        valid = self.momentum > 0 or not self.nesterov
        expected = "positive with `optimizer.nesterov` True"
        require(valid, "optimizer.momentum", expected, self.momentum)


@section("train.stages")
class StageConfig:
    """Consecutive epochs in which the same layers are trainable."""

    trainable_blocks: Annotated[int, Field(ge=-1)]
    """How many of the last blocks of the backbone (layers of one resolution) train together
    with the head: 0 for only the head, -1 for all layers."""
    epochs: PositiveInt
    """Number of epochs."""
    rate: PositiveFloat = 1.0
    """Peak learning rate of the stage, as a multiple of `optimizer.learning_rate`."""


@section("train")
class TrainConfig:
    """Which layers train for how long, and which epoch is kept."""

    scenario: str = "fine_tune"
    """Name of `SCENARIOS`. fine_tune: the head, then all layers; linear_probe: only the
    head; from_scratch: all layers from random weights; staged: the stages of `stages`."""
    head_epochs: NonNegativeInt = 1
    """`fine_tune`: epochs with a frozen backbone."""
    epochs: PositiveInt = 8
    """Epochs of the last stage; `staged` has its own."""
    trainable_blocks: int = -1
    """`fine_tune`: how many of the last blocks of the backbone (layers of one resolution)
    train in the last stage; -1 for all. With the first blocks frozen, an epoch can take
    half the time."""
    stages: tuple[StageConfig, ...] = ()
    """`staged`: the stages in order. Flags change their values; only a preset or a --config
    file sets their number."""
    progressive_image_size: int = 0
    """Image size of the first `progressive_epochs`, to save time; 0 for none."""
    progressive_epochs: NonNegativeInt = 0
    """How many epochs of the last stage use `progressive_image_size`; all epochs of earlier
    stages use it as well."""
    monitor: str = "balanced_accuracy"
    """Name of `METRICS`. The epoch with the best value on validation is kept."""
    patience: NonNegativeInt = 0
    """Training stops after this many epochs of the last stage without a better value; 0 for
    never."""
    cached_views: Literal[0, 1, 2, 4, 8] = 0
    """Stages that train only the head. 0: the backbone runs in each epoch; 1, 2, 4, 8: its
    features are computed once, for that many orientations of each image, so that an epoch
    costs almost nothing. Each time an image is used, one orientation is drawn, without
    other augmentation. 8 orientations of 10,000 images with 1,280 features (mobilenet_v2)
    take 410 MB."""
    deterministic: bool = False
    """Whether runs repeat bit for bit on one machine, at some cost in speed."""
    precision: Literal["auto"] | Precision = "auto"
    """Data type of the backbone's computations; weights, head and loss are float32, and so
    is the saved model. float32: single precision; mixed_bfloat16, mixed_float16: half
    precision; auto: float32 on a CPU, otherwise mixed_bfloat16 if the device supports it,
    otherwise mixed_float16."""
    jit: Literal["auto", "on", "off"] = "auto"
    """Whether XLA compiles the training step. on: always; off: never; auto: the default of
    Keras, on with a GPU, off on a CPU, always on with JAX."""
    devices: NonNegativeInt = 0
    """How many GPUs of this machine share each batch; 0 for all, or the CPU if there is no
    GPU. With TensorFlow each device has its own BatchNorm statistics, mixes only its own
    images, and draws the same random numbers as the others. With JAX several machines can
    train together (docs/guide.md)."""

    def __post_init__(self) -> None:
        valid = bool(self.stages) == (self.scenario == "staged")
        expected = "given with `train.scenario` staged, and with no other"
        require(valid, "train.stages", expected, self.stages)
        require(
            self.trainable_blocks == -1
            or (self.trainable_blocks >= 1 and self.scenario == "fine_tune"),
            "train.trainable_blocks",
            ">= 1 with `train.scenario` fine_tune, or -1",
            self.trainable_blocks,
        )
        last = self.stages[-1].epochs if self.stages else self.epochs
        require(
            self.progressive_epochs < last,
            "train.progressive_epochs",
            f"in 0..{last - 1}, fewer than the epochs of the last stage",
            self.progressive_epochs,
        )
        epochs, size = self.progressive_epochs, self.progressive_image_size
        require(size == 0 or size >= 32, "train.progressive_image_size", "0 or >= 32", size)
        require(
            (epochs > 0) == (size > 0),
            "train.progressive_epochs and train.progressive_image_size",
            "both 0 or both positive",
            (epochs, size),
        )
