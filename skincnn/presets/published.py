"""Published recipes, for a comparison under one protocol.

The presets have the settings of five public repositories. "Not stated" lists settings that
no source states, with the values that were chosen here. "Differs" lists deviations of one
preset from its recipe. All presets deviate as follows:

- No known lesion is in two splits. `--data.split-by image` assigns single images to folds,
  as in most of the reports; report.html then quantifies the leakage.
- Validation and test are separate folds, and no epoch is selected on the test folds. The
  training folds 0 to 7 contain 80 % of the lesions, the validation fold 8 and the test fold
  9 contain 10 % each. Images are not augmented in validation and test.
- The networks, except for that of `cnn`, are those of Keras Applications with global
  average pooling and a linear head. The ResNet-50 of torchvision has its stride in another
  convolution of each block, and other ImageNet weights. Where a recipe normalizes by the
  mean and standard deviation of ImageNet, the normalization is that of the pretraining.
- Images that do not fill a batch at the end of an epoch are left out of that epoch.
- Rotated images are interpolated linearly (in torchvision: nearest pixel by default). The
  epsilon of Adam is 1e-7 (in PyTorch: 1e-8).

A "published score" is stated in the report; the protocol of the report, including any
leakage, applies to it. "Score: not measured" refers to the command of the preset.
docs/results has scores of five of these presets with smaller networks and shorter training.
"""

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
    StageConfig,
    TrainConfig,
)

NO_AUGMENTATION = AugmentConfig(parts=())
UNBALANCED = ImbalanceConfig(strategy="none")
RESNET50 = ModelConfig(backbone="resnet50", dropout=0.0, batch_norm_momentum=0.9)
"""ResNet-50 without dropout, and with the BatchNorm momentum of PyTorch."""
FLIPS = ("flip", "flip_vertical")
CONSTANT_RATE = OptimizerConfig(
    schedule="constant", warmup_epochs=0, weight_decay=0, clip_norm=0
)
"""A constant learning rate without weight decay or clipping."""


def cnn() -> Config:
    """A basic CNN, trained from scratch.

    Published: the baseline of Skin-Lesion-Classification--CNN (GitHub, JShan33), which is
    then improved by four strategies in turn: other hyperparameters, augmentation, class
    balancing, and transfer learning. ISIC 2018, 7 classes; compared by macro F1.

    Not stated: all settings, and the split. Chosen: eight convolutions (`small_cnn`), 96
    px, Adam 1e-3, batch size 32, 30 epochs, no dropout, the best epoch by macro F1. For the
    strategies, use the flags --optimizer.*, --augment.parts flip quarter_turn rotate,
    --imbalance.strategy class_weights, and the preset `mobilenet_160`.

    Command: skincnn train cnn
    Cost: not measured; small enough for two cores.
    Published score: unknown. Score: not measured.
    """
    return Config(
        data=DataConfig(datasets=("isic2018",), image_size=96),
        augment=NO_AUGMENTATION,
        model=ModelConfig(backbone="small_cnn", weights="none", dropout=0.0),
        imbalance=UNBALANCED,
        optimizer=_adam(1e-3),
        train=TrainConfig(scenario="from_scratch", epochs=30, monitor="macro_f1"),
    )


def resnet50_sgd() -> Config:
    """ResNet-50, 8 classes from folders, SGD; version 1 of 4.

    Published: DeepLearning_CV_Skin_Cancer_Classification (GitHub, JAX627; scripts and
    README). Eight classes in folders, 84 px; the test images, 100 per class, were also the
    validation images, on which the four versions were chosen. ImageNet weights, all layers
    trained (the README says the last layer only), SGD with momentum 0.9 and learning rate
    1e-3, batch size 32, 20 epochs, ImageNet mean and standard deviation, weights of the
    last epoch. Version 1 has no augmentation and no balancing.

    Not stated: whether the split was by lesion. The class directories of the dataset
    `folder` do not identify lesions: except for images of HAM10000, only near-duplicates
    are kept in the same fold.

    Command: skincnn train resnet50_sgd
    Cost: not measured; meant for a GPU, after `skincnn prepare-data --config folder`.
    Published score: accuracy .571, macro F1 .562. Score: not measured.
    """
    return Config(
        data=DataConfig(datasets=("folder",), image_size=84, batch_size=32),
        augment=NO_AUGMENTATION,
        model=RESNET50,
        imbalance=UNBALANCED,
        optimizer=dataclasses.replace(
            CONSTANT_RATE, name="sgd", learning_rate=1e-3, momentum=0.9
        ),
        train=TrainConfig(head_epochs=0, epochs=20, keep_epoch="last"),
    )


