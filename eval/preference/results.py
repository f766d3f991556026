"""What a study's votes say, as tables: win rates, strengths, agreement, and how raters answered. No torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from eval.preference.agreement import alpha, same_vote
from eval.preference.duels import BOTH, Axis, Duels, wilson, win_rate
from eval.preference.ranking import ranking
from eval.preference.votes import Ballots
from eval.statistics.intervals import Interval, share_mean
from eval.tables.rows import rng
from eval.tables.table import Cell, Number, Table, markdown, number, percent, tell, write, write_frame
from harness.config import UserError
from harness.console import Console
from harness.records.files import make_folder, write_bytes, write_json
from harness.records.stamp import TOY

VERSION = 2  # raise it when any number below can change
METRIC = "preference"


@dataclass(frozen=True)
class Preference:
    """How often one method was preferred over another; the intervals are shares."""

    both: Interval  # over raters and prompts; of a judge, over prompts
    raters: Interval
    wilson: tuple[float, float]
    n_raters: int
    n_pairs: int
    n_ties: int


def preference(
    ballots: Ballots, question: str, method: str, other: str, *, kept: bool = True
) -> Preference | None:
    """How often `method` was preferred over `other` in the votes of a question; None without any vote."""
    votes = ballots.votes(kept=kept)
    a, b = votes["method_a"], votes["method_b"]
    between = ((a == method) & (b == other)) | ((a == other) & (b == method))
    votes = votes.loc[(votes["question"] == question) & between]
    if votes.empty:
        return None
    duels = Duels.of(votes, (method, other))
    return Preference(
        win_rate(duels, method, other, rng(), _axes(ballots)),
        win_rate(duels, method, other, rng(), ("raters",)),
        wilson(duels.wins_KK[0, 1], len(votes)),
        len(duels.raters),
        len(set(votes["pair"])),
        sum(votes["winner"] == "tie"),
    )


def _axes(ballots: Ballots) -> tuple[Axis, ...]:
    """What stands for more of its kind: a judge is no sample of judges."""
    return ("prompts",) if ballots.judge else BOTH


@dataclass(frozen=True)
class StudyStamp:
    """What every number of a study's results rests on."""

    title: str
    who: str  # the people, or the judge
    prior: str
    mark: str

    def line(self, metrics: Sequence[str] = ()) -> str:
        """One line for a caption."""
        parts = [f"{METRIC} v{VERSION}", self.who, f"study “{self.title}”", f"prior {self.prior}"]
        return " · ".join([self.mark] * bool(self.mark) + parts)

    def fields(self, metrics: Sequence[str]) -> dict[str, str | int]:
        """The columns that each line of a csv ends in."""
        return {
            "metrics": f"{METRIC}={VERSION}",
            "raters are": self.who,
            "study": self.title,
            "priors": self.prior,
            "toy": int(self.mark == TOY),
            "stamp": self.mark,
        }


def stamp_of(ballots: Ballots) -> StudyStamp:
    """The stamp of a study's results: its people, or its judge under a name that nobody takes for people."""
    who = f"{judge_label(ballots)}, no people" if ballots.judge else f"{people(len(ballots.raters))} answered"
    who += f", {len(ballots.excluded)} excluded" if ballots.excluded else ""
    design = ballots.design
    return StudyStamp(design.title, who, design.prior, design.mark)


def judge_label(ballots: Ballots) -> str:
    """How a judge is named wherever its votes are shown."""
    return f"CLIP judge {ballots.judge}"


def people(count: int) -> str:
    """A number of human raters, in words."""
    return f"{count} {'person' if count == 1 else 'people'}"


# ---- tables


def study_tables(ballots: Ballots) -> tuple[list[Table], list[str]]:
    """Every table that the votes allow, and what a reader of them must know.

    Raises UserError where nobody has answered anything.
    """
    check_answered(ballots)
    tables, notes = [preference_table(ballots)], _notes(ballots)
    if ballots.votes().empty:
        return [preference_table(ballots, kept=False), raters_table(ballots)], [*notes, "no vote is left"]
    if len(ballots.design.methods) > 2:
        try:
            tables.append(ranking_table(ballots))
        except UserError as error:
            notes.append(f"no ranking: {error}")
    if not ballots.judge:
        if ballots.excluded:
            tables.insert(1, preference_table(ballots, kept=False))
        tables += [agreement_table(ballots), raters_table(ballots)]
    return tables, notes


