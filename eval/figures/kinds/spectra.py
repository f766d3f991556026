"""Radial spectra against real images (fig. 4)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from eval.figures.curves import counted
from eval.figures.figure import Figure
from eval.figures.looks import looks
from eval.figures.style import INK, PAGE, Sheet, chart_of, handle, legend, power_of_ten
from eval.metrics.spectrum import Spectrum, frequencies, log_power, stages
from eval.runs import Runs
from eval.tables.rows import longest
from harness.config import UserError

REFERENCE = "real images"


def spectra(runs: Runs) -> Sheet:
    """Power over radial frequency per method at three stages, and its ratio to real images of the prompts.

    Geometric means over prompts of those over seeds, of the runs with the most steps. Raises UserError where
    there is no image to hold them against.
    """
    spectrum = runs.of(Spectrum)
    frame, real = spectrum.frame, spectrum.real
    frame = frame.loc[frame["prompt"].isin(real)]
    if frame.empty:
        raise UserError("spectra need real images of the prompts: ground truth, or samples of the prior")
    places = zip(frame["prompt"], frame["power"], strict=True)
    if any(power.shape != real[prompt].shape for prompt, power in places):
        raise UserError("renders and real images differ in size, so their spectra do not compare")
    frame = longest(frame)
    steps = stages(frame)
    source = "ground truth" if runs.truth else "samples of the prior"
    caption = (
        f"{counted(frame)}, every view of the ring; real images: {source}. Geometric means over prompts."
    )
    sheet = chart_of(runs, PAGE, 3.5, caption)
    panels = sheet.subplots(2, len(steps), sharex=True, sharey="row", squeeze=False, height_ratios=(2, 1))
    look = looks(runs.methods)
    for (top, bottom), step in zip(panels.T, steps, strict=True):
        at = frame.loc[frame["step"] == step]
        for method in runs.methods:
            own = at.loc[at["method"] == method]
            if own.empty:
                continue
            log_K, real_K = _log_mean(own), _log_real(own, real)
            line = {"color": look[method].colour, "linestyle": look[method].line}
            x_K = frequencies(len(log_K))
            top.plot(x_K, 10**log_K, **line)
            bottom.plot(x_K, 10 ** (log_K - real_K), **line)
        real_K = _log_real(at, real)
        top.plot(frequencies(len(real_K)), 10**real_K, color=INK, linestyle=":")
        bottom.axhline(1, color=INK, linestyle=":")
        top.set(title=f"step {step}", yscale="log", xscale="log")
        bottom.set(yscale="log", xlabel="cycles per pixel")
        bottom.xaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5]))
        bottom.xaxis.set_major_formatter("{x:g}")
        for axes, decades in ((top, 5), (bottom, 4)):
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_locator(LogLocator(numticks=decades))
            axes.yaxis.set_major_formatter(power_of_ten)
            axes.yaxis.set_minor_locator(NullLocator())
    panels[0, 0].set_ylabel("power")
    panels[1, 0].set_ylabel("÷ real")
    entries = [handle(name, look[name], marker="") for name in runs.methods]
    entries.append(handle(REFERENCE, look[runs.methods[0]], marker="", color=INK, linestyle=":"))
    legend(sheet, entries)
    return sheet.shows(frame["run"])


def _log_mean(frame: pd.DataFrame) -> np.ndarray:
    """log10 power [K]: mean over prompts of the mean over seeds."""
    by_prompt = frame.groupby("prompt")["power"]
    return np.mean([log_power(np.stack(list(powers))).mean(axis=0) for _, powers in by_prompt], axis=0)


def _log_real(frame: pd.DataFrame, real: Mapping[str, np.ndarray]) -> np.ndarray:
    """log10 power [K] of real images of the frame's prompts."""
    return np.mean([log_power(real[prompt]) for prompt in sorted(set(frame["prompt"]))], axis=0)


class Spectra(Figure):
    needs = "runs and real images of their prompts"
    metrics = ("spectrum",)
    plot = staticmethod(spectra)
