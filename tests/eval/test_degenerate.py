"""Studies with next to nothing in them: what cannot be drawn or computed is left out, and says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from eval.command import evaluate
from eval.figures.write import FIGURES
from eval.report.results import results
from eval.report.write import write_report
from eval.runs import Runs
from harness.config import UserError, apply_overrides
from harness.console import Console
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from tests.eval.conftest import PROMPTS, SUITE, TOY, Sweep, picture

ONE_STEP = apply_overrides(TOY, ["steps=1", "views.count=1"])


def _failed_at_once(runs: Sweep, method: str, prompt: str, seed: int) -> None:
    spec = RunSpec(method=method, prompt=prompt, seed=seed, config=TOY, suite=SUITE)
    RunFolder.create(runs.root, spec).fail("error", step=0, detail="RuntimeError: boom")


def _without_times(runs: Sweep, time: float | None) -> None:
    for seed in (0, 1):
        folder = RunFolder.create(
            runs.root,
            RunSpec(method="tp_sds", prompt=PROMPTS[0], seed=seed, config=TOY, suite=SUITE),
        )
        for step in TOY.views.steps(TOY.steps):
            if time is not None:
                folder.append_metrics([{"step": step, "time": time}])
            folder.save_views(step, picture(PROMPTS[0], seed, TOY.views.tiles))
        folder.finish({"steps": TOY.steps})


def all_failed_at_once(runs: Sweep) -> None:
    for seed in (0, 1):
        for method in ("uniform_sds", "tp_sds"):
            _failed_at_once(runs, method, PROMPTS[0], seed)


def all_failed_later(runs: Sweep) -> None:
    for seed in (0, 1):
        for method in ("uniform_sds", "tp_sds"):
            runs.add(method, PROMPTS[0], seed, end="failed")


def the_first_seed_failed(runs: Sweep) -> None:
    for prompt in PROMPTS[:2]:
        _failed_at_once(runs, "tp_sds", prompt, 0)
        runs.add("tp_sds", prompt, 1)


def one_method_failed(runs: Sweep) -> None:
    for seed in (0, 1):
        _failed_at_once(runs, "uniform_sds", PROMPTS[0], seed)
        runs.add("tp_sds", PROMPTS[0], seed)


def one_run(runs: Sweep) -> None:
    runs.add("tp_sds", PROMPTS[0], 0)


def one_step(runs: Sweep) -> None:
    for method in ("uniform_sds", "tp_sds"):
        for seed in (0, 1):
            runs.add(method, PROMPTS[0], seed, config=ONE_STEP)


def no_times(runs: Sweep) -> None:
    _without_times(runs, None)


def times_of_zero(runs: Sweep) -> None:
    _without_times(runs, 0.0)


def one_seed(runs: Sweep) -> None:
    for method in ("uniform_sds", "tp_sds"):
        for prompt in PROMPTS[:3]:
            runs.add(method, prompt, 0)


def no_overlap(runs: Sweep) -> None:
    for seed, (method, prompt) in enumerate(zip(("uniform_sds", "tp_sds"), PROMPTS, strict=False)):
        runs.add(method, prompt, 2 * seed)
        runs.add(method, prompt, 2 * seed + 1)


def unreadable(runs: Sweep) -> None:
    for seed in (0, 1):
        folder = runs.add("tp_sds", PROMPTS[0], seed)
        for step in folder.view_steps():
            folder.views_path(step).write_bytes(b"\x89PNG cut")


STUDIES = [
    all_failed_at_once, all_failed_later, the_first_seed_failed, one_method_failed, one_run, one_step,
    no_times, times_of_zero, one_seed, no_overlap, unreadable,
]  # fmt: skip


@pytest.mark.parametrize("fill", STUDIES, ids=lambda fill: fill.__name__)
def test_a_study_of_next_to_nothing(fill: Callable[[Sweep], None], clip_folder: Path, tmp_path: Path) -> None:
    runs = Sweep(tmp_path / "runs")
    fill(runs)
    study = Runs(runs.root, clip=str(clip_folder), device="cpu")
    drawn, told = set(), {}
    for name, figure in FIGURES.items():
        try:
            figure.draw(study)
            drawn.add(name)
        except UserError as error:
            told[name] = str(error)
    assert "schedules" in drawn and all(len(why) > 10 and "\n" not in why for why in told.values())
    assert evaluate(study, tmp_path / "eval", Console(width=140, quiet=True))
    numbers = results(study)
    assert numbers["tables"] and all(isinstance(note, str) for note in numbers["notes"])
    said: list[str] = []
    assert write_report(runs.root, tmp_path / "report", lambda: numbers, said.append).is_file()
