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
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of the RGB channels of ImageNet, for values in 0..1."""


@section("model")
class ModelConfig:
    """The classifier: a backbone, global pooling, dropout and a linear head."""

    backbone: str = "mobilenet_v2"
    """Network before the pooling and the head. A name that `skincnn train --help model`
    lists, `keras_hub:PRESET` for an image backbone of KerasHub, or a custom
    `module:function` (docs/guides/extending.md)."""
    width_multiplier: Annotated[float, Field(ge=0.04)] = 1.0
    """Width multiplier of the backbone (`alpha` in Keras Applications). Must be 1.0 for a
    backbone without a width multiplier."""
    weights: str = "imagenet"
    """Initial weights of the backbone. imagenet: pretrained (for KerasHub, the weights of
    the preset); none: random; otherwise the path of a weights file."""
    dropout: Fraction = 0.2
    """Dropout rate of the pooled features."""
    batch_norm: Literal["train", "frozen", "frozen_statistics"] = "train"
    """Mode of BatchNorm in the trainable blocks of the backbone. train: uses the statistics
    of the batch; frozen: keeps the statistics and the weights; frozen_statistics: keeps the
    statistics and trains the weights (scale and shift). Both frozen modes scored lower than
    `train` (docs/results)."""
    batch_norm_momentum: Fraction = 0.99
    """Momentum of the moving statistics of BatchNorm."""
    channel_mean: tuple[UnitInterval, UnitInterval, UnitInterval] = IMAGENET_MEAN
    """Mean of the red, green and blue channels, for values in 0..1. Images are normalized
    with this mean and with `channel_std`, and then converted to the scale in which the
    pretrained backbone expects normalized ImageNet images. The default is therefore the
    normalization of the pretrained backbone. With (0, 0, 0), no mean is subtracted."""
    channel_std: tuple[PositiveFraction, PositiveFraction, PositiveFraction] = IMAGENET_STD
    """Standard deviation of the red, green and blue channels, for values in 0..1; see
    `channel_mean`."""
    clinical_metadata: bool = False
    """Whether age, sex and body site are additional inputs of the model."""


@section("imbalance")
class ImbalanceConfig:
    """Balancing of unequal class frequencies."""

    strategy: str = "class_weights"
    """How unequal class frequencies are balanced. A name that `skincnn train --help
    imbalance` lists, or a custom `module:function` (docs/guides/extending.md)."""
    power: UnitInterval = 0.75
    """`class_weights`, `weights_and_sampling`: the weight of a class with n images is
    proportional to n ** -power; `logit_adjusted`: power * log(class frequency) is added to
    the logits in the loss. 0 for no effect, 1 for the full effect."""
    beta: Fraction = 0.999
    """`effective_number_*`, `class_balanced_focal`, `ldam`: parameter of the effective
    number of images. 0 for equal weights; values closer to 1 balance the classes more."""
    ratio: PositiveFraction = 1.0
    """`oversampling` without `factors`: images are replicated until each class has at least
    this fraction of the images of the largest class. Epochs become longer."""
    factors: tuple[PositiveInt, ...] = ()
    """`oversampling`: how often each image of a class occurs in an epoch, in the order of
    the class names; () for replication by `ratio`."""
    gamma: NonNegativeFloat = 2.0
    """`focal`, `class_balanced_focal`: an image whose true class has the predicted
    probability p is weighted by (1 - p) ** gamma; 0 for equal weights."""
    margin: NonNegativeFloat = 0.5
    """`ldam`: margin of the rarest class, in units of the logits."""
    drw_start: Fraction = 0.8
    """`ldam`: fraction of the epochs of the last stage after which rare classes get larger
    weights in the loss (deferred re-weighting). With 0, they have these weights in all
    epochs of all stages."""


@section("loss")
class LossConfig:
    """Options of the loss in addition to those of `imbalance.strategy`."""

    name: str = ""
    """A custom loss, `module:function`, in place of the cross-entropy
    (docs/guides/extending.md); "" for the loss of `imbalance.strategy`. Requires a strategy
    that uses the cross-entropy."""
    label_smoothing: Fraction = 0.0
    """Fraction of each label that is spread evenly over all classes."""
    weighted_mean: bool = False
    """Whether the loss of a batch is divided by the sum of the class weights of its images,
    as in PyTorch, instead of the number of its images."""


@section("distillation")
class DistillationConfig:
    """Training on the labels and on the predictions of other models (the teacher)."""

    teacher: tuple[str, ...] = ()
    """Directories of runs, ensembles or cross-validations, whose predictions for the
    training images are averaged; () for no distillation. An image is predicted only by
    models that were not trained on its group, if there is such a model for every training
    image; otherwise, by all models. Models that were trained on validation or test images,
    or validated on test images, are rejected."""
    weight: UnitInterval = 0.5
    """Weight of the teacher's probabilities in the loss; the labels have 1 - weight."""
    temperature: PositiveFloat = 2.0
    """Temperature of the probabilities of the teacher and the model. With larger values,
    differences between improbable classes have more influence. The defaults of `weight` and
    `temperature` are those of Hinton et al. (2015) for speech recognition."""


