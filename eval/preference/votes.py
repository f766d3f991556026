"""A study's folder → its votes as one tidy table, and which raters its own rules exclude. No torch."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from eval.preference.design import Design, check_unchanged, load_design
from eval.preference.store import DATABASE
from harness.config import UserError, nearest

COLUMNS = (
    "rater", "position", "pair", "tie", "repeat", "prompt", "seed", "method_a", "method_b", "question",
    "left", "winner", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class RaterQuality:
    """How one rater answered, and by which rules, fixed before the study, it is excluded."""

    answered: int  # trials
    given: int
    consistent: int  # answers to repeated pairs that say the same again
    repeats: int
    decided: int  # answers to hidden ties that prefer a side
    ties: int
    same_side: float  # share of the decided answers on the side chosen more often; nan for none
    seconds: float  # median of a trial
    excluded: str = ""  # the rules it breaks, with the figure; a rule that has nothing to look at holds

    @classmethod
    def of(cls, rows: pd.DataFrame, given: int, rules: Mapping[str, float]) -> RaterQuality:
        """From one rater's answers and the fields of design.Exclusion."""
        repeats, ties = _repeats(rows), rows.loc[rows["tie"]]
        chosen = rows.loc[rows["winner"] != "tie"]
        left = np.mean(chosen["winner"] == chosen["left"]) if len(chosen) else np.nan
        rater = cls(
            answered=len(set(rows["position"])),
            given=given,
            consistent=sum(repeats["consistent"]),
            repeats=len(repeats),
            decided=sum(ties["winner"] != "tie"),
            ties=len(ties),
            same_side=float(max(left, 1 - left)),
            seconds=float(np.median(rows.drop_duplicates("position")["seconds"])),
        )
        return replace(rater, excluded="; ".join(rater._broken(rules)))

    def _broken(self, rules: Mapping[str, float]) -> Iterator[str]:
        figures = {
            "min_answered": _share(self.answered, self.given),
            "min_repeat_consistency": _share(self.consistent, self.repeats),
            "max_same_side": self.same_side,
            "min_seconds": self.seconds,
            "max_decided_ties": _share(self.decided, self.ties),
        }
        for name, limit in rules.items():
            figure = figures[name]
            if figure < limit if name.startswith("min") else figure > limit:
                yield f"{name} {limit:g}: {figure:.2f}"


def _share(part: int, whole: int) -> float:
    return part / whole if whole else np.nan


@dataclass(frozen=True, eq=False)
class Ballots:
    """All that was answered in a study, by people or by one judge."""

    path: Path  # of the database
    design: Design
    judge: str  # what judged, with the hash of its weights; "" for people
    given: Mapping[str, int]  # rater → its number of trials; raters who answered nothing are there, too
    answers: pd.DataFrame  # `COLUMNS`: one row per rater, trial and question; tie: a hidden tie

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.path.parent

    @property
    def questions(self) -> list[str]:
        """The ids of the questions that were answered, in the study's order."""
        answered = set(self.answers["question"])
        return [question.id for question in self.design.questions if question.id in answered]

    @cached_property
    def raters(self) -> dict[str, RaterQuality]:
        """Every rater who answered anything."""
        rules = {} if self.judge else self.design.exclusion.model_dump()
        return {
            str(name): RaterQuality.of(rows, self.given[str(name)], rules)
            for name, rows in self.answers.groupby("rater")
        }

    @cached_property
    def excluded(self) -> dict[str, str]:
        """The raters who are excluded, and by which rule."""
        return {name: rater.excluded for name, rater in self.raters.items() if rater.excluded}

    def votes(self, *, kept: bool = True) -> pd.DataFrame:
        """The answers that say which method is preferred: real pairs at their first showing, of the raters
        that no rule excludes or, with kept=False, of all."""
        rows = self.answers.loc[~(self.answers["tie"] | self.answers["repeat"])]
        return rows.loc[~rows["rater"].isin(list(self.excluded))] if kept else rows

    def checks(self) -> pd.DataFrame:
        """The answers to repeated pairs of the raters kept, with `consistent`: the same winner as before."""
        return _repeats(self.answers.loc[~self.answers["rater"].isin(list(self.excluded))])

    def hidden_ties(self) -> pd.DataFrame:
        """The answers of the raters kept to pairs whose two sides show the same run."""
        rows = self.answers.loc[self.answers["tie"]]
        return rows.loc[~rows["rater"].isin(list(self.excluded))]


