from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import fft2
from scipy.signal.windows import hann

from eval.metrics.appearance import luma
from eval.metrics.spectrum import FLOOR, band_error, frequencies, radial_power, slope


def grey(values_VHW: np.ndarray) -> np.ndarray:
    """Values around 0 as uint8 pictures: 100 levels to the unit, mid-grey at 0."""
    levels = np.rint(128 + 100 * values_VHW).clip(0, 255).astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=-1)


def wave(cycles_x: float, cycles_y: float, size: int = 64, amplitude: float = 1.0) -> np.ndarray:
    y, x = np.mgrid[:size, :size] / size
    return grey(amplitude * np.sin(2 * np.pi * (cycles_x * x + cycles_y * y) + 0.3)[None])


def noise(exponent: float, size: int, seed: int, views: int = 6) -> np.ndarray:
    """Noise whose power falls as frequency^exponent."""
    white = np.fft.fft2(np.random.default_rng(seed).normal(size=(views, size, size)))
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    radius[0, 0] = np.inf
    field = np.fft.ifft2(white * radius ** (exponent / 2)).real
    return grey(0.3 * field / field.std())


@given(st.integers(1, 31), st.integers(0, 31))
def test_a_sinusoid_lands_in_its_ring(cycles_x: int, cycles_y: int) -> None:
    radius = int(np.rint(np.hypot(cycles_x, cycles_y)))
    if radius > 31:
        return
    power_K = radial_power(wave(cycles_x, cycles_y))
    # The window lets it into the neighbouring frequencies, and their rings, only.
    near = np.abs(np.arange(1, 33) - radius) <= 2
    assert power_K.argmax() + 1 in range(radius - 1, radius + 2)
    assert power_K[~near].max() < 1e-3 * power_K.max()


def test_the_ring_does_not_depend_on_direction() -> None:
    rings = [radial_power(wave(*cycles)).argmax() + 1 for cycles in ((10, 0), (0, 10), (6, 8), (8, -6))]
    assert rings == [10] * 4


@settings(max_examples=20)
@given(st.sampled_from([(64, 64), (48, 80), (33, 40), (128, 128)]), st.integers(0, 2**16))
def test_white_noise_is_flat_at_its_variance_whatever_the_size(size: tuple[int, int], seed: int) -> None:
    values = np.random.default_rng(seed).normal(0, 0.3, (16, *size))
    power_K = radial_power(grey(values))
    variance = luma(grey(values)).var()
    assert power_K.mean() == pytest.approx(variance, rel=0.15)
    outer = power_K[3:]  # the first rings hold few frequencies
    assert outer == pytest.approx(np.full(len(outer), variance), rel=0.5)
    assert abs(slope(power_K)) < 0.3  # the first rings scatter; pictures fall by 2 and more


def test_all_rings_together_hold_the_energy() -> None:
    # Parseval, on what has no energy beyond the outermost ring: the mean square over frequencies is the
    # windowed image's mean square over pixels.
    size = 64
    images = noise(-3.0, size, seed=1, views=1)
    power_K = radial_power(images)
    radius = np.rint(np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)) * size).astype(int)
    counts = np.bincount(radius.ravel(), minlength=len(power_K) + 1)[1 : len(power_K) + 1]
    window = np.outer(*[hann(size, sym=False)] * 2)
    pixels = luma(images)[0]
    windowed = (pixels - (pixels * window).sum() / window.sum()) * window
    energy = np.square(windowed).sum() / np.square(window).sum()
    assert (counts * power_K).sum() / size**2 == pytest.approx(energy, rel=0.01)


def test_agrees_with_a_second_implementation() -> None:
    images = np.random.default_rng(5).integers(0, 256, (2, 12, 18, 3), dtype=np.uint8)
    window = np.outer(hann(12, sym=False), hann(18, sym=False))
    rings: dict[int, list[float]] = {}
    for image in luma(images):
        transform = fft2((image - (image * window).sum() / window.sum()) * window)
        for (i, j), value in np.ndenumerate(transform):
            radius = math.hypot(min(i, 12 - i) / 12, min(j, 18 - j) / 18)  # cycles per pixel
            rings.setdefault(round(12 * radius), []).append(abs(value) ** 2 / (window**2).sum())
    assert radial_power(images) == pytest.approx([np.mean(rings[k]) for k in range(1, 7)])


@settings(max_examples=20)
@given(st.sampled_from([-1.0, -2.0, -3.0]), st.sampled_from([48, 64, 96]), st.integers(0, 2**16))
def test_the_slope_of_power_law_noise(exponent: float, size: int, seed: int) -> None:
    power_K = radial_power(noise(exponent, size, seed, views=24))
    assert slope(power_K) == pytest.approx(exponent, abs=0.3)


@given(st.floats(-4, 1), st.floats(1e-3, 1e3), st.integers(8, 64))
def test_the_slope_of_an_exact_power_law(exponent: float, scale: float, bins: int) -> None:
    assert slope(scale * frequencies(bins) ** exponent) == pytest.approx(exponent, abs=1e-6)


def test_flat_images_have_no_power_and_no_slope() -> None:
    power_K = radial_power(np.full((2, 32, 32, 3), 90, dtype=np.uint8))
    assert power_K.max() < FLOOR
    assert slope(power_K) == pytest.approx(0)
    assert band_error(power_K, power_K * 0)["overall"] == 0


def test_blur_is_an_error_of_the_high_band() -> None:
    sharp = noise(-1.5, 64, seed=2)
    kernel = np.array([1, 2, 1]) / 4
    values = luma(sharp)
    for axis in (1, 2):
        values = np.sum(
            [w * np.roll(values, k, axis) for w, k in zip(kernel, (-1, 0, 1), strict=True)], axis=0
        )
    error = band_error(radial_power(grey(values * 2.55 - 1.28)), radial_power(sharp))
    assert error["low"] < error["mid"] < error["high"]
    assert error["low"] < 0.2 and error["high"] > 1


def test_band_error_by_hand() -> None:
    reference_K = np.ones(6)
    power_K = np.array([1, 1, 10, 10, 0.01, 100.0])
    assert band_error(power_K, reference_K) == pytest.approx({"low": 0, "mid": 1, "high": 2, "overall": 1})
    assert band_error(reference_K, power_K) == band_error(power_K, reference_K)


def test_fewer_bins_for_images_of_different_sizes() -> None:
    small, large = radial_power(noise(-2.0, 32, 3), bins=16), radial_power(noise(-2.0, 64, 3), bins=16)
    assert len(small) == len(large) == 16
    assert len(frequencies(16)) == 16 and frequencies(16)[-1] == 0.5
    assert slope(large) == pytest.approx(-2, abs=0.35)
    with pytest.raises(ValueError, match="33 rings do not fit into images of 64 × 64"):
        radial_power(noise(-2.0, 64, 3), bins=33)
    with pytest.raises(ValueError, match="do not compare"):
        band_error(small, small[:-1])
    with pytest.raises(ValueError, match="too few"):
        slope(np.ones(2))


def test_the_order_of_views_and_a_quarter_turn_do_not_matter() -> None:
    images = noise(-1.0, 48, seed=4)
    power_K = radial_power(images)
    assert radial_power(images[::-1]) == pytest.approx(power_K)
    assert radial_power(np.transpose(images, (0, 2, 1, 3))) == pytest.approx(power_K)
    assert radial_power(images) == pytest.approx(np.mean([radial_power(x[None]) for x in images], axis=0))
