"""`harness eval`: run folders → scores → tables, a contact sheet and a manifest."""

from __future__ import annotations

import importlib.metadata
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from eval.clip import load_clip
from eval.contact_sheet import Cell, contact_sheets, shown_views
from eval.load import ENDED, RunRecord, load_runs, method_labels
from eval.r_precision import MISS, VERSION, Pool, Scorer, load_pool, score_run
from eval.tables import Outcome, Report, Row, Stamp, as_csv, markdown, summarise, terminal
from harness.config import UserError, ViewsConfig, first_line
from harness.records.files import write_bytes, write_json

GroundTruth = Callable[[str, ViewsConfig], np.ndarray]
CEILING = "ground truth (ceiling)"


def run(
    runs: Path,
    *,
    clip: str = "toy-clip",
    out: Path | None = None,
    device: str = "auto",
    allow_mixed: bool = False,
    ground_truth: GroundTruth | None = None,
    console: Console | None = None,
) -> Report:
    """Scores the stored views of every ended run under `runs`, prints the tables and writes them to `out`.

    `out` (default `<runs>/eval`) gets table.md, table.csv, contact_sheet.png (further pages -02, …) and
    manifest.json. `ground_truth(prompt, views)` returns the ceiling's images, [V, H, W, 3] uint8; without it
    there is no ceiling. Raises UserError for no ended run, for runs whose numbers do not belong in one table,
    and for an unusable scorer.
    """
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 140)  # a file or a pipe has no edge to break lines at
    records, notes = load_runs(runs)
    ended = [record for record in records if record.status in ENDED]
    if not ended:
        raise UserError(
            f"no run in {runs} has ended yet ({len(records)} unfinished); see `harness status {runs}`"
        )
    check_comparable(ended, clip, allow_mixed)
    if len(ended) < len(records):
        notes.append(f"{len(records) - len(ended)} unfinished runs are left out")

    scorer_of = _scorers(runs, ended, clip, device)
    labels = method_labels(ended)
    outcomes: list[Outcome] = []
    progress = track(
        ended, "scoring", console=Console(stderr=True), transient=True, disable=not console.is_terminal
    )
    for record in progress:
        outcomes += score(record, labels[record.run_id], scorer_of[record.suite])
    notes += _failure_notes(ended, outcomes) + _balance_notes(ended, labels)

    truth = _ground_truth(ended, ground_truth, notes)
    ceiling = _ceiling(ended, scorer_of, truth)
    pools = sorted({scorer.pool for scorer in scorer_of.values()}, key=lambda pool: pool.name)
    scorer = next(iter(scorer_of.values())).clip
    stamp = Stamp(
        metric="r_precision",
        version=VERSION,
        clip=scorer.tag,
        weights=scorer.weights_hash,
        pools=tuple(f"{pool.name} ({len(pool.prompts)} captions, {pool.sha256[:12]})" for pool in pools),
        priors=_priors(ended),
        toy=ended[0].toy,
    )
    report = Report(stamp, summarise(outcomes), ceiling, notes)

    folder = out or runs / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "table.md", markdown(report).encode())
    write_bytes(folder / "table.csv", as_csv(report).encode())
    _write_sheets(folder, stamp, ended, labels, truth)
    write_json(folder / "manifest.json", _manifest(stamp, ended, pools))
    for part in terminal(report):
        console.print(part)
    console.print(
        f"written to {folder}/: table.md, table.csv, contact_sheet.png, manifest.json", soft_wrap=True
    )
    return report


