"""What a search has tried and seen, and the winner that it fixed: search.json and winner.json of its runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self, TypeVar

from pydantic import Field, ValidationError

from harness.config import Strict, UserError, first_problem
from harness.records.files import read_json, write_json
from harness.records.identity import canonical_json
from harness.search.axes import Point

JOURNAL, WINNER = "search.json", "winner.json"
TRAIN, VALIDATION = "train", "validation"


class Score(Strict):
    """What a run is worth, and of what: mean R-Precision over its steps, at the last step, its last IoU."""

    prompt: str
    seed: int
    value: float
    mean: float
    last: float
    iou: float | None = None


Scores = tuple[Score, ...]


def by_prompt(scores: Scores, of: str = "value") -> dict[str, dict[int, float]]:
    """prompt → seed → a number of its score."""
    found: dict[str, dict[int, float]] = {}
    for score in scores:
        found.setdefault(score.prompt, {})[score.seed] = getattr(score, of)
    return found


def mean(scores: Scores, of: str = "value") -> float:
    """Mean over prompts of the mean over a prompt's seeds."""
    prompts = [sum(seeds.values()) / len(seeds) for seeds in by_prompt(scores, of).values()]
    return sum(prompts) / len(prompts)


class Candidate(Strict):
    """A point, the generation that proposed it, and its scores by part."""

    generation: int
    point: Point
    scores: dict[str, Scores] = Field(default={})


class Told(Strict):
    """What the scores rest on, as evaluation stamped them."""

    mark: str
    words: str
    columns: dict[str, str | int]

    def line(self, metrics: Sequence[str] = ()) -> str:
        """One line for a caption."""
        return self.words

    def fields(self, metrics: Sequence[str]) -> dict[str, str | int]:
        """The columns that each line of a csv ends in."""
        return self.columns


class Journal(Strict):
    """A search up to now. `of` is the hash of its definition; `references` has their scores by name and part;
    `tests` those of each test by name and method; `seconds`: what its generations took."""

    of: str
    stamp: Told | None = None
    candidates: tuple[Candidate, ...] = ()
    references: dict[str, dict[str, Scores]] = Field(default={})
    tests: dict[str, dict[str, Scores]] = Field(default={})
    seconds: float = Field(default=0.0, ge=0)

    def generation(self, number: int) -> list[Candidate]:
        """The candidates of a generation."""
        return [each for each in self.candidates if each.generation == number]

    def scored(self, part: str) -> list[Candidate]:
        """The candidates that were run on a part's prompts."""
        return [each for each in self.candidates if part in each.scores]

    def with_scores(self, candidate: Candidate, part: str, scores: Scores) -> Self:
        """The journal with a candidate's scores on a part."""
        told = candidate.model_copy(update={"scores": candidate.scores | {part: scores}})
        kept = tuple(told if each.point == candidate.point else each for each in self.candidates)
        return self.model_copy(update={"candidates": kept})

    def write(self, root: Path) -> None:
        """Keep it with its runs."""
        write_json(root / JOURNAL, self.model_dump(mode="json"))


class Winner(Strict):
    """What the search found, fixed before any test was run; `sha256` is over all else."""

    of: str  # the definition's hash
    settings: tuple[str, ...]
    generation: int
    candidates: int  # how many were tried
    train: float
    validation: float
    sha256: str = ""

    @property
    def digest(self) -> str:
        """The hash of what it says."""
        said = canonical_json(self.model_dump(mode="json", exclude={"sha256"}))
        return hashlib.sha256(said.encode()).hexdigest()

    def fix(self, root: Path) -> Self:
        """Write it; it is never written over."""
        sealed = self.model_copy(update={"sha256": self.digest})
        write_json(root / WINNER, sealed.model_dump(mode="json"))
        return sealed


Kept = TypeVar("Kept", Journal, Winner)


def kept(root: Path, of: str) -> tuple[Journal, Winner | None]:
    """The journal of a search's folder, a new one where there is none, and its winner if it has one yet.

    Raises UserError for what cannot be read or is another definition's, for a winner that was changed
    afterwards, and for one without the journal that it came from.
    """
    journal, winner = _read(Journal, root / JOURNAL, of), _read(Winner, root / WINNER, of)
    if winner and winner.sha256 != winner.digest:
        raise UserError(f"{root / WINNER} was changed after it was fixed: its hash is not of what it says")
    if winner and not (journal and journal.candidates):
        raise UserError(
            f"{root / WINNER} is there without its {JOURNAL}: put that back, or move both away to search "
            "anew; the runs are found again"
        )
    return journal or Journal(of=of), winner


def _read(model: type[Kept], path: Path, of: str) -> Kept | None:
    """What a file says of the definition `of`; None where there is no file."""
    data = read_json(path)
    if data is None and not os.path.lexists(path):
        return None
    try:
        found = model.model_validate(data)
    except ValidationError as error:
        why = first_problem(error) if data is not None else "cannot be read"
        raise UserError(
            f"{path}: {why}; move {JOURNAL} and {WINNER} away to begin anew, the runs are found again"
        ) from None
    if found.of != of:
        raise UserError(
            f"{path} is of another definition of the search: name another --runs, or undo the changes"
        )
    return found
