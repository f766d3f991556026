"""Power against simulated studies, and `harness power` on runs and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import nctdtr, stdtrit
from typer.testing import CliRunner

from eval.command import open_runs
from eval.statistics import power as of
from eval.statistics.bench_coverage import CHECKPOINTS, first_right, gaps
from eval.statistics.convergence import Pair, ratio_of
from eval.statistics.intervals import LEVEL, difference_interval
from eval.statistics.power import MOST_SEEDS, Spread
from eval.tables import differences, power
from eval.tables.table import Number
from harness.cli import app
from harness.config import UserError, apply_overrides
from tests.eval.conftest import PROMPTS, TOY, Sweep

STUDIES = 2000


def as_runs(values_PS: np.ndarray) -> dict[str, list[float]]:
    return {str(p): list(own) for p, own in enumerate(values_PS)}


@pytest.mark.parametrize(
    ("prompts", "seeds", "alike"), [(51, 1, 2.0), (51, 3, 2.0), (153, 1, 0.2), (153, 2, 100.0)]
)
def test_the_smallest_visible_difference_is_shown_as_often_as_said(
    prompts: int, seeds: int, alike: float
) -> None:
    rng = np.random.default_rng(0)

    def population(gap: float) -> Spread:
        many = gaps(rng, (1, 3000, 4), rate=0.5, gap=gap, lost=0.1, alike=alike)[0]
        return of.spread_of(as_runs(many), shares=True)

    gap = 0.1
    for _ in range(4):  # the spread depends on the difference
        gap = of.smallest(population(gap), prompts, seeds)
    values_TPS = gaps(rng, (STUDIES, prompts, seeds), rate=0.5, gap=gap, lost=0.1, alike=alike)
    square_T = np.square(values_TPS).mean((1, 2))
    low, high = difference_interval(values_TPS.mean(2).T, square_T, prompts * seeds)
    assert float(((low > 0) | (high < 0)).mean()) == pytest.approx(0.8, abs=0.06)


def power_of(difference: float, spread: Spread, prompts: int, seeds: float) -> float:
    """How often so many prompts × seeds show a true difference; 1 where nothing varies."""
    if not (error := spread.error(prompts, seeds)):
        return 1.0
    edge = stdtrit(prompts - 1, (1 + LEVEL) / 2)
    below = np.nan_to_num(nctdtr(prompts - 1, difference / error, np.array([edge, -edge])))  # nan: underflow
    return float(1 - below[0] + below[1])


@given(
    between=st.floats(0, 0.5),
    within=st.floats(0, 0.5),
    seeds=st.integers(1, 5),
    points=st.floats(0.02, 0.5),
    wanted=st.sampled_from(of.POWERS),
)
def test_the_fewest_prompts_are_enough_and_one_less_is_not(
    between: float, within: float, seeds: int, points: float, wanted: float
) -> None:
    spread = Spread(between**2, within**2)
    found = of.prompts_for(points, spread, seeds, wanted, most=20_000)
    if found is None:
        assert of.smallest(spread, 20_000, seeds, wanted) > points
        return
    assert of.smallest(spread, found, seeds, wanted) <= points
    assert power_of(points, spread, found, seeds) >= wanted - 1e-3
    if found > 2:
        assert of.smallest(spread, found - 1, seeds, wanted) > points


def test_the_cheapest_grid_has_the_fewest_runs_of_all() -> None:
    spread = Spread(0.02, 0.2)
    tried = [
        (prompts * seeds, seeds, prompts)
        for seeds in range(1, MOST_SEEDS + 1)
        for prompts in range(2, 41)
        if of.smallest(spread, prompts, seeds) <= 0.1
    ]
    _, seeds, prompts = min(tried)
    assert seeds > 1 and of.cheapest(0.1, spread, 40) == (prompts, seeds)
    assert of.cheapest(0.01, spread, 40) is None


def test_the_variances_are_those_of_the_population() -> None:
    rng = np.random.default_rng(0)
    values = 0.1 + 0.3 * rng.normal(size=(4000, 1)) + 0.2 * rng.normal(size=(4000, 3))
    runs = as_runs(values)
    for p in range(0, 4000, 2):  # some prompts have fewer seeds
        runs[str(p)] = runs[str(p)][:2]
    found = of.spread_of(runs)
    assert found.between == pytest.approx(0.09, rel=0.08) and found.within == pytest.approx(0.04, rel=0.08)
    alone = of.spread_of({prompt: own[:1] for prompt, own in runs.items()})
    assert alone.between == pytest.approx(0.13, rel=0.08) and alone.within == 0


def test_the_power_of_a_ratio_is_that_of_studies_of_such_methods() -> None:
    rng, prompts, ratio = np.random.default_rng(0), 100, 0.5

    def curves(times: np.ndarray) -> np.ndarray:
        return (times[..., None] <= CHECKPOINTS).astype(np.float64)

    shown, studies = 0, 60
    for _ in range(studies):
        times_PSM = first_right(rng, (1, prompts, 1), 0.15, ratio)[0]
        theirs, ours = (curves(times_PSM[:, 0, which]) for which in range(2))
        found = ratio_of(Pair(CHECKPOINTS, ours, CHECKPOINTS, theirs, prompts, 0), rng, 0.8, 400)
        shown += found.high < 1
    pilot = {str(p): curves(own) for p, own in enumerate(first_right(rng, (1, 100, 4), 0.15)[0])}
    said = of.ratio_power(CHECKPOINTS, pilot, prompts, 1, ratio, 0.8, rng, studies=60)
    assert said == pytest.approx(shown / studies, abs=0.2)
    assert of.ratio_power(CHECKPOINTS, pilot, 12, 1, 0.9, 0.8, rng, studies=60) < 0.3 < said


def test_prompts_of_few_seeds_weigh_as_much_as_those_of_many() -> None:
    rng = np.random.default_rng(0)
    sizes = [1, 1, 1, 9, 9, 9]
    gaps = {f"p{k}": dict(enumerate(rng.choice([-1.0, 0.0, 1.0], n))) for k, n in enumerate(sizes)}
    spread = of.spread_of(gaps, shares=True)
    error = np.sqrt(spread.between / 6 + spread.within * sum(1 / n for n in sizes) / 36)
    known = of.smallest(Spread(1.0, 0.0), 6, 1) * np.sqrt(6)  # in standard errors
    assert differences.shown_from(gaps).value == pytest.approx(known * error)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    sweep = Sweep(tmp_path / "runs")
    for k, prompt in enumerate(PROMPTS):
        other = PROMPTS[(k + 1) % len(PROMPTS)]
        for seed in range(2):
            sweep.add("uniform_sds", prompt, seed, shows=[other, prompt if (k + seed) % 3 else other])
            sweep.add("tp_sds", prompt, seed, shows=prompt)
    return sweep.root


def test_the_tables_say_what_runs_could_have_seen(runs: Path, clip_folder: Path) -> None:
    found = open_runs(runs, clip=str(clip_folder), device="cpu")
    plan = power.planned_with(power.Plan(seeds=(1, 2)), found, None, hours=1, seconds=60, methods=None)
    assert (plan.prompts, plan.budget) == (6, 30)
    (first, needed, steps), lines = power.of_runs(found, plan)
    [row] = first.rows
    [same] = differences.table(found).rows
    visible, more = row[3:5]
    assert row[:3] == same[:3] and visible == same[3]
    assert isinstance(visible, Number) and isinstance(more, Number) and visible.value < more.value
    assert [row[0] for row in needed.rows] == ["5", "5", "10", "10", "20", "20"]
    assert [row[0] for row in steps.rows] == [6]
    assert lines[0].startswith("30 runs of each method: 6 prompts × 5 seeds show ")


def test_runs_of_several_settings_are_planned_from_the_one_that_controls_are_held_against(
    tmp_path: Path, clip_folder: Path
) -> None:
    sweep = Sweep(tmp_path / "runs")
    for cfg in (1, 20):
        config = apply_overrides(TOY, [f"guidance.cfg_scale={cfg}"])
        for prompt in PROMPTS:
            for method in ("uniform_sds", "tp_sds"):
                sweep.add(method, prompt, 0, shows=prompt, config=config, axes=("guidance.cfg_scale",))
    found = open_runs(sweep.root, clip=str(clip_folder), device="cpu")
    table = power.steps(found, power.Plan(prompts=6, seeds=(1,)))
    assert any(note.startswith("Simulated from uniform_sds, cfg_scale 20's curves") for note in table.notes)


def test_the_command_plans_with_runs_and_without(runs: Path, clip_folder: Path) -> None:
    run = CliRunner().invoke
    found = run(app, ["power", str(runs), "--clip", str(clip_folder), "--width", "10", "--seeds", "1"])
    assert found.exit_code == 0 and "What these runs could show" in found.output
    assert "an interval of ± 10 points takes" in found.output
    planned = run(
        app,
        [
            "power",
            "--spread",
            "30,20",
            "--difference",
            "10",
            "--hours",
            "1",
            "--seconds",
            "4",
            "--methods",
            "3",
        ],
    )
    assert planned.exit_code == 0 and "104 × 1" in planned.output
    assert "300 runs of each method: 153 prompts × 1 seeds" in planned.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--spread", "30"], "--spread takes two numbers"),
        (["--spread", "30,-1"], "--spread takes two numbers"),
        (["--spread", "30,20", "--hours", "1"], "--hours needs --seconds and --methods"),
        (["--spread", "30,20", "--ratio", "1"], "--ratio is above 0 and not 1"),
        (["--spread", "30,20", "--seeds", "0-2"], "--seeds are 1 or more"),
        (["--spread", "30,20", "--width", "0"], "--width is in points"),
        (["--spread", "30,20", "--hours", "0", "--seconds", "1", "--methods", "2"], "both are above 0"),
    ],
)
def test_what_cannot_be_planned_is_a_line(words: list[str], told: str) -> None:
    error = CliRunner().invoke(app, ["power", *words]).exception
    assert isinstance(error, UserError) and told in str(error)
