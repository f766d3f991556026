"""Radial power spectrum: how a render's detail is spread over spatial frequencies, against real images.

Luma, less its mean, times a Hann window; |FFT|² over the window's sum of squares; averaged over images and
over rings of frequencies. White noise of variance σ² has the power σ² in every ring, at any size.

- Slope: least squares of log10 power on log10 frequency. Natural images lie near −2. Source: Field, Relations
  between the statistics of natural images and the response properties of cortical cells, JOSA A 1987.
- Band error: mean |Δ log10 power| to reference images over the low, mid and high third of the frequencies,
  and over all: in numbers what DreamTime (Huang et al. 2024, fig. 4) shows as pictures.
"""

from __future__ import annotations

import numpy as np

from eval.metrics.appearance import luma

VERSION = 1
# The slope is fitted between these shares of the Nyquist frequency: below, the window smears the lowest rings
# into each other; above, the grid's aliasing and the sampling of the renderer show.
BAND = (1 / 8, 3 / 4)
# The noise of rounding to 8 bits, in the same units: no number below it can be told from zero.
FLOOR = 1 / (12 * 255**2)


def frequencies(bins: int) -> np.ndarray:
    """Centre of each ring in cycles per pixel, up to Nyquist, .5."""
    return np.arange(1, bins + 1) / (2 * bins)


def radial_power(images_VHWC: np.ndarray, bins: int | None = None) -> np.ndarray:
    """Mean power [K] over V uint8 RGB images in rings 1…K around frequency zero, the K-th at Nyquist.

    K is `bins`, by default half the shorter side: rings one cycle per image apart. ValueError for images too
    small for that many.
    """
    pixels_VHW = luma(images_VHWC)
    height, width = pixels_VHW.shape[1:]
    most = min(height, width) // 2
    count = most if bins is None else bins
    if not 1 <= count <= most:
        raise ValueError(f"{count} rings do not fit into images of {height} × {width}: 1 to {most} do")
    window_HW = np.outer(_hann(height), _hann(width))
    means_V = np.average(pixels_VHW, axis=(1, 2), weights=np.broadcast_to(window_HW, pixels_VHW.shape))
    windowed_VHW = (pixels_VHW - means_V[:, None, None]) * window_HW
    power_HW = (np.abs(np.fft.fft2(windowed_VHW)) ** 2).mean(axis=0) / np.square(window_HW).sum()
    radius_HW = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    ring_HW = np.rint(radius_HW * 2 * count).astype(int)
    inside = (ring_HW >= 1) & (ring_HW <= count)
    sums, counts = (np.bincount(ring_HW[inside], w, count + 1)[1:] for w in (power_HW[inside], None))
    return sums / counts


def slope(power_K: np.ndarray) -> float:
    """Exponent a of power ∝ frequency^a over `BAND`; ValueError for fewer than two rings in it."""
    frequency_K = frequencies(len(power_K))
    band = (frequency_K >= BAND[0] / 2) & (frequency_K <= BAND[1] / 2)
    if band.sum() < 2:
        raise ValueError(f"a slope needs two rings in its band, {len(power_K)} rings are too few")
    return float(np.polyfit(np.log10(frequency_K[band]), _log(power_K)[band], 1)[0])


def band_error(power_K: np.ndarray, reference_K: np.ndarray) -> dict[str, float]:
    """Mean |Δ log10 power| in the `low`, `mid` and `high` third of the frequencies, and `overall`.

    1 is a factor of ten. ValueError for spectra of different or fewer than three rings: use the same `bins`.
    """
    if power_K.shape != reference_K.shape or power_K.ndim != 1 or len(power_K) < 3:
        raise ValueError(f"spectra of the shapes {power_K.shape} and {reference_K.shape} do not compare")
    error_K = np.abs(_log(power_K) - _log(reference_K))
    parts = zip(("low", "mid", "high"), np.array_split(error_K, 3), strict=True)
    return {name: float(part.mean()) for name, part in parts} | {"overall": float(error_K.mean())}


def _log(power_K: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(power_K, FLOOR))


def _hann(size: int) -> np.ndarray:
    # The periodic window: its transform is zero outside three frequencies, so a sinusoid stays in its ring.
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