def check_answered(ballots: Ballots) -> None:
    """Raises UserError where nobody has answered anything."""
    if ballots.answers.empty:
        raise UserError(f"nobody has answered anything in {ballots.folder} yet; see `harness study links`")


def preference_table(ballots: Ballots, *, kept: bool = True) -> Table:
    """Win rates of every two methods for every question."""
    rows: list[list[Cell]] = []
    for question in ballots.questions:
        for method, other in itertools.combinations(ballots.design.methods, 2):
            found = preference(ballots, question, method, other, kept=kept)
            if found is None:
                continue
            value = found.both.value
            raters: list[Cell] = [] if ballots.judge else [percent(found.raters), found.n_raters]
            rows.append([
                f"{method} over {other}", question, percent(found.both),
                Number(value, *found.wilson, scale=100.0), *raters,
                found.both.n_prompts, found.n_pairs, found.both.n_runs, found.n_ties,
            ])  # fmt: skip
    axes = " and ".join(_axes(ballots))
    of_raters = [] if ballots.judge else ["over raters", "raters"]
    columns = [
        "methods",
        "question",
        "win rate, %",
        "Wilson's",
        *of_raters,
        "prompts",
        "pairs",
        "votes",
        "ties",
    ]
    who = judge_label(ballots) if ballots.judge else "people" if kept else "people, with those excluded"
    note = (
        "Win rate: share of the votes for the first method, a tie half a vote for each. Wilson's interval "
        "takes every vote for independent, which votes of one rater or on one prompt are not."
    )
    if ballots.judge:
        note = (
            f"No person voted: {judge_label(ballots)} answered every question alike, by which result's views "
            f"are more similar to the text. {note}"
        )
    return Table(
        "preference" if kept else "preference_all",
        [METRIC],
        f"Preference of {who}, % of votes [95 % interval over {axes}]",
        columns,
        rows,
        [note],
    )


def ranking_table(ballots: Ballots) -> Table:
    """Bradley–Terry strengths of more than two methods; UserError where they are not defined."""
    rows: list[list[Cell]] = []
    votes = ballots.votes()
    for question in ballots.questions:
        duels = Duels.of(votes.loc[votes["question"] == question], ballots.design.methods)
        for method, strength in ranking(duels, rng(), _axes(ballots)).items():
            rows.append([method, question, number(strength, sign=True), strength.n_prompts, strength.n_runs])
    who, axes = judge_label(ballots) if ballots.judge else "people", " and ".join(_axes(ballots))
    return Table(
        "ranking",
        [METRIC],
        f"Bradley–Terry strengths by the votes of {who} [95 % interval over {axes}]",
        ["method", "question", "log strength", "prompts", "votes"],
        rows,
        ["A gap of .5 is a win rate of 62 %, of 1 one of 73 %; the mean is 0. Ties are half a win of each."],
    )


def agreement_table(ballots: Ballots) -> Table:
    """Agreement between raters, with themselves on repeats, and with the truth on hidden ties."""
    votes, checks, ties = ballots.votes(), ballots.checks(), ballots.hidden_ties()
    rows: list[list[Cell]] = []
    for question in ballots.questions:
        own, again, hidden = (frame.loc[frame["question"] == question] for frame in (votes, checks, ties))
        called = hidden.assign(called=hidden["winner"] == "tie")
        chosen = own.loc[own["winner"] != "tie"]
        rows.append([
            question, number(alpha(own, rng())), Number(same_vote(own), scale=100.0),
            _over_raters(again, "consistent"), len(again), _over_raters(called, "called"), len(hidden),
            _over_raters(chosen.assign(left=chosen["winner"] == chosen["left"]), "left"),
            len(set(own["rater"])),
        ])  # fmt: skip
    columns = ["question", "alpha", "same vote, %", "repeats: same, %", "repeats", "hidden ties: called, %"]
    return Table(
        "agreement",
        [METRIC],
        "Agreement of the raters kept [95 % interval: alpha over prompts, shares over raters]",
        [*columns, "hidden ties", "left, %", "raters"],
        rows,
        ["alpha: Krippendorff's, nominal (1 agreement, 0 chance); where nearly all votes go to one method it "
         "is low although raters agree, so read it beside how often two raters gave the same vote. Called: "
         "shown one result twice, the rater said so. Left: of the votes that decided; it should be near 50."],
    )  # fmt: skip


