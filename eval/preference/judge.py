"""The same study with a CLIP scorer as its rater: of two results the one that looks more like the text wins.

Its answers go to a database of their own, `judge-clip-<scorer>.db`, of raters of kind 'judge' alone.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from eval.comparable import check_comparable
from eval.preference.design import Design, load_design
from eval.preference.store import OTHER, Choice, Store
from eval.preference.trials import draw_trials
from eval.scorers.clip import Clip, load_clip
from eval.scorers.features import view_features
from eval.sources.load import RunRecord, load_runs
from harness.config import UserError
from harness.records.folder import run_folders

ANSWERS = ("alignment", "overall")  # what a similarity of picture and text can speak to
TOLERANCE = 1e-6  # of a cosine in float32, whose last bits depend on what else is in the batch
SEED = 0  # of the order and the sides


def judge_by_clip(
    folder: Path, clip: str = "toy-clip", device: str = "auto", runs: Path | None = None
) -> str:
    """Has the scorer `clip` answer every trial of the study in `folder`; the judge's name.

    It is given the trials that a person would be, all pairs, hidden ties and repeats, and answers `ANSWERS`,
    as far as the study asks them, by the mean cosine between the text and the views of the ring at the last
    step; a difference up to `TOLERANCE` is a tie. The same runs and weights give the same answers; the
    judge's earlier ones are replaced. `runs` is where the runs are, by default where the study was made.
    Raises UserError for questions it cannot answer, for runs that are not there, and for an unusable scorer.
    """
    design = load_design(folder)
    questions = [question.id for question in design.questions if question.id in ANSWERS]
    if not questions:
        asked = ", ".join(question.id for question in design.questions)
        raise UserError(f"a CLIP judge can answer {' and '.join(ANSWERS)} only; the study asks {asked}")
    records = _records(folder, design, runs)
    check_comparable(records, clip, allow_mixed=True)
    scorer = load_clip(clip, device)
    score = _similarities(records, scorer)
    sides = {pair.pair: {"a": pair.a.run, "b": pair.b.run} for pair in design.pairs}
    trials = draw_trials(design, SEED, {})
    name = f"clip-{scorer.tag.replace('/', '-')}"
    with TemporaryDirectory(dir=folder) as building:
        path = Path(building, f"judge-{name}.db")
        with Store(path, create=True) as store:
            about = f"{scorer.tag} {scorer.weights_hash[:12]}"
            writes = [store.add_rater(name, SEED, trials, kind="judge", name=about), store.consent(name)]
            for trial in trials:
                runs_of = sides[trial.pair]
                left, right = runs_of[trial.left], runs_of[OTHER[trial.left]]
                choice = _choice(score[left] - score[right])
                writes.append(store.answer(name, trial.position, dict.fromkeys(questions, choice)))
            for write in writes:
                write.result()
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA journal_mode=DELETE")  # a file by itself, which another can replace
        os.replace(path, folder / path.name)
    return name


def _choice(gap: float) -> Choice:
    if abs(gap) <= TOLERANCE:
        return "tie"
    return "left" if gap > 0 else "right"


def _records(folder: Path, design: Design, runs: Path | None) -> list[RunRecord]:
    """The runs that the study shows."""
    places = [runs] if runs else [Path(design.runs), folder.parent.parent]
    root = next((place for place in places if place.is_dir() and run_folders(place)), places[0])
    shown = sorted({side.run for pair in design.pairs for side in (pair.a, pair.b)})
    found = {record.run_id: record for record in load_runs(root)[0]}
    missing = [run for run in shown if run not in found]
    if missing:
        raise UserError(f"the study shows {missing[0]}, which is not in {root}; say where: --runs")
    return [found[run] for run in shown]


def _similarities(records: Iterable[RunRecord], scorer: Clip) -> dict[str, float]:
    """Run id → mean cosine of its prompt with the views of its ring at the last step."""
    found = {}
    for record in records:
        features, problems = view_features(record, scorer)
        if record.total not in features:
            why = problems.get(record.total, f"no views of step {record.total}")
            raise UserError(f"{record.run_id} cannot be judged: {why}")
        ring_VD = features[record.total][: record.config.views.azimuths]
        text_D = scorer.embed_texts([record.prompt]).numpy()[0]
        found[record.run_id] = float((ring_VD @ text_D).mean(dtype=np.float64))
    return found
