from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import rgb_to_hsv

from eval.metrics.appearance import adjacent_consistency, contrast, luma, saturation

seeds = st.integers(0, 2**32 - 1)


def pictures(seed: int, views: int = 3) -> np.ndarray:
    images = np.random.default_rng(seed).integers(0, 256, (views, 6, 7, 3), dtype=np.uint8)
    images[:, 0] = 0  # black has no hue: its saturation is 0 by definition
    return images


@given(seeds)
def test_saturation_agrees_with_matplotlib(seed: int) -> None:
    assert saturation(pictures(seed)) == pytest.approx(rgb_to_hsv(pictures(seed) / 255)[..., 1].mean())


def test_saturation_of_known_colours() -> None:
    colours = {(255, 0, 0): 1, (200, 200, 200): 0, (0, 0, 0): 0, (200, 100, 100): 0.5}
    for colour, expected in colours.items():
        assert saturation(np.full((1, 2, 2, 3), colour, dtype=np.uint8)) == pytest.approx(expected)


@given(seeds)
def test_contrast_is_the_spread_of_luma_per_image(seed: int) -> None:
    expected = np.mean([np.std(image @ [0.2126, 0.7152, 0.0722] / 255) for image in pictures(seed)])
    assert contrast(pictures(seed)) == pytest.approx(expected)


def test_contrast_of_known_images() -> None:
    board = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    board[:, ::2] = 255
    assert contrast(board) == pytest.approx(0.5)  # the largest there is
    flat = np.stack([np.full((8, 8, 3), level, dtype=np.uint8) for level in (0, 255)])
    assert contrast(flat) == pytest.approx(0)  # views of different brightness are no contrast


def test_luma_of_grey_is_its_level() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 16, 16, 3)
    assert luma(grey).ravel() == pytest.approx(np.arange(256) / 255)
    assert luma(np.array([[[[0, 255, 0]]]], dtype=np.uint8)).item() == pytest.approx(0.7152)


def test_over_saturated_and_washed_out_pictures_are_told_apart() -> None:
    ramp = np.linspace(60, 180, 32)
    image = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], 120), axis=-1)
    loud, plain, pale = (
        np.clip(128 + gain * (image - 128), 0, 255).astype(np.uint8)[None] for gain in (2.0, 1.0, 0.3)
    )
    assert saturation(loud) > saturation(plain) > saturation(pale)
    assert contrast(loud) > contrast(plain) > contrast(pale)


@given(seeds, st.integers(2, 9))
def test_neighbours_on_a_closed_ring(seed: int, views: int) -> None:
    rows_VD = np.random.default_rng(seed).normal(size=(views, 5))
    pairs = [(rows_VD[k], rows_VD[(k + 1) % views]) for k in range(views)]
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
    assert adjacent_consistency(rows_VD) == pytest.approx(1 - np.mean(cosines))
    # Where the ring starts and which way round it goes does not matter.
    assert adjacent_consistency(np.roll(rows_VD, 1, axis=0)[::-1]) == pytest.approx(
        adjacent_consistency(rows_VD)
    )


def test_a_ring_that_turns_evenly() -> None:
    turn = np.deg2rad(np.arange(0, 360, 45))
    assert adjacent_consistency(np.stack([np.cos(turn), np.sin(turn)], axis=1)) == pytest.approx(
        1 - np.cos(np.pi / 4)
    )
    assert adjacent_consistency(np.ones((8, 4))) == pytest.approx(0)


@pytest.mark.parametrize(
    "images", [pictures(0)[0], pictures(0) / 255, np.zeros((1, 2, 2, 4), dtype=np.uint8)]
)
def test_anything_but_uint8_rgb_is_refused(images: np.ndarray) -> None:
    for metric in (saturation, contrast, luma):
        with pytest.raises(ValueError, match="expected uint8"):
            metric(images)


def test_one_view_has_no_neighbour() -> None:
    with pytest.raises(ValueError, match="at least two views"):
        adjacent_consistency(np.ones((1, 4)))