def resnet50_sgd_class_weights() -> Config:
    """ResNet-50, 8 classes, SGD; version 2: flips and class weights.

    Published: version 1 with horizontal and vertical flips, rotation by up to 30 degrees
    with black corners, and class weights proportional to 1 / number of images. The loss of
    a batch is divided by the sum of the weights of its images, so that the scale of the
    weights does not matter.

    Command: skincnn train resnet50_sgd_class_weights
    Cost: as for version 1.
    Published score: accuracy .699, macro F1 .702. Score: not measured.
    """
    return dataclasses.replace(
        resnet50_sgd(),
        augment=AugmentConfig(
            parts=("rotate", *FLIPS), rotation_degrees=30.0, border="black"
        ),
        imbalance=ImbalanceConfig(strategy="class_weights", power=1.0),
        loss=LossConfig(weighted_mean=True),
    )


def resnet50_sgd_sampler() -> Config:
    """ResNet-50, 8 classes, SGD; version 3: class weights and a sampler.

    Published: version 2 with ColorJitter (brightness, contrast and saturation 0.2, hue
    0.1), Gaussian blur (kernel of 9 rows and 5 columns, standard deviation 0.1 to 5),
    sharpening (factor 2 with probability 0.5), and a sampler that draws all classes equally
    often, in addition to the class weights. The classes are therefore balanced twice, and
    the accuracy is 12 percentage points lower than in version 4.

    Differs: each image is sharpened, by a random amount from 0 to 1 with a smoother kernel,
    instead of half of the images by 1. The standard deviation of the blur is 0 to 5. The
    order of the color changes is fixed.

    Command: skincnn train resnet50_sgd_sampler
    Cost: as for version 1.
    Published score: accuracy .594, macro F1 .589. Score: not measured.
    """
    version2 = resnet50_sgd_class_weights()
    return dataclasses.replace(
        version2,
        augment=dataclasses.replace(
            version2.augment,
            parts=(*version2.augment.parts, "jitter", "blur", "sharpen"),
            brightness=0.2,
            contrast=0.2,
            saturation=0.2,
            hue_degrees=36.0,
            blur=5.0,
            blur_kernel=(9, 5),
            sharpness=1.0,
        ),
        imbalance=ImbalanceConfig(strategy="weights_and_sampling", power=1.0),
    )


def resnet50_sgd_oversampling() -> Config:
    """ResNet-50, 8 classes, SGD; version 4: oversampling only.

    Published: version 2 with the sampler of version 3 instead of class weights.

    Command: skincnn train resnet50_sgd_oversampling
    Cost: as for version 1.
    Published score: accuracy .715, macro F1 .719. Score: not measured.
    """
    return dataclasses.replace(
        resnet50_sgd_class_weights(),
        imbalance=ImbalanceConfig(strategy="balanced_sampling"),
        loss=LossConfig(),
    )


THREE_STAGES = TrainConfig(
    scenario="staged",
    stages=(
        StageConfig(trainable_blocks=0, epochs=3, rate=1.0),
        StageConfig(trainable_blocks=-1, epochs=7, rate=0.1),
        StageConfig(trainable_blocks=-1, epochs=5, rate=0.01),
    ),
    keep_epoch="last",
)


