"""Radial power spectrum: how a render's detail is spread over spatial frequencies, against real images.

Luma, less its mean, times a Hann window; |FFT|² over the window's sum of squares; averaged over images and
over rings of frequencies. White noise of variance σ² has the power σ² in every ring, at any size.

- Slope: least squares of log10 power on log10 frequency. Natural images lie near −2. Source: Field, Relations
  between the statistics of natural images and the response properties of cortical cells, JOSA A 1987.
- Band error: mean |Δ log10 power| to reference images over the low, mid and high third of the frequencies,
  and over all: in numbers what DreamTime (Huang et al. 2024, fig. 4) shows as pictures.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd
from scipy.signal.windows import hann

from eval.metric import VIEWS, Column, Metric
from eval.metrics.appearance import luma
from eval.tables.rows import distinct, groups
from eval.tables.table import Cell, Table
from harness.config import UserError
from harness.records.files import resized

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
    # The periodic window: its transform is zero outside three frequencies, so a sinusoid stays in its ring.
    window_HW = np.outer(hann(height, sym=False), hann(width, sym=False))
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
    return float(np.polyfit(np.log10(frequency_K[band]), log_power(power_K)[band], 1)[0])


def band_error(power_K: np.ndarray, reference_K: np.ndarray) -> dict[str, float]:
    """Mean |Δ log10 power| in the `low`, `mid` and `high` third of the frequencies, and `overall`.

    1 is a factor of ten. ValueError for spectra of different or fewer than three rings: use the same `bins`.
    """
    if power_K.shape != reference_K.shape or power_K.ndim != 1 or len(power_K) < 3:
        raise ValueError(f"spectra of the shapes {power_K.shape} and {reference_K.shape} do not compare")
    error_K = np.abs(log_power(power_K) - log_power(reference_K))
    parts = zip(("low", "mid", "high"), np.array_split(error_K, 3), strict=True)
    return {name: float(part.mean()) for name, part in parts} | {"overall": float(error_K.mean())}


def log_power(power: np.ndarray | float) -> np.ndarray:
    """log10, of what an 8-bit picture can tell from none at the least."""
    return np.log10(np.maximum(power, FLOOR))


class Spectrum(Metric):
    """At three stages of every method: the first, the middle and the last evaluated step."""

    caption = "Radial power spectrum against real images: slope, and error in log10 power [95 % interval]"
    columns = (
        Column("slope", "slope"),
        Column("low", "low", better="lower"),
        Column("mid", "mid", better="lower"),
        Column("high", "high", better="lower"),
        Column("overall", "all", better="lower"),
    )
    needs = (VIEWS,)  # and real images, which may be ground truth or samples of the prior
    shown = ()
    remarks = (
        "low, mid, high: thirds of the frequencies up to Nyquist. Real images: ground truth where there is "
        "one, else the prior's own samples. Floor: the prior's own samples against them, or one half of the "
        "samples against the other.",
    )

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Radial power of every run's views at every evaluated step: run, method, prompt, seed, total, step,
        power [K]."""
        rows = []
        for run in self.runs.track(self.runs, "spectra"):
            ring = run.config.views.azimuths
            for step in self.runs.features[run.run_id][0]:
                power_K = radial_power(run.views(step)[:ring])
                rows.append(self.runs.about(run) | {"step": step, "power": power_K})
        return pd.DataFrame(rows, columns=["run", "method", "prompt", "seed", "total", "step", "power"])

    @cached_property
    def real(self) -> dict[str, np.ndarray]:
        """Radial power [K] of real images per prompt: ground truth, else the prior's samples; at the size of
        the runs' views, since a frequency is one per pixel."""
        runs = self.runs
        ring = runs[0].config.views.azimuths
        images = {prompt: views[:ring] for prompt, views in runs.truth.items()} or runs.prior_samples
        side = runs.side
        return {prompt: radial_power(resized(views, side)) for prompt, views in images.items()}

    @cached_property
    def floor(self) -> pd.DataFrame:
        """How far the prior's own samples are from the real images, the least that a distilled scene can be
        asked for: prompt, seed, slope and `band_error`; empty where there are no samples.

        Against ground truth all samples of a prompt together, as the views of a run; where the samples
        themselves stand for real images, one half of them against the other.
        """
        rows = []
        for prompt, images in self.runs.prior_samples.items():
            images, half = resized(images, self.runs.side), len(images) // 2
            if not self.runs.truth and not half:
                continue
            parts = (images, None) if self.runs.truth else (images[:half], radial_power(images[half:]))
            reference_K = self.real[prompt] if parts[1] is None else parts[1]
            power_K = radial_power(parts[0])
            rows.append({"prompt": prompt, "seed": 0} | _errors(power_K, reference_K))
        return pd.DataFrame(rows)

    def own_table(self) -> Table:
        """A row per method, N and stage, then the floor and the real images."""
        if not self.real:
            raise UserError("spectra need real images of the prompts: ground truth, or --prior-samples 4")
        rows: list[list[Cell]] = []
        frame = self.frame.loc[self.frame["prompt"].isin(self.real)]
        for method, total, part in groups(self.runs, frame):
            for step in stages(part):
                errors = pd.DataFrame(
                    {"prompt": row["prompt"], "seed": row["seed"]}
                    | _errors(row["power"], self.real[row["prompt"]])
                    for row in part.loc[part["step"] == step].to_dict("records")
                )
                counts = [distinct(errors, "prompt"), distinct(errors, "seed")]
                rows.append([method, total, int(step), *self.cells(errors), *counts])
        slopes = pd.DataFrame(
            {"prompt": prompt, "seed": 0, "slope": slope(power)} for prompt, power in self.real.items()
        )
        if len(self.floor):
            prompts = distinct(self.floor, "prompt")
            rows.append(["prior's samples (floor)", "–", "–", *self.cells(self.floor), prompts, "–"])
        ends = [self.columns[0].cell(slopes), *["–"] * 4, distinct(slopes, "prompt"), "–"]
        rows.append(["real images", "–", "–", *ends])
        heads = ["method", "N", "step", *self.heads, "prompts", "seeds"]
        return Table(self.name, [self.name], self.caption, heads, rows, self.notes())


def stages(frame: pd.DataFrame) -> list[int]:
    """The first, the middle and the last step of a frame."""
    steps = sorted(frame["step"].unique())
    return list(dict.fromkeys((steps[0], steps[len(steps) // 2], steps[-1])))


def _errors(power_K: np.ndarray, real_K: np.ndarray) -> dict[str, float]:
    return {"slope": slope(power_K)} | band_error(power_K, real_K)