def load_ballots(folder: Path, judge: str = "") -> Ballots:
    """The votes of a study's people, or those of its judge `judge`: a name, or the start of one.

    Raises UserError where there is no such study or judge, for a version that is not ours, and for a database
    that holds answers of people beside those of a judge.
    """
    design = load_design(folder)
    path = _judge_file(folder, judge) if judge else folder / DATABASE
    if not path.is_file():
        raise UserError(
            f"{folder} has no {DATABASE}, so nobody could have answered; see `harness study serve`"
        )
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            db.execute("BEGIN")  # one moment of a study that may be going on
            raters = pd.read_sql_query("SELECT rater, kind, name FROM raters ORDER BY rater", db)
            trials = pd.read_sql_query("SELECT rater, position, pair, repeat, left FROM trials", db)
            fixed = db.execute("SELECT sha256 FROM design").fetchone()
            answers = pd.read_sql_query("SELECT rater, position, question, choice, seconds FROM answers", db)
    except (sqlite3.Error, pd.errors.DatabaseError) as error:
        raise UserError(f"{path} cannot be read as a study's answers ({error})") from None
    check_unchanged(design, fixed and fixed[0], folder)
    kind = "judge" if judge else "human"
    foreign = raters.loc[raters["kind"] != kind, "rater"]
    if len(foreign):
        raise UserError(
            f"{path} holds answers that are not a {kind}'s (rater {foreign.iloc[0]}): people's votes and a "
            "judge's are never counted together"
        )
    counted = Counter(trials["rater"])
    given = {str(rater): counted[rater] for rater in raters["rater"]}
    name = str(raters["name"].iloc[0]) if judge and len(raters) else ""
    return Ballots(path, design, name, given, _tidy(design, path, trials, answers))


def judges(folder: Path) -> list[str]:
    """The judges that a study was given to."""
    return sorted(path.stem.removeprefix("judge-") for path in folder.glob("judge-*.db"))


def _judge_file(folder: Path, judge: str) -> Path:
    names = judges(folder)
    found = [name for name in names if name == judge] or [name for name in names if name.startswith(judge)]
    if not names:
        raise UserError(f"no judge has seen {folder} yet: harness study judge {folder}")
    if len(found) != 1:
        several = f"; choose from {', '.join(found)}" if found else nearest(judge, names)
        raise UserError(f"{'several judges' if found else 'no judge'} '{judge}' in {folder}{several}")
    return folder / f"judge-{found[0]}.db"


def _tidy(design: Design, path: Path, trials: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    pairs = pd.DataFrame(
        [(pair.pair, pair.kind == "tie", pair.prompt, pair.seed, *pair.methods) for pair in design.pairs],
        columns=["pair", "tie", "prompt", "seed", "method_a", "method_b"],
    )
    frame = answers.merge(trials, on=["rater", "position"], how="left").merge(pairs, on="pair", how="left")
    lost = frame.loc[frame["prompt"].isna()]
    if len(lost):
        row = lost.iloc[0]
        raise UserError(
            f"{path} is not of this study: rater {row['rater']} answered trial {row['position']}, "
            f"whose pair study.json does not have"
        )
    left_won = frame["choice"].to_numpy() == "left"
    winner = np.where(left_won == (frame["left"].to_numpy() == "a"), "a", "b")
    frame["winner"] = np.where(frame["choice"].to_numpy() == "tie", "tie", winner)
    frame = frame.astype({"tie": bool, "repeat": bool, "seed": int})
    frame = frame.sort_values(by=["rater", "position", "question"], ignore_index=True)
    return frame.loc[:, list(COLUMNS)]


def _repeats(rows: pd.DataFrame) -> pd.DataFrame:
    key = ["rater", "pair", "question"]
    first = rows.loc[~rows["repeat"], [*key, "winner"]].rename(columns={"winner": "before"})
    again = rows.loc[rows["repeat"]].merge(first, on=key)
    return again.assign(consistent=again["winner"] == again["before"])