def _over_raters(rows: pd.DataFrame, column: str) -> Number:
    by_rater = {str(name): list(own.astype(float)) for name, own in rows.groupby("rater")[column]}
    return percent(share_mean(by_rater)) if by_rater else Number(math.nan)


def raters_table(ballots: Ballots) -> Table:
    """How each rater answered, and by which of the study's own rules one was excluded."""
    rows: list[list[Cell]] = [
        [
            name, f"{rater.answered}/{rater.given}", f"{rater.consistent}/{rater.repeats}",
            f"{rater.ties - rater.decided}/{rater.ties}", Number(rater.same_side, scale=100.0, digits=0),
            Number(rater.seconds), rater.excluded or "–",
        ]
        for name, rater in ballots.raters.items()
    ]  # fmt: skip
    rules = ", ".join(f"{name} {limit:g}" for name, limit in ballots.design.exclusion.model_dump().items())
    return Table(
        "raters",
        [METRIC],
        "Raters, and who was excluded by the rules fixed before the study",
        ["rater", "trials", "repeats: same", "ties called", "one side, %", "seconds", "excluded by"],
        rows,
        [f"Rules: {rules}."],
    )


def _notes(ballots: Ballots) -> list[str]:
    if ballots.judge:
        silent = [q.id for q in ballots.design.questions if q.id not in ballots.questions]
        return [f"not answered by {judge_label(ballots)}: {', '.join(silent)}"] * bool(silent)
    idle = len(ballots.given) - len(ballots.raters)
    notes = [f"excluded: {rater} ({why})" for rater, why in ballots.excluded.items()]
    return [*notes, *([f"links without an answer: {idle}"] if idle else [])]


# ---- files


def write_results(ballots: Ballots, out: Path | None = None, console: Console | None = None) -> list[Table]:
    """Prints the tables and writes each as md, csv and tex, with results.md and results.json of them all.

    `out` is `<study>/results` by default, and for a judge `<study>/results-judge-NAME`.
    """
    tables, notes = study_tables(ballots)
    stamp = stamp_of(ballots)
    folder = out or ballots.folder / (f"results-{ballots.path.stem}" if ballots.judge else "results")
    make_folder(folder)
    for table in tables:
        write(table, stamp, folder)
    page = markdown(tables, stamp, f"Results of the study “{ballots.design.title}”", notes)
    write_bytes(folder / "results.md", page.encode())
    write_json(folder / "results.json", _as_json(ballots, tables, notes))
    if console:
        # The raters are hundreds of rows; those excluded are in the notes.
        tell([table for table in tables if table.name != "raters"], stamp, console)
        for note in notes:
            console.print(note, soft_wrap=True)
        console.print(f"written to {folder}/: {', '.join(table.name for table in tables)}", soft_wrap=True)
    return tables


def _as_json(ballots: Ballots, tables: Sequence[Table], notes: Sequence[str]) -> dict[str, Any]:
    def cell(value: Cell) -> Any:
        if not isinstance(value, Number):
            return value
        ends = {"value": value.value, "low": value.low, "high": value.high}
        return {name: x if math.isfinite(x) else None for name, x in ends.items()}

    return {
        "rests on": stamp_of(ballots).fields([METRIC]),
        "judge": ballots.judge or None,
        "exclusion": ballots.design.exclusion.model_dump(),
        "tables": {
            table.name: [dict(zip(table.columns, map(cell, row), strict=True)) for row in table.rows]
            for table in tables
        },
        "notes": list(notes),
    }


def export_votes(ballots: Ballots, out: Path) -> pd.DataFrame:
    """Writes every answer as one tidy table, a .csv or .parquet file: no link, name or time of day is in it.

    Raises UserError for another kind of file, and where there is no answer.
    """
    check_answered(ballots)
    why = [ballots.excluded.get(rater, "") for rater in ballots.answers["rater"]]
    frame = ballots.answers.assign(judge=ballots.judge, excluded=why)
    write_frame(frame, out)
    return frame
