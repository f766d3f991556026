"""Bradley–Terry strengths of several methods from votes between pairs of them. No torch.

Shape suffixes: K methods, B bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from eval.preference.duels import BOTH, Axis, Duels
from eval.statistics.intervals import RESAMPLES, Interval, percentile_interval
from harness.config import UserError

TOLERANCE = 1e-9  # of a log strength, between two iterations
ITERATIONS = 20_000


def connected(wins_BKK: np.ndarray) -> np.ndarray:
    """[B] bool: whether every method beats every other, directly or through others.

    Only then do finite strengths exist, and are unique. Source: Hunter 2004, assumption 1.
    """
    K = wins_BKK.shape[-1]
    reach_BKK = (wins_BKK > 0) | np.eye(K, dtype=bool)
    for _ in range(max(K - 1, 1).bit_length()):
        reach_BKK = reach_BKK @ reach_BKK
    return np.asarray(reach_BKK.all(axis=(1, 2)))


def bradley_terry(wins_BKK: np.ndarray) -> np.ndarray:
    """[B, K] log strengths β of mean zero, P(i over j) = 1 / (1 + exp(β_j − β_i)), that fit the wins best.

    Minorisation–maximisation, which raises the likelihood at every step. nan where no finite strengths exist
    (`connected`) or where they are so far apart that `ITERATIONS` do not reach them.
    Source: Hunter 2004, Ann. Statist. 32(1), eq. 3; ties are half a win of each.
    """
    strengths_BK = np.full(wins_BKK.shape[:2], np.nan)
    todo = np.flatnonzero(connected(wins_BKK))
    games_BKK = wins_BKK + wins_BKK.transpose(0, 2, 1)
    log_BK = np.zeros((len(todo), wins_BKK.shape[1]))
    for _ in range(ITERATIONS):
        if not len(todo):
            break
        gamma_BK = np.exp(log_BK)
        rate_BKK = games_BKK[todo] / (gamma_BK[:, :, None] + gamma_BK[:, None, :])
        new_BK = np.log(wins_BKK[todo].sum(axis=2)) - np.log(rate_BKK.sum(axis=2))
        new_BK -= new_BK.mean(axis=1, keepdims=True)
        done_B = np.abs(new_BK - log_BK).max(axis=1) < TOLERANCE
        strengths_BK[todo[done_B]] = new_BK[done_B]
        todo, log_BK = todo[~done_B], new_BK[~done_B]
    return strengths_BK


def ranking(
    duels: Duels, rng: np.random.Generator, over: Collection[Axis] = BOTH, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """Method → its log strength with a percentile interval over raters and prompts; strongest first.

    A resample without finite strengths opens the interval. Raises UserError where the votes have none.
    """
    [strength_K] = bradley_terry(duels.wins_KK[None])
    if np.isnan(strength_K).any():
        raise UserError(
            "no Bradley–Terry strengths: some methods never won, or were never compared, against the others"
        )
    wins_BKK = duels.resampled(rng, over, resamples)
    low_K = high_K = np.full(len(strength_K), np.nan)
    if not np.isnan(wins_BKK).any():
        low_K, high_K = percentile_interval(bradley_terry(wins_BKK))
    wins_K = duels.wins_KKRP.sum(axis=(1, 2, 3)) + duels.wins_KKRP.sum(axis=(0, 2, 3))
    prompts = len(duels.prompts)
    return {
        duels.methods[k]: Interval(
            float(strength_K[k]), float(low_K[k]), float(high_K[k]), prompts, round(wins_K[k])
        )
        for k in np.argsort(-strength_K, kind="stable")
    }