def check_comparable(runs: Sequence[RunRecord], clip: str, allow_mixed: bool) -> None:
    """Raises UserError unless the runs' numbers may stand in one table."""
    first = runs[0]
    settings: dict[str, str] = {}
    weights: dict[str, str] = {}
    for other in runs:
        if other.suite is None:
            raise UserError(f"{other.run_id} belongs to no suite, so there is no pool to retrieve from")
        if other.toy != first.toy:
            raise UserError(
                f"toy and real priors never share a table: '{first.prior}' ({first.run_id}), '{other.prior}' "
                f"({other.run_id}); keep them in separate folders"
            )
        if allow_mixed:
            continue
        if other.config_hash != first.config_hash:
            raise UserError(
                f"runs of different settings in one folder: {_difference(first, other)} ({first.run_id}, "
                f"{other.run_id}); separate them or pass --allow-mixed"
            )
        if other.settings_hash != settings.setdefault(other.method, other.settings_hash):
            raise UserError(
                f"runs of {other.method} differ in its parameters; separate them or pass --allow-mixed"
            )
        if other.prior_hash and other.prior_hash != weights.setdefault(other.prior, other.prior_hash):
            raise UserError(
                f"'{other.prior}' had other weights in {other.run_id}; separate them or pass --allow-mixed"
            )
        if other.suite != first.suite:
            raise UserError(
                f"runs of different suites have different pools ({first.run_id}, {other.run_id}); "
                f"separate them or pass --allow-mixed"
            )
    if not first.toy and Path(clip).name.startswith("toy-"):
        raise UserError(
            f"'{clip}' knows only the toy world; score '{first.prior}' with ViT-B-32-quickgelu/openai"
        )


