"""The next candidates of a search, by optuna: a function of what was seen, of the seed and of the number of
the generation, so that nothing of an optimiser has to be kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.config import UserError
from harness.search.axes import Axis, Point, Sampler, settings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MOST_TRIES = 50  # for each candidate that is to be another than those before


@dataclass(frozen=True)
class Seen:
    """A candidate that was run: what it is worth, higher is better, and by how much it misses the level that
    is demanded; at most 0 where it does not."""

    point: Point
    value: float
    shortfall: float


def propose(
    axes: Sequence[Axis],
    seen: Sequence[Seen],
    taken: Sequence[Point],
    count: int,
    seed: int,
    generation: int,
    sampler: Sampler = "tpe",
) -> list[Point]:
    """`count` points, or fewer where the axes have no more, none of them seen or `taken`.

    tpe: the multivariate tree-structured Parzen estimator (Bergstra et al. 2011; Falkner et al. 2018), which
    takes those of a generation that are not told yet for bad ones, so that they differ. random: the control.
    """
    try:
        import optuna
    except ImportError:
        raise UserError("a search needs optuna: pip install 'dreamtime-harness[search]'") from None

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    own = seed * 1_000_003 + generation
    made = (
        optuna.samplers.RandomSampler(seed=own)
        if sampler == "random"
        else optuna.samplers.TPESampler(seed=own, multivariate=True, constant_liar=True, n_startup_trials=0)
    )
    space = distributions(axes)
    study = optuna.create_study(direction="maximize", sampler=made)
    for each in seen:
        study.add_trial(
            optuna.trial.create_trial(
                params=each.point,
                distributions=space,
                value=each.value,
                constraints={"level": each.shortfall},
            )
        )
    known = {settings(axes, point) for point in (*taken, *(each.point for each in seen))}
    found: list[Point] = []
    for _ in range(count * MOST_TRIES):
        if len(found) == count:
            break
        drawn = study.ask(space).params
        point = {name: value for axis in axes for name, value in axis.canonical(drawn).items()}
        if settings(axes, point) not in known:
            known.add(settings(axes, point))
            found.append(point)
    return found


def distributions(axes: Sequence[Axis]) -> dict[str, BaseDistribution]:
    """The axes as optuna has them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        name: CategoricalDistribution(axis.choices)
        if axis.choices
        else FloatDistribution(axis.low, axis.high, log=axis.log)
        for axis in axes
        for name in axis.coordinates
    }