def vgg19_stages() -> Config:
    """VGG19, three stages with falling learning rates, oversampling.

    Published: Skin-Cancer-Dermatoscopic-Image-Classification (GitHub, Yidi0221; HAM10000
    split by image, 998 test images). ImageNet weights, momentum 0.9, batch size 30, L2
    penalty 1e-5: 3 epochs of the head with learning rate 1e-4, 7 epochs of all layers with
    1e-5, 5 epochs of all layers with 1e-6. BatchNorm (of the ResNet-50) in inference mode,
    nearest-neighbor resizing to 224 px, no input normalization. df and vasc were replicated
    16 times and akiec 4 times. One of six augmentations per image: flip left-right, flip
    up-down, transposition, rotation by up to 180 degrees, crop, shear. The test set was
    evaluated after each epoch, and the best epoch was quoted.

    Not stated, and chosen here: 16 times includes the original; crop of up to 20 %, shear
    by up to 8 degrees; flips and transpositions, if drawn, are applied with probability
    1/2; rotated images have black corners; no dropout; the L2 penalty applies to all
    weights except biases and BatchNorm, as in TF-Slim; the scale and shift of BatchNorm are
    trained. The last epoch is kept.

    Differs: the linear head replaces the fully connected layers of VGG19. A fault is not
    reproduced: the recipe drew the parameters of the augmentations once for the whole
    training.

    Command: skincnn train vgg19_stages
    Cost: not measured; meant for a GPU.
    Published score: accuracy .786, balanced accuracy .703, macro F1 .622 after 10 epochs;
    .822, .760 and .701, melanoma recall .523, in a training of 20 epochs. Score: not
    measured.
    """
    return Config(
        data=DataConfig(
            datasets=("isic2018",), image_size=224, resize_method="nearest", batch_size=30
        ),
        augment=AugmentConfig(
            parts=(*FLIPS, "transpose", "rotate", "crop", "shear"),
            choose="one",
            rotation_degrees=180.0,
            border="black",
        ),
        model=ModelConfig(
            backbone="vgg19",
            dropout=0.0,
            batch_norm="frozen_statistics",
            channel_mean=(0.0, 0.0, 0.0),
        ),
        imbalance=ImbalanceConfig(
            strategy="oversampling",
            # akiec, bcc, bkl, df, mel, nv, vasc
            factors=(4, 1, 1, 16, 1, 1, 16),
        ),
        optimizer=dataclasses.replace(
            CONSTANT_RATE,
            name="sgd",
            learning_rate=1e-4,
            momentum=0.9,
            weight_decay=1e-5,
            decay_mode="l2",
        ),
        train=THREE_STAGES,
    )


def resnet50_stages() -> Config:
    """ResNet-50, three stages with falling learning rates, oversampling.

    Published: the recipe of `vgg19_stages` with ResNet-50. Not stated and differs: see
    `vgg19_stages`; only the difference in the head does not apply.

    Command: skincnn train resnet50_stages
    Cost: not measured; meant for a GPU.
    Published score: accuracy .820, balanced accuracy .751, macro F1 .691, melanoma recall
    .559 after 15 epochs. Score: not measured.
    """
    recipe = vgg19_stages()
    model = dataclasses.replace(recipe.model, backbone="resnet50")
    return dataclasses.replace(recipe, model=model)


def resnet50_one_image() -> Config:
    """ResNet-50 on one image per lesion, Adam, early stopping.

    Published: Skin-neoplasm-classifier-ResNet50 (GitHub, NikitaBezukhov; notebook).
    HAM10000 with one image per lesion, 7,470 images. ImageNet weights, all layers trained,
    Adam 1e-3 with weight decay 1e-4 (added to the gradients of all weights), batch size 64,
    at most 999 epochs, stopped after 50 epochs without a lower validation loss; the best
    epoch, 240 of 290, was kept. Resized to 224x280 pixels, of which the central 224x224
    were used; ImageNet mean and standard deviation; horizontal flip, rotation by up to 180
    degrees with black corners. No balancing. The validation set consisted of training
    images. Test-time augmentation: five random flips and rotations (`skincnn
    evaluate --tta augment --num-views 5`).

    Differs: the recipe kept the first image of each lesion in the table; here, an arbitrary
    image is kept. The recipe left 1 % of the images unrotated; here, all are rotated.

    Command: skincnn train resnet50_one_image
    Cost: not measured here; 12 hours on one P100 according to the notebook.
    Published score: accuracy .985, macro F1 .97 on training images; with the same recipe on
    a disjoint split (a public fork, three seeds), accuracy .813, macro F1 .633, melanoma
    recall .457, melanoma AUC .90 to .92. Score: not measured.
    """
    return Config(
        data=DataConfig(
            datasets=("isic2018",),
            image_size=224,
            crop_width=0.8,
            one_image_per_lesion="all",
            batch_size=64,
        ),
        augment=AugmentConfig(
            parts=("flip", "rotate"), rotation_degrees=180.0, border="black"
        ),
        model=RESNET50,
        imbalance=UNBALANCED,
        optimizer=dataclasses.replace(
            _adam(1e-3), weight_decay=1e-4, decay_mode="l2", decay_all=True
        ),
        train=TrainConfig(head_epochs=0, epochs=999, monitor="log_loss", patience=50),
    )