def _priors(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    known = sorted({f"{run.prior} {run.prior_hash[:12]}" for run in runs if run.prior_hash})
    return tuple(known or sorted({run.prior for run in runs}))


def _difference(one: RunRecord, other: RunRecord) -> str:
    def flat(prefix: str, data: dict) -> dict:
        pairs = {}
        for key, value in data.items():
            pairs |= flat(f"{prefix}{key}.", value) if isinstance(value, dict) else {prefix + key: value}
        return pairs

    a, b = (flat("", record.config.model_dump(mode="json")) for record in (one, other))
    return "; ".join(f"{key} is {a[key]} and {b[key]}" for key in a if a[key] != b[key])


def _scorers(root: Path, runs: Sequence[RunRecord], clip: str, device: str) -> dict[str | None, Scorer]:
    pools: dict[str, Pool] = {run.suite: load_pool(root, run.suite) for run in runs if run.suite}
    model = load_clip(clip, device)
    return {suite: Scorer.over(model, pool) for suite, pool in pools.items()}


def score(run: RunRecord, label: str, scorer: Scorer) -> list[Outcome]:
    """One outcome per evaluation step of the run's settings.

    A step without readable views is a miss; so is the last step of a failed run, whatever its folder holds.
    """
    scores, problems = score_run(run, scorer)
    outcomes = []
    for step in run.config.views.steps(run.config.steps):
        final = step == run.config.steps
        problem = problems.get(step)
        if run.status == "failed" and (final or step not in scores):
            problem = run.failure
        elif step not in scores:
            problem = problem or f"no views of step {step}"
        values = asdict(MISS if problem else scores[step])
        size = len(scorer.pool.prompts)
        outcomes.append(Outcome(label, run.prompt, run.seed, step, final, size, values, problem))
    return outcomes


def _failure_notes(runs: Sequence[RunRecord], outcomes: Sequence[Outcome]) -> list[str]:
    reasons: dict[tuple[str, int, str], str] = {}
    for outcome in outcomes:
        if outcome.problem:
            reasons[outcome.prompt, outcome.seed, outcome.method] = outcome.problem
    return [
        f"counted as a miss: {method}, '{prompt}', seed {seed}: {reason}"
        for (prompt, seed, method), reason in sorted(reasons.items())
    ]


def _balance_notes(runs: Sequence[RunRecord], labels: dict[str, str]) -> list[str]:
    covered: dict[str, set[tuple[str, int]]] = {}
    for run in runs:
        covered.setdefault(labels[run.run_id], set()).add((run.prompt, run.seed))
    if len({frozenset(pairs) for pairs in covered.values()}) <= 1:
        return []
    return ["the methods do not cover the same prompts and seeds, so their rows are not paired"]


def _ground_truth(
    runs: Sequence[RunRecord], render: GroundTruth | None, notes: list[str]
) -> dict[str, np.ndarray]:
    """Images per prompt; none where there is no renderer or the runs differ in their cameras."""
    if render is None:
        return {}
    if any(run.config.views != runs[0].config.views for run in runs):
        notes.append("no ceiling: the runs differ in their evaluation cameras")
        return {}
    try:
        return {
            prompt: render(prompt, runs[0].config.views) for prompt in sorted({run.prompt for run in runs})
        }
    except UserError as error:
        notes.append(f"no ceiling: {error}")
        return {}


def _ceiling(
    runs: Sequence[RunRecord], scorer_of: dict[str | None, Scorer], truth: dict[str, np.ndarray]
) -> Sequence[Row]:
    if not truth:
        return []
    outcomes = []
    for suite, scorer in scorer_of.items():
        prompts = sorted({run.prompt for run in runs if run.suite == suite})
        for prompt, retrieval in zip(
            prompts, scorer.retrieve([truth[prompt] for prompt in prompts]), strict=True
        ):
            values = asdict(retrieval.score(scorer.pool.index(prompt)))
            name = CEILING if len(scorer_of) == 1 else f"{CEILING}, {scorer.pool.name}"
            outcomes.append(Outcome(name, prompt, 0, 0, True, len(scorer.pool.prompts), values))
    return summarise(outcomes)


def _write_sheets(
    folder: Path,
    stamp: Stamp,
    runs: Sequence[RunRecord],
    labels: dict[str, str],
    truth: dict[str, np.ndarray],
) -> None:
    cells: dict[str, dict[str, Cell]] = {}
    methods = sorted(set(labels.values()))
    for prompt in sorted({run.prompt for run in runs}):
        row: dict[str, Cell] = {"ground truth": [truth[prompt]]} if prompt in truth else {}
        for method in methods:
            own = [run for run in runs if run.prompt == prompt and labels[run.run_id] == method]
            row[method] = [_last_views(run) for run in sorted(own, key=lambda run: run.seed)]
        cells[prompt] = row
    seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))
    azimuths = min(run.config.views.azimuths for run in runs)
    angles = ", ".join(f"{360 * k / azimuths:.0f}°" for k in shown_views(azimuths))
    title = f"prior {', '.join(stamp.priors)} · last step · azimuths {angles} · one line per seed ({seeds})"
    title = f"TOY · {title}" if stamp.toy else title
    for old in folder.glob("contact_sheet*.png"):
        old.unlink()
    for number, page in enumerate(contact_sheets(title, cells, azimuths), start=1):
        data = io.BytesIO()
        page.save(data, "PNG", optimize=True)
        name = "contact_sheet.png" if number == 1 else f"contact_sheet-{number:02d}.png"
        write_bytes(folder / name, data.getvalue())


def _last_views(run: RunRecord) -> np.ndarray | str:
    if run.failure:
        return f"failed: {run.failure}"
    try:
        return run.views(run.config.steps)
    except Exception as error:  # a damaged picture, told in the cell as it is in the table
        return f"unreadable: {first_line(error)}"


def _manifest(stamp: Stamp, runs: Sequence[RunRecord], pools: Sequence[Pool]) -> dict:
    packages = ("torch", "open-clip-torch", "numpy", "pillow", "dreamtime-harness")
    return {
        "metrics": {stamp.metric: stamp.version},
        "clip": {"tag": stamp.clip, "sha256": stamp.weights},
        "pools": [{"name": pool.name, "sha256": pool.sha256, "size": len(pool.prompts)} for pool in pools],
        "priors": list(stamp.priors),
        "toy": stamp.toy,
        "configs": sorted({run.config_hash for run in runs}),
        "runs": {run.run_id: run.status for run in runs},
        "packages": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
