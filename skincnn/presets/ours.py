"""Recipes of our own."""

from __future__ import annotations

import dataclasses

from skincnn.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ImbalanceConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)


def quickstart() -> Config:
    """A small network from scratch on the synthetic demo images.

    Needs no download. Its score says that the software works, and nothing about skin.

    Command: python scripts/train.py
    Cost: three and a half minutes on two cores, rendering included.
    Score: balanced accuracy .680 [.585, .770] on the synthetic test fold.
    """
    return Config(
        data=DataConfig(dataset="demo", image_size=96),
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
    """MobileNet 0.75 with ImageNet weights at 160 px: a baseline for two cores.

    The first epochs see smaller pictures, which saves a quarter of their time, and the
    weights that are evaluated are an average over the last few hundred steps.

    Its settings had the best macro F1 and accuracy of the first that were tried; a plain
    recipe could not be told from it later (README, CHANGELOG).

    Command: python scripts/train.py mobilenet_160
    Cost: 17 minutes on two quiet cores, after scripts/prepare_data.py.
    Score on 200x150 copies: balanced accuracy .769 on fold 8, on which the epoch was
    chosen, and .629 [.546, .715] on fold 9; asked by evaluate.py --tta augment .777 and .673
    [.600, .748]. On folds 8 and 9 together, without them in the training, the mean of four
    seeds: .683 [.636, .731], asked so .690 [.640, .737].
    """
    return Config(
        data=DataConfig(dataset="isic2018", image_size=160),
        model=ModelConfig(backbone="mobilenet", width_multiplier=0.75, weights="imagenet"),
        imbalance=ImbalanceConfig(power=0.7),
        optimizer=OptimizerConfig(
            learning_rate=4e-4, weight_decay=0.05, ema_momentum=0.995
        ),
        train=TrainConfig(
            head_epochs=1, epochs=12, progressive_image_size=128, progressive_epochs=6
        ),
    )


def ensemble5_member() -> Config:
    """`mobilenet_160` by effective-number sampling: first of five unlike models to average.

    The others are this one with a flag more: --augment.parts flip quarter_turn,
    --imbalance.strategy ldam, --data.resize-mode crop, --data.color-constancy True. Each is
    then asked by evaluate.py --tta augment --logit-adjustment, and all are averaged by
    evaluate.py --ensemble (README). At 96 px five unlike models, averaged, gained more than
    five seeds of one, on the folds on which they were picked.

    Command: python scripts/train.py ensemble5_member
    Cost: 277 minutes of a slow core or two for the five, ten to twelve each for the views.
    Score on 200x150 copies, of the five averaged with the views, on folds 8 and 9: macro F1
    .719 [.669, .760], balanced accuracy .709 [.654, .759], melanoma AUC .933 [.916, .949];
    with adjusted logits as well .691 [.640, .733], .754 [.699, .804], .931 [.913, .947]; of
    this one alone, asked plainly, .630 [.574, .679], .631 [.574, .691], .890 [.866, .915].
    """
    base = mobilenet_160()
    return dataclasses.replace(
        base,
        imbalance=dataclasses.replace(base.imbalance, strategy="effective_number_sampling"),
    )


def effnetv2s_384() -> Config:
    """EfficientNetV2-S at 384 px: a single model for one large GPU. Not run yet.

    From `mobilenet_160` it has the order of things: the head for an epoch, then all layers with AdamW
    under a cosine, mild class weights, an average of the weights. The network, its native
    size and the stronger augmentation are what others report to help on these pictures:
    pre-training about .08 of AUC, strong augmentation much; 448 px or metadata, nothing
    that could be told from chance. MobileNet 0.75 at 96 px does not bear it out for
    augmentation: none at all cost it .018 of macro AUC, but twice as strong found fewer
    melanomas at a threshold, and flips and quarter turns alone ranked them better
    (docs/results.md). All numbers are chosen, none is tuned. Where memory is short, halve
    --data.batch-size and --optimizer.learning-rate.

    Command: python scripts/train.py effnetv2s_384
    Cost: NOT RUN; meant for a GPU of 24 GB or more, after scripts/prepare_data.py.
    Score: not measured.

    References:
        Tan and Le, EfficientNetV2 (2021), arXiv:2104.00298.
    """
    return Config(
        data=DataConfig(dataset="isic2018", image_size=384, batch_size=64),
        augment=AugmentConfig(parts=(*AugmentConfig().parts, "shear", "hue", "erase")),
        model=ModelConfig(backbone="efficientnet_v2_s", weights="imagenet", dropout=0.3),
        imbalance=ImbalanceConfig(power=0.7),
        optimizer=OptimizerConfig(
            learning_rate=4e-4, weight_decay=0.05, warmup_epochs=1, ema_momentum=0.998
        ),
        train=TrainConfig(head_epochs=1, epochs=30),
    )


def convnext() -> Config:
    """ConvNeXt-Tiny with the aids its family is trained with. Not run yet.

    Under folds that keep lesions together, others report for this network, with the
    pictures of ISIC 2019 added to the training, a macro F1 of .740 [.725, .754] in
    five-fold cross-validation, and .739 for EfficientNet-B2: the best of networks that can
    be chosen here, and far from the .81 of a linear probe on a network that was pre-trained
    on skin. This preset adds to `effnetv2s_384` smaller rates for earlier blocks, as this family is
    fine-tuned, CutMix, label smoothing, and logit adjustment, which is right under mixed
    labels, in place of class weights. None of what has been tried of these helped MobileNet
    0.75 at 96 px. What helped `mobilenet_160` most should come after the training: evaluate.py --tta
    random, and the average of unlike runs (--ensemble), as of `ensemble5_member`.

    Command: python scripts/train.py convnext
    Cost: NOT RUN; meant for a GPU of 24 GB or more, after scripts/prepare_data.py.
    Score: not measured.

    References:
        Liu et al., A ConvNet for the 2020s (2022), arXiv:2201.03545.
    """
    base = effnetv2s_384()
    return dataclasses.replace(
        base,
        augment=dataclasses.replace(base.augment, mix="cutmix", mix_alpha=1.0),
        model=ModelConfig(backbone="convnext_tiny", weights="imagenet"),
        imbalance=ImbalanceConfig(strategy="logit_adjusted", power=0.7),
        loss=LossConfig(label_smoothing=0.1),
        optimizer=dataclasses.replace(base.optimizer, layer_decay=0.7, clip_by="global"),
        train=TrainConfig(head_epochs=1, epochs=50),
    )