@section("optimizer")
class OptimizerConfig:
    """The optimizer, the learning-rate schedule, and the averaging of the weights."""

    name: str = "adamw"
    """The optimizer. A name that `skincnn train --help optimizer` lists, any optimizer of
    Keras, such as `keras.optimizers:Nadam`, or a custom `module:function`."""
    schedule: str = "cosine"
    """The learning-rate schedule of each stage. A name that `skincnn train --help
    optimizer` lists, or a custom `module:function`."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate of stages that train the backbone; for `staged`, of all stages,
    multiplied by the `rate` of each stage."""
    head_learning_rate: PositiveFloat = 3e-3
    """Peak learning rate of stages that train only the head, except for `staged`."""
    warmup_epochs: NonNegativeFloat = 0.5
    """Number of epochs of linear warm-up in stages that train the backbone; ignored by
    `one_cycle`."""
    milestones: tuple[OpenInterval, ...] = (0.5, 0.75)
    """`step`: fractions of a stage after which the learning rate is multiplied by
    `milestone_factor`."""
    milestone_factor: PositiveFloat = 0.1
    """`step`: factor of the learning rate at each milestone."""
    warmup_fraction: OpenInterval = 0.25
    """`one_cycle`: fraction of a stage in which the learning rate rises."""
    momentum: Fraction = 0.9
    """Momentum of `sgd`; 0 for none."""
    nesterov: bool = False
    """Whether `sgd` uses Nesterov momentum."""
    weight_decay: NonNegativeFloat = 1e-2
    """Weight decay, for every optimizer. `adam` with decoupled weight decay is the same as
    `adamw`."""
    decay_mode: Literal["decoupled", "l2"] = "decoupled"
    """How weight decay acts. decoupled: in each step, the product of learning rate,
    weight_decay and weight is subtracted from a weight; l2: weight_decay * weight is added
    to its gradient, as in `SGD` and `Adam` of PyTorch. This is the gradient of the L2
    penalty weight_decay / 2 * weight ** 2."""
    decay_all: bool = False
    """Whether weight decay applies to all weights. By default, it does not apply to biases,
    normalization weights and layer scales."""
    clip_norm: NonNegativeFloat = 1.0
    """Maximum norm of the gradient; 0 for no clipping."""
    clip_by: Literal["variable", "global"] = "variable"
    """What `clip_norm` limits. variable: the gradient of each variable; global: the
    gradient of all variables together, whose direction clipping does not change."""
    layer_decay: PositiveFraction = 1.0
    """Ratio of the learning rate of each block of the backbone to the learning rate of the
    following block, or of the head; 1 for equal learning rates."""
    ema_momentum: Fraction = 0.0
    """Momentum of the exponential moving average (EMA) of the weights in stages that train
    the backbone. The averaged weights are evaluated and saved; 0 for no averaging."""

    def __post_init__(self) -> None:
        increasing = sorted(set(self.milestones)) == list(self.milestones)
        expected = "increasing fractions between 0 and 1"
        require(increasing, "optimizer.milestones", expected, self.milestones)
        valid = self.momentum > 0 or not self.nesterov
        expected = "positive if `optimizer.nesterov` is True"
        require(valid, "optimizer.momentum", expected, self.momentum)


@section("train.stages")
class StageConfig:
    """Consecutive epochs in which the same layers are trainable."""

    trainable_blocks: Annotated[int, Field(ge=-1)]
    """Number of last blocks of the backbone (layers with the same resolution) that are
    trained together with the head. 0 for only the head, -1 for all layers. In Transformers,
    a block is a transformer layer or stage."""
    epochs: PositiveInt
    """Number of epochs."""
    rate: PositiveFloat = 1.0
    """Peak learning rate of the stage, as a multiple of `optimizer.learning_rate`."""


