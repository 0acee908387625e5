"""Presets of this project."""

from __future__ import annotations

import dataclasses

from skincnn.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ImbalanceConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)


def quickstart() -> Config:
    """A small network, trained from scratch on the synthetic demo images.

    This preset requires no download. The score shows only that the software works.

    Command: skincnn train
    Cost: nine minutes of CPU time on two cores, including the rendering of the images.
    Score: balanced accuracy .695 [.552, .808] on the synthetic test fold.
    """
    return Config(
        data=DataConfig(datasets=("demo",), image_size=96),
        model=ModelConfig(
            backbone="mobilenet_v2",
            width_multiplier=0.35,
            weights="none",
            batch_norm_momentum=0.95,
        ),
        imbalance=ImbalanceConfig(power=0.5),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_epochs=1),
        train=TrainConfig(scenario="from_scratch", epochs=12),
    )


def mobilenet_160() -> Config:
    """MobileNet 0.75, ImageNet weights, 160 px: a baseline for two cores.

    Command: skincnn train mobilenet_160
    Cost: 12 minutes on one core (AMD EPYC), after `skincnn prepare-data --config isic2018`.
    Score: mean of three seeds on images of 200x150 px, trained on folds 0 to 6 with
    validation on fold 7 and test on folds 8 and 9 (docs/results). The command above trains
    on folds 0 to 7, validates on fold 8 and tests on fold 9.

    - Balanced accuracy .693 [.640, .741], macro F1 .671 [.628, .712], melanoma AUC .874
      [.841, .899].
    - With --tta augment: .707 [.652, .756], .694 [.650, .735], .886 [.855, .910].
    - With --tta augment --logit-adjustment: .734 [.680, .782], .598 [.553, .642], .886
      [.855, .910].
    """
    return Config(
        data=DataConfig(datasets=("isic2018",), image_size=160),
        model=ModelConfig(backbone="mobilenet", width_multiplier=0.75),
        imbalance=ImbalanceConfig(power=0.7),
        optimizer=OptimizerConfig(
            learning_rate=4e-4, weight_decay=0.05, ema_momentum=0.995
        ),
        train=TrainConfig(head_epochs=1, epochs=8),
    )


def ensemble5_member() -> Config:
    """The first model of `ensemble5`, with effective-number sampling.

    Command: skincnn train ensemble5_member
    Cost: five runs like `mobilenet_160` (not measured on idle cores), and 6 to 9 minutes
    per member for test-time augmentation on one core that other programs used, too.
    Score: on images of 200x150 px, for training on folds 0 to 6, validation on fold 7 and
    test on folds 8 and 9, one seed per member (docs/results). The command above trains on
    folds 0 to 7, validates on fold 8 and tests on fold 9.

    - Ensemble: macro F1 .730 [.681, .774], balanced accuracy .711 [.653, .763], melanoma
      AUC .891 [.859, .916].
    - Ensemble with --tta augment: .736 [.688, .779], .722 [.663, .773], .902 [.871, .925].
    - Ensemble with --tta augment --logit-adjustment: .667 [.617, .713], .757 [.700, .807],
      .903 [.873, .926].
    - This member without these flags: .662 [.610, .710], .658 [.598, .714], .860 [.824,
      .888].
    """
    imbalance = ImbalanceConfig(strategy="effective_number_sampling", power=0.7)
    return dataclasses.replace(mobilenet_160(), imbalance=imbalance)


def ensemble5(config: Config) -> tuple[Config, ...]:
    """Five diverse models: `ensemble5_member` and four variants of it.

    Each variant changes one setting: fewer augmentations, the LDAM loss, cropped instead of
    stretched images, or color constancy. For the cost and the scores, see
    `ensemble5_member`.
    """
    augment = dataclasses.replace(config.augment, parts=("flip", "quarter_turn"))
    imbalance = dataclasses.replace(config.imbalance, strategy="ldam")
    crop = dataclasses.replace(config.data, resize_mode="crop")
    constant_color = dataclasses.replace(config.data, color_constancy=True)
    return (
        config,
        dataclasses.replace(config, augment=augment),
        dataclasses.replace(config, imbalance=imbalance),
        dataclasses.replace(config, data=crop),
        dataclasses.replace(config, data=constant_color),
    )


def effnetv2s_384() -> Config:
    """EfficientNetV2-S at 384 px for one large GPU. Not trained yet.

    The learning rate and the weight decay are those of `mobilenet_160`. The network, its
    native image size and the stronger augmentation follow published reports on HAM10000;
    MobileNet 0.75 at 96 px did not benefit from this augmentation (docs/results). No
    value was tuned. On a GPU with less memory, halve --data.batch-size and
    --optimizer.learning-rate.

    Command: skincnn train effnetv2s_384
    Cost: not measured; meant for a GPU with 24 GB or more, after
    `skincnn prepare-data --config isic2018`.
    Score: not measured.
    """
    return Config(
        data=DataConfig(datasets=("isic2018",), image_size=384, batch_size=64),
        augment=AugmentConfig(parts=(*AugmentConfig().parts, "shear", "hue", "erase")),
        model=ModelConfig(backbone="efficientnet_v2_s", dropout=0.3),
        imbalance=ImbalanceConfig(power=0.7),
        optimizer=OptimizerConfig(
            learning_rate=4e-4, weight_decay=0.05, warmup_epochs=1, ema_momentum=0.998
        ),
        train=TrainConfig(head_epochs=1, epochs=30),
    )
