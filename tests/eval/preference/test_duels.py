"""Win rates, strengths and agreement of votes, against scipy, by hand, and by their invariants."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy import stats as scipy_stats

from eval.preference.agreement import alpha, same_vote
from eval.preference.duels import SCORE, Axis, Duels, wilson, win_rate
from eval.preference.ranking import bradley_terry, connected, ranking
from harness.config import UserError

FEW = 400  # resamples


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def frame(rows: list[tuple[str, str, str]], a: str = "x", b: str = "y") -> pd.DataFrame:
    """Votes of (rater, prompt, winner)."""
    made = pd.DataFrame(rows, columns=["rater", "prompt", "winner"])
    return made.assign(pair=made["prompt"], method_a=a, method_b=b, question="overall")


def swapped(votes: pd.DataFrame) -> pd.DataFrame:
    """The same votes, with the two sides of every pair called the other way round."""
    return votes.assign(
        method_a=votes["method_b"],
        method_b=votes["method_a"],
        winner=[{"a": "b", "b": "a", "tie": "tie"}[winner] for winner in votes["winner"]],
    )


@st.composite
def studies(draw: st.DrawFn) -> pd.DataFrame:
    """Votes of 2–5 raters on 2–5 prompts; not every rater saw every prompt."""
    cells = itertools.product(range(draw(st.integers(2, 5))), range(draw(st.integers(2, 5))))
    outcome = st.sampled_from(["a", "b", "tie", None])
    rows = [(f"r{r}", f"p{p}", winner) for r, p in cells if (winner := draw(outcome)) is not None]
    return frame(rows or [("r0", "p0", "a")])


@settings(max_examples=80, deadline=None, derandomize=True)
@given(studies(), st.sampled_from([("raters",), ("prompts",), ("raters", "prompts")]))
def test_swapping_the_sides_mirrors_and_swapping_their_names_changes_nothing(
    votes: pd.DataFrame, over: tuple[Axis, ...]
) -> None:
    duels, other = Duels.of(votes, ("x", "y")), Duels.of(swapped(votes), ("y", "x"))
    one, back, same = (
        win_rate(*asked, rng(), over, FEW)
        for asked in ((duels, "x", "y"), (duels, "y", "x"), (other, "x", "y"))
    )
    assert (one.value, one.low, one.high) == pytest.approx(
        (1 - back.value, 1 - back.high, 1 - back.low), nan_ok=True
    )
    assert (one.value, one.low, one.high) == pytest.approx((same.value, same.low, same.high), nan_ok=True)
    assert one.value == pytest.approx(np.mean([SCORE[winner] for winner in votes["winner"]]))
    assert math.isnan(one.low) or 0 <= one.low <= one.high <= 1


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 300), st.data())
def test_wilson_agrees_with_scipy_and_mirrors(votes: int, data: st.DataObject) -> None:
    wins = data.draw(st.integers(0, votes))
    theirs = scipy_stats.binomtest(wins, votes).proportion_ci(method="wilson")
    assert wilson(wins, votes) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    low, high = wilson(votes - wins, votes)
    assert wilson(wins, votes) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    with pytest.raises(ValueError, match="wins of"):
        wilson(votes + 1, votes)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(studies())
def test_raters_who_say_the_same_again_narrow_wilson_alone(votes: pd.DataFrame) -> None:
    copies = pd.concat([votes, *(votes.assign(rater=votes["rater"] + f"-{copy}") for copy in range(3))])
    once, more = (Duels.of(rows, ("x", "y")) for rows in (votes, copies))
    a, b = (win_rate(duels, "x", "y", rng(), ("prompts",), FEW) for duels in (once, more))
    assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), nan_ok=True)
    one, four = (wilson(d.wins_KK[0, 1], n.n_runs) for d, n in ((once, a), (more, b)))
    assert four[1] - four[0] < one[1] - one[0]


def test_the_interval_over_raters_is_near_that_of_their_means() -> None:
    generator = np.random.default_rng(3)
    wins_RP = generator.random((25, 8)) < generator.beta(2, 1, size=(25, 1))
    votes = frame([(f"r{r:02d}", f"p{p}", "a" if won else "b") for (r, p), won in np.ndenumerate(wins_RP)])
    ours = win_rate(Duels.of(votes, ("x", "y")), "x", "y", rng(), ("raters",), 20_000)
    theirs = scipy_stats.bootstrap(
        (wins_RP.mean(axis=1),),
        np.mean,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)
    assert ours.high - ours.low > theirs.high - theirs.low, "25 raters' percentiles are too narrow"
    both = win_rate(Duels.of(votes, ("x", "y")), "x", "y", rng())
    assert both.high - both.low > ours.high - ours.low, "prompts vary, too"


def test_votes_that_all_say_the_same_are_no_certainty() -> None:
    cells = [(f"r{r}", f"p{p}") for r, p in itertools.product(range(6), range(9))]
    all_won, all_tied = (
        Duels.of(frame([(*cell, winner) for cell in cells]), ("x", "y")) for winner in ("a", "tie")
    )
    won, tied = (win_rate(duels, "x", "y", rng(), resamples=FEW) for duels in (all_won, all_tied))
    assert (won.value, won.low, won.high) == pytest.approx((1, 0.61, 1), abs=5e-3), "as six hits of six"
    assert tied.low < 0.4 and tied.high > 0.6


def test_one_rater_says_nothing_of_others() -> None:
    duels = Duels.of(frame([("r", "p1", "a"), ("r", "p2", "b"), ("r", "p3", "a")]), ("x", "y"))
    assert math.isnan(win_rate(duels, "x", "y", rng()).low)
    assert 0 < win_rate(duels, "x", "y", rng(), ("prompts",), FEW).low < 0.3
    nothing = win_rate(Duels.of(frame([]), ("x", "y")), "x", "y", rng())
    assert math.isnan(nothing.value) and nothing.n_runs == 0


def crossed_study(generator: np.random.Generator, raters: int, prompts: int) -> pd.DataFrame:
    """Votes whose log odds are .6, plus an effect of the rater and one of the prompt, both of sd .8."""
    logit_RP = 0.6 + 0.8 * (generator.normal(size=(raters, 1)) + generator.normal(size=(1, prompts)))
    won_RP = generator.random((raters, prompts)) < 1 / (1 + np.exp(-logit_RP))
    return frame([(f"r{r:02d}", f"p{p:02d}", "a" if won else "b") for (r, p), won in np.ndenumerate(won_RP)])


def test_the_interval_over_raters_and_prompts_covers_and_wilson_alone_does_not() -> None:
    generator = np.random.default_rng(7)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    truth = float((weights / (1 + np.exp(-(0.6 + 0.8 * math.sqrt(2) * nodes)))).sum() / weights.sum())
    studies, crossed, single = 200, 0, 0
    for _ in range(studies):
        votes = crossed_study(generator, raters=30, prompts=24)
        duels = Duels.of(votes, ("x", "y"))
        found = win_rate(duels, "x", "y", generator, resamples=FEW)
        crossed += found.low <= truth <= found.high
        low, high = wilson(duels.wins_KK[0, 1], len(votes))
        single += low <= truth <= high
    fewest = scipy_stats.binom.ppf(1e-3, studies, 0.95)
    assert single < fewest <= crossed


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 50))
def test_of_two_methods_the_gap_is_the_logit_of_the_win_rate(won: int, lost: int, ties: int) -> None:
    wins_KK = np.array([[0, won + ties / 2], [lost + ties / 2, 0]])
    [(x, y)] = bradley_terry(wins_KK[None])
    share = (won + ties / 2) / (won + lost + ties)
    assert x - y == pytest.approx(math.log(share / (1 - share)), abs=1e-7) and x + y == pytest.approx(
        0, abs=1e-9
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(3, 5), st.integers(0, 10_000))
def test_strengths_are_those_of_the_highest_likelihood(K: int, seed: int) -> None:
    wins_KK = np.random.default_rng(seed).integers(1, 30, size=(K, K)) * (1 - np.eye(K))

    def loss(free: np.ndarray) -> float:
        strength_K = np.append(free, 0.0)
        return float((wins_KK * np.logaddexp(0, strength_K[None, :] - strength_K[:, None])).sum())

    theirs = np.append(optimize.minimize(loss, np.zeros(K - 1), tol=1e-10).x, 0.0)
    [ours, doubled] = bradley_terry(np.stack([wins_KK, 2 * wins_KK]))
    assert ours == pytest.approx(theirs - theirs.mean(), abs=1e-4) and doubled == pytest.approx(
        ours, abs=1e-6
    )
    [turned] = bradley_terry(wins_KK.T[None])
    assert turned == pytest.approx(-ours, abs=1e-6), "losses for wins turn the order round"


def test_without_a_way_from_every_method_to_every_other_there_are_no_strengths() -> None:
    ring = np.zeros((1, 4, 4))
    for i in range(4):
        ring[0, i, (i + 1) % 4] = 1
    chain, islands = ring.copy(), np.zeros((1, 4, 4))
    chain[0, 3, 0] = 0
    islands[0, [0, 1, 2, 3], [1, 0, 3, 2]] = 1
    assert list(connected(np.concatenate([ring, chain, islands]))) == [True, False, False]
    assert bradley_terry(ring) == pytest.approx(np.zeros((1, 4)), abs=1e-9)
    assert np.isnan(bradley_terry(np.concatenate([chain, islands]))).all()
    with pytest.raises(UserError, match="no Bradley–Terry strengths"):
        ranking(Duels.of(frame([("r", "p", "a")]), ("x", "y")), rng())


def test_known_strengths_lie_within_their_intervals() -> None:
    generator, true = np.random.default_rng(5), {"x": 0.8, "y": 0.0, "z": -0.8}
    rows = []
    for rater, prompt in itertools.product(range(30), range(12)):
        for a, b in itertools.combinations(true, 2):
            won = generator.random() < 1 / (1 + math.exp(true[b] - true[a]))
            rows.append(frame([(f"r{rater:02d}", f"p{prompt:02d}", "a" if won else "b")], a, b))
    found = ranking(Duels.of(pd.concat(rows), tuple(true)), rng(), resamples=FEW)
    assert list(found) == ["x", "y", "z"]
    for name, strength in found.items():
        assert strength.low < true[name] < strength.high and strength.high - strength.low < 0.5


def unit(pair: str, winners: str) -> list[tuple[str, str, str]]:
    names = {"a": "a", "b": "b", "t": "tie"}
    return [(f"r{rater}", pair, names[winner]) for rater, winner in enumerate(winners)]


def test_alpha_by_hand() -> None:
    # Two raters, ten units, binary: Krippendorff 2011, section A; alpha = .095.
    first, second = "abaaaaaaba", "bbbaaabaaa"
    votes = frame(
        [
            row
            for u, both in enumerate(zip(first, second, strict=True))
            for row in unit(f"p{u}", "".join(both))
        ]
    )
    found = alpha(votes, rng())
    assert found.value == pytest.approx(0.095, abs=5e-4) and found.low <= found.value <= found.high
    assert same_vote(votes) == pytest.approx(0.6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from("abt"), min_size=2, max_size=8), st.integers(2, 5))
def test_agreement_is_one_where_all_agree_and_undefined_where_all_say_one_thing(
    said: list[str], raters: int
) -> None:
    votes = frame([row for u, winner in enumerate(said) for row in unit(f"p{u}", winner * raters)])
    value = alpha(votes, rng()).value
    assert value == pytest.approx(1) if len(set(said)) > 1 else math.isnan(value)
    assert same_vote(votes) == 1


def test_raters_who_always_differ_agree_less_than_by_chance() -> None:
    votes = frame([row for u in range(6) for row in unit(f"p{u}", "ab" if u % 2 else "ba")])
    assert alpha(votes, rng()).value < 0 and same_vote(votes) == 0
    lone = frame([("r0", "p0", "a"), ("r1", "p1", "b")])
    assert math.isnan(alpha(lone, rng()).value) and math.isnan(same_vote(lone))