@section("train")
class TrainConfig:
    """Training stages, selection of the epoch, precision and devices."""

    scenario: str = "fine_tune"
    """Which layers are trained in which stages. A name that `skincnn train --help train`
    lists."""
    head_epochs: NonNegativeInt = 1
    """`fine_tune`: number of epochs with a frozen backbone."""
    epochs: PositiveInt = 8
    """Number of epochs of the last stage; for `staged`, see `stages`."""
    trainable_blocks: int = -1
    """`fine_tune`: number of last blocks of the backbone (layers with the same
    resolution) that are trained in the last stage; -1 for all. If the first blocks are
    frozen, an epoch can take half the time. In Transformers, a block is a transformer layer
    or stage."""
    stages: tuple[StageConfig, ...] = ()
    """`staged`: the stages in order. Flags can change the values of a stage; only a preset
    or a --config file can set the number of stages."""
    progressive_image_size: int = 0
    """Image size in pixels in the first epochs (see `progressive_epochs`), to save time; 0
    for `data.image_size` in all epochs."""
    progressive_epochs: NonNegativeInt = 0
    """Number of epochs of the last stage that use `progressive_image_size`. All epochs of
    earlier stages use this size as well."""
    monitor: str = "balanced_accuracy"
    """Metric whose best value on validation selects the epoch that is kept, unless
    `keep_epoch` is last. A name that `skincnn train --help train` lists, or a custom
    `module:function`."""
    keep_epoch: Literal["best", "last"] = "best"
    """Epoch whose weights are kept. best: the best epoch by `monitor`; last: the last
    epoch, without a choice on validation."""
    callbacks: tuple[str, ...] = ()
    """Functions that return a Keras callback, such as an experiment tracker, each as
    `module:function` (docs/guides/extending.md)."""
    patience: NonNegativeInt = 0
    """Number of epochs of the last stage without a better value of `monitor` after which
    training stops; 0 for no early stopping."""
    cached_views: Literal[0, 1, 2, 4, 8] = 0
    """Number of orientations of each image whose features are computed once and reused in
    stages that train only the head; 0 to compute the features in each epoch. With cached
    features, an epoch takes almost no time. Images are then not augmented, except that one
    of these orientations is drawn. 8 orientations of 10,000 images with 1,280 features
    (mobilenet_v2) require 410 MB."""
    deterministic: bool = False
    """Whether runs on the same machine give identical results, at some cost in speed."""
    precision: Literal["auto"] | Precision = "auto"
    """Data type of the backbone's computations. The weights, the head, the loss and the
    saved model are float32. float32: single precision; mixed_bfloat16, mixed_float16: half
    precision; auto: float32 on a CPU, otherwise mixed_bfloat16 if the device supports it,
    otherwise mixed_float16 on one device and float32 on several."""
    jit: Literal["auto", "on", "off"] = "auto"
    """Whether XLA compiles the training step. on: always (with TensorFlow, this requires
    one device and no `deterministic`); off: never; auto: the default of Keras, which is on
    for JAX; with TensorFlow, on for one GPU unless `deterministic`."""
    devices: NonNegativeInt = 0
    """Number of GPUs or TPUs of this machine among which each batch is divided; 0 for all
    of them, or the CPU if there are none. With TensorFlow, BatchNorm and mixing use only
    the images on the same device, and all devices draw the same random numbers. With JAX,
    several machines can train together (docs/guides/machines.md)."""

    def __post_init__(self) -> None:
        valid = bool(self.stages) == (self.scenario == "staged")
        expected = "given if `train.scenario` is staged, and empty otherwise"
        require(valid, "train.stages", expected, self.stages)
        require(
            self.trainable_blocks == -1
            or (self.trainable_blocks >= 1 and self.scenario == "fine_tune"),
            "train.trainable_blocks",
            "-1, or >= 1 if `train.scenario` is fine_tune",
            self.trainable_blocks,
        )
        valid = self.patience == 0 or self.keep_epoch == "best"
        expected = "0 if `train.keep_epoch` is last"
        require(valid, "train.patience", expected, self.patience)
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
