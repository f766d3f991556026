from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from scipy.spatial.distance import pdist

from eval.metrics.diversity import collapsed, mean_pairwise_distance, of_prompt, vendi


def features(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


shapes = st.tuples(st.integers(0, 2**32 - 1), st.integers(2, 8), st.integers(2, 12))


@given(shapes)
def test_vendi_agrees_with_the_entropy_of_the_singular_values(shape: tuple[int, int, int]) -> None:
    rows_SD = features(*shape).astype(np.float64)
    # K = X Xᵀ, so the eigenvalues of K/n are the squared singular values of X over n.
    values = np.linalg.svd(rows_SD / np.linalg.norm(rows_SD, axis=1, keepdims=True), compute_uv=False)
    assert vendi(rows_SD) == pytest.approx(np.exp(scipy_stats.entropy(values**2 / len(rows_SD))))


@given(shapes)
def test_distance_agrees_with_scipy(shape: tuple[int, int, int]) -> None:
    rows_SD = features(*shape).astype(np.float64)
    assert mean_pairwise_distance(rows_SD) == pytest.approx(pdist(rows_SD, "cosine").mean())


def test_one_is_collapse_and_n_is_all_different() -> None:
    assert vendi(np.tile(features(0, 1, 8), (5, 1))) == pytest.approx(1)
    assert vendi(np.eye(5, 8)) == pytest.approx(5)
    assert mean_pairwise_distance(np.tile(features(0, 1, 8), (5, 1))) == pytest.approx(0, abs=1e-12)
    assert mean_pairwise_distance(np.eye(5, 8)) == pytest.approx(1)
    two_groups = np.repeat(np.eye(2, 8), 3, axis=0)
    assert vendi(two_groups) == pytest.approx(2)
    assert mean_pairwise_distance(two_groups) == pytest.approx(9 / 15)


@given(shapes, st.integers(0, 2**32 - 1))
def test_invariants(shape: tuple[int, int, int], seed: int) -> None:
    rows_SD = features(*shape).astype(np.float64)
    rng = np.random.default_rng(seed)
    score, distance = vendi(rows_SD), mean_pairwise_distance(rows_SD)
    assert 1 - 1e-9 <= score <= min(rows_SD.shape) + 1e-9  # no more different ones than dimensions
    assert 0 <= distance <= 2
    mixed = rng.permutation(rows_SD)
    turn_DD = np.linalg.qr(rng.normal(size=(shape[2], shape[2])))[0]
    scaled = rows_SD * rng.uniform(0.1, 10, size=(len(rows_SD), 1))
    for same in (mixed, rows_SD @ turn_DD, scaled):
        assert vendi(same) == pytest.approx(score)
        assert mean_pairwise_distance(same) == pytest.approx(distance)
    # Every sample twice is as diverse, but has pairs that are equal.
    assert vendi(np.repeat(rows_SD, 2, axis=0)) == pytest.approx(score)
    assert mean_pairwise_distance(np.repeat(rows_SD, 2, axis=0)) <= distance + 1e-9


def test_a_prompt_is_the_mean_over_its_views() -> None:
    rows_SVD = features(3, 4, 5, 6)
    found = of_prompt(rows_SVD)
    assert found.n_seeds == 4
    assert found.vendi == pytest.approx(np.mean([vendi(rows_SVD[:, v]) for v in range(5)]))
    assert found.distance == pytest.approx(
        np.mean([mean_pairwise_distance(rows_SVD[:, v]) for v in range(5)])
    )


def test_the_turn_of_the_camera_is_no_diversity() -> None:
    ring_VD = np.eye(5, 8)  # views as different as can be, seeds equal
    found = of_prompt(np.stack([ring_VD] * 3))
    assert (found.vendi, found.distance) == pytest.approx((1, 0), abs=1e-12)


@pytest.mark.parametrize("shape", [(1, 5, 6), (0, 5, 6), (3, 0, 6), (3, 6)])
def test_fewer_than_two_seeds_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least two seeds"):
        of_prompt(np.ones(shape))


@pytest.mark.parametrize("rows", [np.zeros((2, 3)), np.full((2, 3), np.nan), np.ones(3), np.ones((0, 3))])
def test_unusable_features_are_refused(rows: np.ndarray) -> None:
    for metric in (vendi, mean_pairwise_distance):
        with pytest.raises(ValueError, match="expected finite rows"):
            metric(rows)


@given(shapes, st.data())
def test_vendi_of_a_number_is_the_mean_over_subsets(shape: tuple[int, int, int], data: st.DataObject) -> None:
    rows_SD = features(*shape)
    size = data.draw(st.integers(1, shape[1]))
    by_hand = [vendi(rows_SD[list(chosen)]) for chosen in itertools.combinations(range(shape[1]), size)]
    assert vendi(rows_SD, size) == pytest.approx(np.mean(by_hand))
    with pytest.raises(ValueError, match=f"of {shape[1] + 1} among {shape[1]}"):
        vendi(rows_SD, shape[1] + 1)


def test_more_seeds_of_one_population_are_no_more_diverse_at_an_equal_number() -> None:
    centre_D = features(1, 16)
    few, many = (
        [of_prompt(centre_D + features(seed, size, 1, 16), 2) for seed in range(300)] for size in (2, 8)
    )
    for name, within in (("vendi", 0.02), ("distance", 0.03)):
        one, other = (np.mean([getattr(each, name) for each in made]) for made in (few, many))
        assert other == pytest.approx(one, abs=within)
    own = [of_prompt(centre_D + features(seed, 8, 1, 16)).vendi for seed in range(20)]
    assert np.mean(own) > 1.5 * np.mean([one.vendi for one in few]), "all seeds of each: it grows with them"
    assert (many[0].n_seeds, many[0].vendi_of) == (8, 2)


def test_too_many_subsets_are_drawn_from() -> None:
    rows_SD = features(0, 20, 6)
    drawn = vendi(rows_SD, 10)  # of 184 756 subsets
    assert drawn == vendi(rows_SD, 10) and vendi(rows_SD, 9) < drawn < vendi(rows_SD, 11)


def test_collapse_is_judged_by_the_priors_own_spread() -> None:
    assert collapsed(0.04, 0.1) and not collapsed(0.06, 0.1)
    assert collapsed(0.06, 0.1, share=0.7)
    assert np.isnan(collapsed(0.0, float("nan"))), "nothing to compare with"
