"""How far the convergence estimators can be trusted: studies whose answer is known, with noisy levels.

    python -m tests.eval.convergence_simulation

prints the tables of docs/protocol.md. A prompt's chance of being retrieved rises as 1 − exp(−s/τN) to a
plateau of its own (logit normal(2, 1.5), mean .81; τ = .25, so that 98 % of it are reached at N), a method's
as if each of its steps were 1/ratio steps of the baseline. A run is retrieved or not: Bernoulli at ten
checkpoints that hang together (a Gaussian copula, correlation .8 from one to the next), or at N of its own.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import norm

from eval.statistics.convergence import SHARES, OwnN, Pair, Ratio, own_n_of, ratio_of

FASTER = 0.65
TAU, STICKY = 0.25, 0.8
CHECKPOINTS = np.arange(1, 11) / 10
GRID = np.array([100.0, 200, 400])  # the N of separate runs; the largest is the baseline's N


def study(rng: np.random.Generator, n: int, ratio: float, x_X: np.ndarray, sticky: float) -> Pair:
    """n prompts, one run of each for a method and the baseline, scored at x (a share of N)."""
    plateau_P = 1 / (1 + np.exp(-rng.normal(2, 1.5, n)))

    def scores_PX(pace: float) -> np.ndarray:
        chance_PX = plateau_P[:, None] * (1 - np.exp(-x_X / pace / TAU))
        latent_PX = rng.normal(size=(n, len(x_X)))
        for k in range(1, len(x_X)):
            fresh_P = latent_PX[:, k]
            latent_PX[:, k] = sticky * latent_PX[:, k - 1] + math.sqrt(1 - sticky**2) * fresh_P
        return (norm.cdf(latent_PX) < chance_PX).astype(np.float64)

    return Pair(x_X, scores_PX(ratio), x_X, scores_PX(1.0), n, 0)


def checkpoints(
    n: int, ratio: float, studies: int, resamples: int, seed: int = 0
) -> dict[float, list[Ratio]]:
    """Share of the level → the ratio found by each study over checkpoints of one run."""
    rng = np.random.default_rng(seed)
    found: dict[float, list[Ratio]] = {share: [] for share in SHARES}
    for _ in range(studies):
        pair = study(rng, n, ratio, CHECKPOINTS, STICKY)
        for share in SHARES:
            found[share].append(ratio_of(pair, rng, share, resamples))
    return found


def own_n(n: int, ratio: float, studies: int, resamples: int, seed: int = 0) -> dict[float, list[OwnN]]:
    """Share of the level → the brackets found by each study over separate runs of `GRID` steps."""
    rng = np.random.default_rng(seed)
    found: dict[float, list[OwnN]] = {share: [] for share in SHARES}
    for _ in range(studies):
        shares = study(rng, n, ratio, GRID / GRID[-1], 0.0)
        pair = Pair(GRID, shares.method_PX, GRID, shares.baseline_PX, n, 0)
        for share in SHARES:
            found[share].append(own_n_of(pair, rng, share, resamples))
    return found


def covers(low: float, high: float, truth: float) -> bool:
    """Whether an interval holds the truth."""
    return low <= truth + 1e-9 and truth - 1e-9 <= high


def percent(flags: list[bool]) -> str:
    """A share of studies."""
    return f"{100 * float(np.mean(flags)):.0f}"


def main(studies: int = 300, resamples: int = 400) -> None:
    """Both tables, in Markdown."""
    print(
        "| true ratio | prompts | level | median | 5–95 % of studies | interval holds it | upper end < 1 | ∞ "
        "| upper end ∞ |"
    )
    for ratio in (FASTER, 1.0):
        for n in (24, 153):
            for share, found in checkpoints(n, ratio, studies, resamples).items():
                values = np.array([one.value for one in found])
                low, middle, high = np.quantile(values, [0.05, 0.5, 0.95], method="nearest")
                print(
                    f"| {ratio} | {n} | {100 * share:.0f} % | {middle:.2f} | {low:.2f}–{high:.2f} "
                    f"| {percent([covers(one.low, one.high, ratio) for one in found])} "
                    f"| {percent([one.high < 1 for one in found])} "
                    f"| {percent([math.isinf(one.value) for one in found])} "
                    f"| {percent([math.isinf(one.high) for one in found])} |"
                )
    print("| true ratio | prompts | level | bracket holds it | outer bracket holds it | outer end < 1 |")
    for ratio in (FASTER, 1.0):
        for n in (24, 153):
            for share, found in own_n(n, ratio, studies, resamples).items():
                ratios = [one.ratio for one in found]
                print(
                    f"| {ratio} | {n} | {100 * share:.0f} % "
                    f"| {percent([covers(one.low, one.high, ratio) for one in ratios])} "
                    f"| {percent([covers(one.outer_low, one.outer_high, ratio) for one in ratios])} "
                    f"| {percent([one.outer_high < 1 for one in ratios])} |"
                )


if __name__ == "__main__":
    main()
