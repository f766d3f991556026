"""Timestep schedules: prior × W_d × range × order. No torch.

A schedule is a weight W(t) over the timesteps of a range. The optimisation spends steps in proportion to W:
in order, step i of N stands where a share i/N of the weight has been spent (DreamTime, eq. 4); at random, t ~
W.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Prior = Literal["constant", "gaussian", "piecewise", "ramp"]
Order = Literal["descending", "ascending", "scattered", "random"]


def signal_to_noise_weight(alphas_cumprod_T: ArrayLike) -> NDArray[np.float64]:
    """W_d(t) = √((1−ᾱ_t)/ᾱ_t) = 1/√SNR, [T] (DreamTime v2, eq. 5).

    A cosine noise schedule has W_d(T−1) of 10⁴ and more, or infinite: only a range that leaves the end out is
    usable.
    """
    alphas = np.asarray(alphas_cumprod_T, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.sqrt((1.0 - alphas) / alphas)


def gaussian(t: NDArray[np.float64], m: float, s: float) -> NDArray[np.float64]:
    """W_p(t) = exp(−(t−m)²/2s²) (DreamTime v2, eq. 6)."""
    return np.exp(-((t - m) ** 2) / (2.0 * s**2))


def piecewise(t: NDArray[np.float64], m1: float, m2: float, s1: float, s2: float) -> NDArray[np.float64]:
    """Flat between m2 and m1, with a Gaussian flank s1 above and s2 below (DreamTime v1, eq. 5)."""
    return np.where(t > m1, gaussian(t, m1, s1), np.where(t < m2, gaussian(t, m2, s2), 1.0))


def check_timesteps(last: int, **named: float | None) -> None:
    """ValueError, naming the setting, for one that is no timestep 0…`last`; None is none."""
    for name, t in named.items():
        if t is not None and not 0 <= t <= last:
            raise ValueError(f"{name}={t:g} is no timestep: choose one of 0…{last}")


class Schedule:
    """t(i) for i = 1…N, or t ~ W, over the inclusive range [t_min, t_max].

    `weights` is W over the whole noise schedule, [T]; it is cut to the range and normalised there. `floor`
    clips the timesteps from below afterwards (truncated linear). Timesteps are indices 0…T−1 into ᾱ.
    """

    def __init__(
        self,
        weights_T: ArrayLike,
        t_min: int,
        t_max: int,
        order: Order = "descending",
        floor: int | None = None,
    ):
        weights = np.asarray(weights_T, dtype=np.float64)
        if not 0 <= t_min <= t_max < len(weights):
            raise ValueError(f"timestep range {t_min}…{t_max} is not inside 0…{len(weights) - 1}")
        check_timesteps(len(weights) - 1, floor=floor)
        if floor is not None and floor > t_max:
            raise ValueError(f"floor={floor} is above the range {t_min}…{t_max}")
        inside = weights[t_min : t_max + 1]
        if not np.isfinite(inside).all() or (inside < 0).any():
            raise ValueError(f"the weight W(t) is not finite and positive everywhere in {t_min}…{t_max}")
        if inside.sum() <= 0:
            raise ValueError(f"the weight W(t) is 0 everywhere in the range {t_min}…{t_max}")
        self.t_min, self.t_max, self.order, self.floor = t_min, t_max, order, floor
        tail = np.cumsum(inside[::-1])
        # tail[k] = Σ_{t = t_max−k}^{t_max} W(t): rising in k, and exactly 1 at t_min.
        self._tail = tail / tail[-1]

    def timesteps(self, step_R: ArrayLike, total_R: ArrayLike, draws_R: ArrayLike) -> NDArray[np.int64]:
        """t of step i = 1…N for each run, int64 [R]; `draws_R` in [0, 1) is used by order "random" only.

        Ordered: t(i) = argmin over t' of |Σ_{t=t'}^{t_max} W(t) − i/N|; ascending is the same list backwards,
        scattered the same in an order that covers it evenly all the time.
        """
        step, total = np.asarray(step_R, dtype=np.int64), np.asarray(total_R, dtype=np.int64)
        if self.order == "random":
            # Smallest k whose tail exceeds the draw: t is drawn with probability W(t).
            k = np.searchsorted(self._tail, np.asarray(draws_R, dtype=np.float64), side="right")
            k = np.minimum(k, len(self._tail) - 1)
        else:
            i = step
            if self.order == "ascending":
                i = total + 1 - step
            elif self.order == "scattered":
                i = _scattered(step, total)
            k = self._nearest(i / total)
        t = self.t_max - k
        return t if self.floor is None else np.maximum(t, self.floor)

    def _nearest(self, share_R: NDArray[np.float64]) -> NDArray[np.int64]:
        """argmin over k of |tail[k] − share| by bisection; of equals (W too small to add) the largest k."""
        right = np.minimum(np.searchsorted(self._tail, share_R, side="right"), len(self._tail) - 1)
        left = np.maximum(right - 1, 0)
        nearer_right = np.abs(self._tail[right] - share_R) <= np.abs(self._tail[left] - share_R)
        return np.where(nearer_right, right, left)


def _scattered(step_R: NDArray[np.int64], total_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """Steps 1…N in another order: step i has the rank of frac(i·φ) among all N, φ the golden section, whose
    multiples cover [0, 1) about evenly however many there are."""
    return np.array([_ranks(int(total))[int(step) - 1] for step, total in np.broadcast(step_R, total_R)])


@cache
def _ranks(total: int) -> NDArray[np.int64]:
    places = np.arange(1, total + 1) * ((math.sqrt(5) - 1) / 2) % 1
    return np.argsort(np.argsort(places)) + 1


@dataclass(frozen=True)
class Density:
    """W(t) ∝ W_d(t)·W_p(t): which prior, its constants, and whether W_d takes part."""

    prior: Prior = "constant"
    snr_weight: bool = False  # W_d on or off
    m: float = 500.0  # gaussian
    s: float = 125.0
    m1: float = 800.0  # piecewise
    m2: float = 500.0
    s1: float = 300.0
    s2: float = 100.0

    def over(self, alphas_cumprod_T: ArrayLike, t_min: int, t_max: int) -> NDArray[np.float64]:
        """W(t), not normalised, [T]. The ramp W = t_max − t is HiFA's t = t_max − (t_max−t_min)·√(i/N).

        Raises ValueError where m, m1 or m2 is no timestep, and where m1 lies below m2.
        """
        t = np.arange(len(np.asarray(alphas_cumprod_T)), dtype=np.float64)
        # The defaults are of T = 1000, and stand where a prior has fewer.
        check_timesteps(max(len(t), 1000) - 1, m=self.m, m1=self.m1, m2=self.m2)
        if self.m2 > self.m1:
            raise ValueError(f"m1={self.m1:g} is below m2={self.m2:g}: the prior is flat from m2 up to m1")
        if self.prior == "gaussian":
            weights = gaussian(t, self.m, self.s)
        elif self.prior == "piecewise":
            weights = piecewise(t, self.m1, self.m2, self.s1, self.s2)
        elif self.prior == "ramp":
            weights = np.clip(t_max - t, 0.0, float(t_max - t_min))
        else:
            weights = np.ones_like(t)
        if self.snr_weight:
            # Cut before multiplying: W_d may be infinite outside the range, and inf·0 is not a weight.
            inside = (t >= t_min) & (t <= t_max)
            weights = np.where(inside, weights, 0.0)
            weights[inside] *= signal_to_noise_weight(alphas_cumprod_T)[inside]
        return weights


def sd_alphas_cumprod(
    timesteps: int = 1000, start: float = 0.00085, end: float = 0.012
) -> NDArray[np.float64]:
    """ᾱ of Stable Diffusion's "scaled_linear" noise schedule, [T]."""
    betas_T = np.linspace(start**0.5, end**0.5, timesteps, dtype=np.float64) ** 2
    return np.cumprod(1.0 - betas_T, dtype=np.float64)
