"""What a preference study compares and asks, fixed when it is made: STUDY/study.json. No torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.config import UserError, fitting
from harness.records.files import read_json
from harness.records.identity import canonical_json

VERSION = 1
STUDIES = "studies"  # the studies of a folder of runs are in here, by default, and looked for


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Question(_Part):
    """One thing that raters are asked of every pair."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    text: str = Field(min_length=1)


class Exclusion(_Part):
    """Whose answers do not count; fixed before anybody has answered. Shares lie in 0..1."""

    min_answered: float = 0.5  # share of the rater's trials that must be answered
    min_repeat_consistency: float = 0.5  # share of repeated pairs' answers that must be the same again
    max_same_side: float = 0.9  # share of decided answers that may fall on one side
    min_seconds: float = 1.0  # median of the seconds a trial took
    max_decided_ties: float = 0.9  # share of answers to hidden ties that may prefer a side


class Side(_Part):
    """One of the two things compared."""

    method: str  # as tables name it
    run: str


class Pair(_Part):
    """Two runs of one prompt and seed; of kind `tie` the same run twice, which a rater cannot know."""

    pair: str
    kind: Literal["real", "tie"]
    prompt: str
    seed: int
    a: Side
    b: Side
    media: dict[Literal["a", "b"], str]  # names in STUDY/media

    @property
    def methods(self) -> tuple[str, str]:
        """The two methods, in the study's order."""
        return self.a.method, self.b.method


class Design(_Part):
    """STUDY/study.json."""

    version: Literal[1]
    title: str
    created: str
    methods: list[str]
    questions: list[Question]
    consent: str
    mark: str  # "toy", "RANDOM WEIGHTS", or "" for a real prior's
    prior: str
    runs: str
    seed: int  # which runs became hidden ties
    repeats: int = Field(ge=0)  # real pairs that each rater sees a second time
    ties: int = Field(ge=0)
    exclusion: Exclusion
    pairs: list[Pair] = Field(min_length=1)

    @property
    def real(self) -> list[Pair]:
        """The pairs whose answers are the study's result."""
        return [pair for pair in self.pairs if pair.kind == "real"]

    @property
    def digest(self) -> str:
        """sha256 of all of it: what raters were invited to, and by which rules their answers count."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json")).encode()).hexdigest()

    @property
    def hidden(self) -> list[Pair]:
        """The hidden ties."""
        return [pair for pair in self.pairs if pair.kind == "tie"]


def load_design(folder: Path) -> Design:
    """The study in `folder`; raises UserError where there is none of this version."""
    data = read_json(folder / "study.json")
    if data is None:
        raise UserError(f"{folder} is no study: it has no study.json; `harness study new` makes one")
    with fitting(folder / "study.json"):
        return Design.model_validate(data)


def check_unchanged(design: Design, digest: str | None, folder: Path) -> None:
    """Raises UserError where `digest`, kept since the first link, is of another design; None is any."""
    if digest not in (None, design.digest):
        raise UserError(
            f"{folder / 'study.json'} was changed after the first link was made: what is asked and who is "
            "excluded is fixed before the study; put it back, or make a new study"
        )


def check_size(pairs: int, repeats: int, ties: int) -> None:
    """Raises UserError where hidden ties and repeats would be more than half of what is really compared."""
    for name, count in (("repeats", repeats), ("ties", ties)):
        if not 0 <= count <= pairs // 2:
            raise UserError(f"{count} {name} for {pairs} real pairs: at most {pairs // 2}, half as many")
