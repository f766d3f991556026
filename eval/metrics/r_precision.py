"""CLIP R-Precision: is a run's own prompt the caption of the pool that its views look most like?

Sources: Dream Fields (Jain et al. 2022): R = 1, cosine, one held-out view; DreamFusion (Poole et al. 2023):
elevation 30°, averaged over azimuths; the vote over views: DreamTime's author's tool. See docs/protocol.md.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property

import pandas as pd

from eval.metric import FEATURES, Column, RunMetric
from eval.scorers.features import ViewFeatures, view_features
from eval.scorers.retrieval import MISS, Score, Scorer
from eval.sources.load import RunRecord
from eval.tables.rows import distinct, groups
from eval.tables.table import Cell, Number, Table

CEILING, FLOOR = "ground truth (ceiling)", "chance (floor)"
COLUMNS = (
    Column("majority", "majority", "%", "higher"),
    Column("per_view", "per view", "%", "higher"),
    Column("mean_sim", "mean sim.", "%", "higher"),
    Column("held_out", "held-out", "%", "higher"),
)


class RPrecision(RunMetric):
    """At every evaluated step. A step without readable views is a miss, and so is the last step of a failed
    run, whatever its folder holds."""

    caption = "R-Precision at the final step, % [95 % interval over prompts]"
    columns = COLUMNS
    needs = (FEATURES,)
    shown = (
        ("per_view", "R-Precision, share of views"),
        ("majority", "R-Precision, majority"),
        ("mean_sim", "R-Precision, mean similarity"),
        ("held_out", "R-Precision, held-out view"),
    )
    miss = asdict(MISS)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row per run and evaluated step: run, method, prompt, seed, total, step, final, pool, the
        scores, and why a run counts as a miss there."""
        rows = []
        for run in self.runs.track(self.runs, "scoring"):
            assert run.suite is not None  # check_comparable refuses a run without one
            scorer = self.runs.scorers[run.suite]
            scores, problems = score_run(run, scorer, self.runs.features[run.run_id])
            for step in run.config.views.steps(run.total):
                problem = problems.get(step)
                if run.status == "failed" and (step == run.total or step not in scores):
                    problem = run.failure
                elif step not in scores:
                    problem = problem or f"no views of step {step}"
                rows.append(
                    self.runs.about(run)
                    | {"step": step, "final": step == run.total, "pool": len(scorer.pool.prompts)}
                    | asdict(MISS if problem else scores[step])
                    | {"problem": problem}
                )
        return pd.DataFrame(rows)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The last steps of `scores`."""
        return self.scores.loc[self.scores["final"]]

    @cached_property
    def ceiling(self) -> pd.DataFrame:
        """Scores of the ground truth: prompt, pool and the scores; empty where there is none."""
        ring = self.runs[0].config.views.azimuths
        rows = []
        for suite, scorer in self.runs.scorers.items():
            asked = {run.prompt for run in self.runs if run.suite == suite}
            for prompt in self.runs.prompts:
                if prompt in asked and prompt in self.runs.truth_features:
                    retrieval = scorer.retrieve(self.runs.truth_features[prompt], ring)
                    score = retrieval.score(scorer.pool.index(prompt))
                    rows.append({"prompt": prompt, "pool": len(scorer.pool.prompts), **asdict(score)})
        return pd.DataFrame(rows)

    def levels(self, frame: pd.DataFrame) -> list[tuple[str, float]]:
        """What curves of the majority stand beside: ground truth of the frame's prompts, and chance where
        its pool is one."""
        found = []
        if len(self.ceiling):
            truth = self.ceiling.loc[self.ceiling["prompt"].isin(frame["prompt"])]
            found.append(("ground truth", float(truth["majority"].mean())))
        if distinct(frame, "pool") == 1:
            found.append(("chance", 1 / int(frame["pool"].iloc[0])))
        return found

    def own_table(self) -> Table:
        """A row per method, N and pool, and below it the same scores of what else stands in this table."""
        rows: list[list[Cell]] = []

        def add(name: str, total: Cell, frame: pd.DataFrame) -> None:
            for pool in sorted(set(frame["pool"])):  # with another pool it is another metric
                own = frame.loc[frame["pool"] == pool]
                rows.append([name, total, *self.cells(own), *self.counts(own).values(), int(pool)])

        others = self.beside()
        for method, total, part in groups(self.runs, self.frame):
            add(method, total, part)
            for other in others:
                add(f"{method}, {other.name}", total, other.frame.loc[other.frame["run"].isin(part["run"])])
        told = set[int]()
        for each in (self, *others):
            of = "" if each is self else f", {each.name}"
            if len(each.ceiling):
                add(CEILING + of, "–", each.ceiling.assign(seed=0))
            for pool in sorted({*each.frame["pool"]} - told):
                chance = [Number(1 / pool, scale=100.0)] * len(self.columns)
                rows.append([FLOOR + of, "–", *chance, "–", "–", "–", int(pool)])
                told.add(pool)
        heads = ["method", "step", *self.heads, "prompts", "seeds", "failed", "pool"]
        names = [self.name, *(other.name for other in others)]
        return Table(self.name, names, self.caption, heads, rows)


def score_run(
    run: RunRecord, scorer: Scorer, seen: ViewFeatures | None = None
) -> tuple[dict[int, Score], dict[int, str]]:
    """Scores at every step with readable views, and why there is none at the others; `seen` saves reading."""
    try:
        target = scorer.pool.index(run.prompt)
    except ValueError:
        return {}, dict.fromkeys(run.view_steps, f"its prompt is not in the pool '{scorer.pool.name}'")
    features, problems = seen or view_features(run, scorer.clip)
    ring = run.config.views.azimuths
    scores = {step: scorer.retrieve(rows_VD, ring).score(target) for step, rows_VD in features.items()}
    return scores, problems
