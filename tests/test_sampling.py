"""The images of an epoch, compared with the formulas of the imbalance strategies."""

from __future__ import annotations

import numpy as np
import pytest

from skincnn.config import ImbalanceConfig
from skincnn.data.sampling import epoch_batches, steps_per_epoch
from skincnn.training.imbalance import STRATEGIES

COUNTS = np.array([327, 514, 1099, 115, 1113, 6705, 142])
LABELS = np.random.default_rng(9).permutation(np.repeat(np.arange(7), COUNTS))
EVEN = np.ones(7)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_an_epoch_without_sampling_is_a_permutation(batch_size: int) -> None:
    labels = np.arange(65) % 7
    batches = epoch_batches(labels, batch_size, seed=0, epoch=0)
    assert batches.shape == (65 // batch_size, batch_size)
    assert len(np.unique(batches)) == batches.size
    assert batches.min() >= 0
    assert batches.max() < 65


@pytest.mark.parametrize(
    ("weights", "counts"), [(None, None), (EVEN, None), (None, np.full(7, 11))]
)
def test_an_epoch_depends_only_on_the_seed_and_the_epoch_number(
    weights: np.ndarray | None, counts: np.ndarray | None
) -> None:
    def epoch(seed: int, number: int) -> list[int]:
        batches = epoch_batches(np.arange(60) % 7, 8, seed, number, weights, counts)
        return batches.ravel().tolist()

    assert epoch(0, 3) == epoch(0, 3)
    # Including pairs with the same sum, and swapped pairs.
    different = [epoch(0, 3), epoch(0, 4), epoch(1, 3), epoch(1, 2), epoch(3, 0)]
    assert len({tuple(positions) for positions in different}) == 5


def test_every_image_is_used_although_each_epoch_drops_some() -> None:
    seen = {
        position
        for epoch in range(20)
        for position in epoch_batches(np.zeros(10, int), 7, 0, epoch).ravel().tolist()
    }
    assert seen == set(range(10))


def shares(name: str, beta: float) -> np.ndarray:
    """Returns the expected share of each class among the drawn images."""
    if name in ("balanced_sampling", "weights_and_sampling", "oversampling"):
        return np.full(7, 1 / 7)
    if name == "square_root_sampling":
        roots = np.array([float(n) ** 0.5 for n in COUNTS])
        return roots / roots.sum()
    if name == "effective_number_sampling":
        # E = 1 + beta + beta ** 2 + ... + beta ** (n - 1), summed term by term.
        effective = np.array([sum(beta**i for i in range(n)) for n in COUNTS])
        return COUNTS / effective / (COUNTS / effective).sum()
    return COUNTS / COUNTS.sum()


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("beta", [0.9, 0.999])
def test_class_frequencies_match_the_formula(name: str, beta: float) -> None:
    plan = STRATEGIES[name](COUNTS, ImbalanceConfig(beta=beta))
    expected = shares(name, beta)
    if plan.sampling_weights is not None:
        drawn = plan.sampling_weights * COUNTS / COUNTS.sum()
        np.testing.assert_allclose(drawn, expected, rtol=1e-9)
    epochs = [
        LABELS[
            epoch_batches(LABELS, 32, 0, epoch, plan.sampling_weights, plan.epoch_counts)
        ].ravel()
        for epoch in range(8)
    ]
    labels = np.concatenate(epochs)
    observed = np.bincount(labels, minlength=7)
    deviation = np.sqrt(len(labels) * expected * (1 - expected))
    assert (np.abs(observed - len(labels) * expected) < 5 * deviation).all()


def test_images_of_a_class_are_drawn_equally_often() -> None:
    labels = np.array([0] * 4 + [1] * 96)
    weights = STRATEGIES["balanced_sampling"](np.array([4, 96]), ImbalanceConfig())
    drawn = np.concatenate(
        [
            epoch_batches(labels, 50, 0, epoch, weights.sampling_weights).ravel()
            for epoch in range(100)
        ]
    )
    of_class_0 = np.bincount(drawn, minlength=100)[:4]
    # 10,000 draws, an eighth for each of the four images.
    assert np.abs(of_class_0 - 1250).max() < 5 * np.sqrt(1250)


def test_replicas_are_added_to_the_images_of_each_class() -> None:
    """Oversampling drops no image; the numbers of replicas in a class differ by up to 1."""
    counts = np.array([327, 600, 2000, 1000, 1113, 6705, 142 * 4])
    steps = steps_per_epoch(len(LABELS), 1, counts)
    assert steps == counts.sum()
    drawn = [
        np.bincount(epoch_batches(LABELS, 1, 0, epoch, None, counts).ravel())
        for epoch in range(2)
    ]
    for times in drawn:
        np.testing.assert_array_equal(np.bincount(LABELS, times), counts)
        for label, n in enumerate(COUNTS):
            of_class = times[label == LABELS]
            assert of_class.min() == counts[label] // n
            assert of_class.max() == -(-counts[label] // n)
    # The images that occur once more than others differ between epochs.
    assert (drawn[0] != drawn[1])[LABELS == 2].any()
    batches = epoch_batches(LABELS, 32, 0, 0, None, counts)
    assert batches.shape == (counts.sum() // 32, 32)
    assert min(len(np.unique(labels)) for labels in LABELS[batches]) > 1


def test_the_original_class_counts_give_a_permutation() -> None:
    batches = epoch_batches(LABELS, 5, 3, 1, epoch_counts=COUNTS)
    assert sorted(batches.ravel()) == list(range(len(LABELS)))
    assert steps_per_epoch(len(LABELS), 32) == steps_per_epoch(len(LABELS), 32, COUNTS)


def test_the_effective_number_is_between_no_and_balanced_sampling() -> None:
    strategy = STRATEGIES["effective_number_sampling"]
    equal = strategy(COUNTS, ImbalanceConfig(beta=0.0)).sampling_weights
    np.testing.assert_allclose(equal, np.ones(7))
    balanced = STRATEGIES["balanced_sampling"](COUNTS, ImbalanceConfig()).sampling_weights
    nearly = strategy(COUNTS, ImbalanceConfig(beta=1 - 1e-9)).sampling_weights
    np.testing.assert_allclose(nearly, balanced, rtol=1e-4)
