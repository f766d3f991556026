"""Distances to the prior's own samples, on populations whose distance is known."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import sqrtm

from eval.command import open_runs, write_tables
from eval.metrics.prior_distance import (
    cubic,
    discrepancies,
    frechet,
    gaussian,
    leave_one_out,
    over_suite,
)
from eval.scorers.clip import Clip
from eval.statistics.intervals import jackknife_interval
from tests.eval.conftest import PROMPTS, Sweep, picture


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def suite(draws: np.random.Generator, prompts: int, images: int, spread: float = 0.5, shift: float = 0.0):
    """Images around a centre of each prompt; the centres are always the same."""
    centres = np.random.default_rng(0).normal(size=(prompts, 1, 6))
    rows = centres + spread * draws.normal(size=(prompts, images, 6)) + shift * np.eye(6)[0]
    return {str(p): unit(rows[p]) for p in range(prompts)}


@pytest.mark.parametrize("kernel", [gaussian, cubic])
def test_every_block_is_the_mean_over_its_pairs(kernel) -> None:
    draws = np.random.default_rng(1)
    found, real = suite(draws, 4, 3), suite(draws, 4, 5)
    blocks_PP = discrepancies(found, real, kernel)

    def k(x, y):  # as the papers write them
        return 1000 * np.exp(-np.square(x - y).sum() / 200) if kernel is gaussian else (x @ y + 1) ** 3

    def pairs(a, b):
        return np.mean([k(x, y) for x in a for y in b if x is not y])

    for p in found:
        for q in found:
            x, y = list(found[p]), list(real[p])
            if p == q:
                expected = pairs(x, x) + pairs(y, y) - 2 * pairs(x, y)
            else:
                u, v = list(found[q]), list(real[q])
                expected = pairs(x, u) + pairs(y, v) - pairs(x, v) - pairs(y, u)
            assert blocks_PP[int(p), int(q)] == pytest.approx(expected, abs=1e-9)
    off = [blocks_PP[p, q] for p in range(4) for q in range(4) if p != q]
    value, without_P = over_suite(blocks_PP)
    assert value == pytest.approx(np.mean(off))
    assert without_P[3] == pytest.approx(over_suite(blocks_PP[:3, :3])[0])


def test_equal_populations_are_at_zero_whatever_the_numbers_of_images() -> None:
    suites, prompts = [], []
    for trial in range(200):
        draws = np.random.default_rng(trial)
        blocks_PP = discrepancies(suite(draws, 8, 2), suite(draws, 8, 4), cubic)
        value, without_P = over_suite(blocks_PP)
        low, high = jackknife_interval(value, without_P)
        suites.append((value, low <= 0 <= high))
        prompts.append(np.diag(blocks_PP).mean())
    for values in ([value for value, _ in suites], prompts):
        assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert np.mean([held for _, held in suites]) > 0.93


def test_a_method_that_finds_the_mode_alone_is_far_only_by_prompt() -> None:
    draws = np.random.default_rng(3)
    real = suite(draws, 60, 12)
    drawn, modes = suite(draws, 60, 12), suite(draws, 60, 12, spread=0.02)
    moved = suite(draws, 60, 12, shift=1.0)

    def both(found):
        blocks_PP = discrepancies(found, real, cubic)
        return np.diag(blocks_PP).mean(), over_suite(blocks_PP)[0]

    assert both(modes)[0] > 5 * abs(both(drawn)[0]), "collapse is seen where seeds are compared"
    assert both(moved)[1] > 5 * abs(both(modes)[1]), "a shift is seen over the suite"
    single = discrepancies(suite(draws, 3, 1), {p: real[p] for p in "012"}, cubic)
    assert np.isnan(np.diag(single)).all() and np.isfinite(over_suite(single)[0])


def test_frechet_is_that_of_its_formula_and_of_known_gaussians() -> None:
    draws = np.random.default_rng(4)
    for rows in (40, 5):  # also of fewer images than dimensions
        a, b = draws.normal(size=(rows, 8)), 0.3 + 2 * draws.normal(size=(3 * rows, 8))
        root = sqrtm(np.cov(a.T) @ np.cov(b.T))
        trace = np.trace(np.cov(a.T) + np.cov(b.T) - 2 * np.real(root))
        expected = np.square(a.mean(0) - b.mean(0)).sum() + trace
        assert frechet(a, b) == pytest.approx(expected, rel=1e-5)
    # N(0, 1) and N(1, 4) in each of 3 dimensions: 3·(1 + (1 − 2)²)
    many = draws.normal(size=(100_000, 3))
    assert frechet(many, 1 + 2 * draws.normal(size=(100_000, 3))) == pytest.approx(6, rel=0.02)
    pairs = []
    for _ in range(60):
        real_PND, found_PKD = draws.normal(size=(30, 4, 5)), draws.normal(size=(30, 4, 5))
        pairs.append((leave_one_out(real_PND), leave_one_out(real_PND, found_PKD)))
        assert leave_one_out(real_PND, 1 + found_PKD) > 3 * pairs[-1][0]
    floor, fair = np.mean(pairs, axis=0)
    assert floor == pytest.approx(fair, rel=0.06), "the floor has the bias of a row"


def test_the_table_has_methods_and_the_floor(
    runs: Sweep, clip_folder: Path, clip: Clip, tmp_path: Path
) -> None:
    for seed in (0, 1):
        runs.add("worse", PROMPTS[0], seed, shows=PROMPTS[4])
        runs.add("worse", PROMPTS[1], seed, shows=PROMPTS[4])
        runs.add("worse", PROMPTS[2], seed, shows=PROMPTS[4])
    found = open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0)
    found.prior_samples = {prompt: picture(prompt, 99, 4) for prompt in PROMPTS[:3]}
    write_tables(found, ["prior_distance"], tmp_path)
    lines = {line["method"]: line for line in csv.DictReader((tmp_path / "prior_distance.csv").open())}
    assert list(lines) == ["uniform_sds", "tp_sds", "worse", "prior's samples (floor)"]
    for head in ("CMMD", "KID", "KID by prompt", "Fréchet"):
        same, other, floor = (float(lines[m][head]) for m in ("tp_sds", "worse", "prior's samples (floor)"))
        assert other > 10 * max(abs(same), abs(floor)), head
    assert lines["tp_sds"]["metrics"].startswith("prior_distance=1")
    found = open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0)
    with pytest.raises(Exception, match="there are no samples of the prior: --prior-samples 4"):
        write_tables(found, ["prior_distance"], tmp_path)