def resnet50_adam() -> Config:
    """ResNet-50 with Adam 1e-3 for 10 epochs, replicated classes.

    Published: Skin-Cancer-Detection (GitHub, temcavanagh; README and notebooks), ResNet-50
    and MobileNetV2 on HAM10000. Adam 1e-3, batch size 32, 10 epochs, all layers trained
    from ImageNet weights, weights of the last epoch. Stretched to 224 px, normalized by the
    mean and standard deviation of the channels of HAM10000. Horizontal and vertical flips
    (the README mentions vertical ones only), rotation by up to 20 degrees with black
    corners, ColorJitter (brightness and contrast 0.1, hue 0.1). Images were replicated: df
    50 times, vasc 40, akiec 15, bcc 10, bkl and mel 5. Validation and test consisted of 551
    and 552 augmented images of lesions with a single image; the README says 80/10/10.

    The metric of the report, weighted F1, is shown after each epoch. Nevi, two thirds of
    the images, dominate this metric. For a test on the same images as other recipes, use
    --data.single-image-lesions False.

    Differs: the order of the color changes is fixed.

    Command: skincnn train resnet50_adam
    Cost: not measured here; 1 h 27 min on one P100 according to the README.
    Published score: accuracy and weighted F1 about .90. Score: not measured.
    """
    return Config(
        data=DataConfig(
            datasets=("isic2018",), image_size=224, single_image_lesions=True, batch_size=32
        ),
        augment=AugmentConfig(
            parts=(*FLIPS, "rotate", "jitter"),
            rotation_degrees=20.0,
            border="black",
            brightness=0.1,
            contrast=0.1,
            saturation=0.0,
            hue_degrees=36.0,
        ),
        model=dataclasses.replace(
            RESNET50,
            channel_mean=(0.7630392, 0.5456477, 0.57004845),
            channel_std=(0.1409286, 0.15261266, 0.16997074),
        ),
        imbalance=ImbalanceConfig(
            strategy="oversampling",
            # akiec, bcc, bkl, df, mel, nv, vasc
            factors=(15, 10, 5, 50, 5, 1, 40),
        ),
        optimizer=_adam(1e-3),
        train=TrainConfig(
            head_epochs=0, epochs=10, monitor="weighted_f1", keep_epoch="last"
        ),
    )


def mobilenet_v2_adam() -> Config:
    """MobileNetV2 with Adam 1e-3 for 10 epochs, replicated classes.

    Published and differs: as for `resnet50_adam`, and dropout of 0.2 before the head. The
    notebook kept the pretrained head with 1,000 outputs, of which seven were used; here,
    the head is new.

    Command: skincnn train mobilenet_v2_adam
    Cost: not measured here; 1 h 24 min on one P100 according to the README.
    Published score: as for `resnet50_adam`. Score: not measured.
    """
    recipe = resnet50_adam()
    model = dataclasses.replace(recipe.model, backbone="mobilenet_v2", dropout=0.2)
    return dataclasses.replace(recipe, model=model)


def _adam(learning_rate: float) -> OptimizerConfig:
    return dataclasses.replace(CONSTANT_RATE, name="adam", learning_rate=learning_rate)
