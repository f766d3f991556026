"""Named experiments from sweep to figures, and runs opened with the toy world's truth beside them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from eval.command import open_runs, write_tables
from eval.figures.write import write_figures
from eval.preference.design import STUDIES
from eval.preference.judge import judge_by_clip
from eval.preference.making import new_study, parse_questions
from eval.preference.results import write_results
from eval.preference.votes import load_ballots
from eval.runs import Fitted, Runs
from eval.tables.table import console_for_tables
from harness.config import Config
from harness.faults import INTERRUPTED
from harness.records.identity import run_id
from harness.sweep import experiment
from harness.sweep.experiment import StudyAsk
from harness.sweep.local import sweep
from harness.sweep.request import execution_of
from harness.toyworld.render import ground_truth
from harness.toyworld.solid import Solid

TIMED = {"convergence", "cost", "r_precision_time"}  # tables and figures that show wall time


def evaluated_runs(runs: Path, **options: Any) -> Runs:
    """Runs as tables and figures read them, with the toy world's truth where they are of it."""
    return open_runs(runs, ground_truth=ground_truth, solids=Solid, fit=_fitted, **options)


def _fitted(
    root: Path, config: Config, prior_hash: str, prompts: Sequence[str], device: str
) -> Mapping[str, Fitted]:
    from harness.fitted import fitted_views  # it loads what distils

    return fitted_views(root, config, prior_hash, prompts, device)


def reproduce(
    name: str,
    size: Literal["toy", "paper"],
    runs: Path,
    out: Path,
    device: str,
    encoder: str,
    wandb: str | None,
    dry_run: bool,
) -> int:
    """Sweep an experiment's runs under `runs`, reusing what is done, and put what it draws under `out`;
    the exit code. Raises UserError."""
    asked = experiment.load(name)
    sized = asked.paper if size == "paper" else asked.toy
    command = f"harness reproduce {name} --size {size}"
    print(f"{name} ({size}): {asked.title}", flush=True)
    folder = out / f"{name}-{size}"
    if sized is None:
        for path in [] if dry_run else write_figures(None, asked.figures, out / name, command):
            print(path)
        return 0
    root = runs / f"{asked.runs or name}-{size}"
    suite, specs = asked.resolve(sized)
    execution = execution_of(root, wandb, device=device, encoder=encoder, keep_params=asked.keep_params)
    code = sweep(root, suite, specs, execution, dry_run, others="keep")
    if code == INTERRUPTED or dry_run:
        return code
    own = {run_id(spec) for spec in specs}
    if TIMED & {*asked.tables, *asked.figures}:
        from harness.bench_methods import run_where_missing

        run_where_missing(root, own)
    votes_in = root / STUDIES / name
    judges = judged(votes_in, root, own, asked.study, sized.clips, device) if asked.study else []
    for clip in sized.clips:
        found = evaluated_runs(root, clip=clip, device=device, only=own, contrasts=asked.contrasts)
        where = folder if len(sized.clips) == 1 else folder / clip.replace("/", "-")
        if asked.tables:
            write_tables(found, asked.tables, where)
        for path in write_figures(found, asked.figures, where, command) if asked.figures else []:
            print(path)
    for judge in judges:
        write_results(load_ballots(votes_in, judge), folder / f"judge-{judge}", console_for_tables())
    return code


def judged(
    folder: Path, root: Path, only: Collection[str], ask: StudyAsk, clips: Sequence[str], device: str
) -> list[str]:
    """Make the study of an experiment where there is none, and have every scorer judge it; their names."""
    if not (folder / "study.json").exists():
        new_study(root, ask.methods, folder, questions=parse_questions(ask.questions), only=only)
    return [judge_by_clip(folder, clip, device, root) for clip in clips]
