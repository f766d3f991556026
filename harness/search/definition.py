"""Searches by name (experiments/searches/*.toml): what is varied, on which prompts, and what is tested."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from harness.config import Strict, UserError, fitting, nearest, read_toml
from harness.home import PARTS
from harness.records.files import read_text
from harness.records.identity import COMPOSED, canonical_json
from harness.search.axes import Axis, Point, Sampler, read, settings
from harness.sweep.experiment import EXPERIMENTS
from harness.sweep.grid import COMPARISON
from harness.sweep.request import Request

SEARCHES = EXPERIMENTS / "searches"
FOUND = "found"  # what stands for the winner among a test's methods
BASELINE = "uniform_sds"


class Part(Strict):
    """Prompts × seeds: a declared split of the suite, and so many of it at even distances."""

    split: str
    prompts: int | None = Field(default=None, ge=1, description="none = all")
    seeds: str = "0"


class Test(Strict):
    """A comparison of the winner on prompts that the search has not seen; `found` among the methods, or as
    the schedule after an @, is the winner."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str
    methods: str = f"{COMPARISON},{FOUND}"
    part: Part
    steps: tuple[int, ...] = ()
    nfe: int | None = Field(default=None, ge=1)
    per_step: dict[str, float] = Field(default={})
    set: tuple[str, ...] = ()
    recommended: bool = False
    tables: tuple[str, ...] = ("r_precision", "r_precision_steps", "differences", "convergence")
    figures: tuple[str, ...] = ("r_precision",)

    @model_validator(mode="after")
    def _check_winner(self) -> Self:
        if not any(FOUND in name.split(COMPOSED) for name in self.names):
            raise ValueError(f"methods: '{FOUND}' is not among them")
        return self

    @property
    def names(self) -> list[str]:
        """Its methods, one by one."""
        return [name.strip() for name in self.methods.split(",") if name.strip()]


class Size(Strict):
    """One size of a search.

    A generation's `candidates` differ in their `axes`; the first ones are `start`, settings that are known to
    be good or that the family should hold. What a run is worth is the mean of its R-Precision by `score` over
    its steps, from nothing at step 0, plus `iou` times its last aligned IoU. A candidate whose last level is
    more than `slack` points below the baseline's is not feasible. `finalists` of the search are run on the
    prompts of `validation`, where the winner is chosen.
    """

    preset: str
    suite: str = "prompts/coco.txt"  # beside methods/ and eval/
    steps: int = Field(ge=1)
    set: tuple[str, ...] = ()
    clip: str = "toy-clip"
    method: str = Field(description="what the axes are settings of, with the configuration's")
    axes: tuple[Axis, ...] = Field(min_length=1)
    start: tuple[tuple[str, ...], ...] = ()
    references: str = COMPARISON
    candidates: int = Field(ge=2, le=256)
    generations: int = Field(ge=1, le=1000)
    finalists: int = Field(ge=1, le=256)
    sampler: Sampler = "tpe"
    seed: int = 0
    score: Literal["per_view", "majority", "mean_sim"] = "per_view"
    iou: float = Field(default=0.0, ge=0)
    slack: float = Field(default=2.0, ge=0, description="points")
    train: Part
    validation: Part
    tests: tuple[Test, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        parts = [self.train.split, self.validation.split, *(test.part.split for test in self.tests)]
        if self.train.split == self.validation.split or {*parts[:2]} & {*parts[2:]}:
            raise ValueError("the splits of train, validation and tests are apart")
        if len({test.name for test in self.tests}) < len(self.tests):
            raise ValueError("tests: each has a name of its own")
        keys = [axis.key for axis in self.axes]
        if len(set(keys)) < len(keys):
            raise ValueError("axes: each is another setting")
        if BASELINE not in [name.strip() for name in self.references.split(",")]:
            raise ValueError(f"references: {BASELINE}, whose level is demanded, is not among them")
        for items in self.start:
            read(self.axes, items)
        return self

    @property
    def starts(self) -> list[Point]:
        """The points of `start`."""
        return [read(self.axes, items) for items in self.start]

    def of_candidate(self, point: Point, part: Part) -> Request:
        """A candidate's runs."""
        return self._request(self.method, part, settings(self.axes, point))

    def of_references(self, part: Part) -> Request:
        """The references' runs."""
        return self._request(self.references, part)

    def _request(self, methods: str, part: Part, changes: tuple[str, ...] = ()) -> Request:
        return Request(
            prompts=PARTS / self.suite,
            methods=methods,
            seeds=part.seeds,
            steps=(self.steps,),
            split=part.split,
            spread=part.prompts,
            preset=self.preset,
            settings=(*self.set, *changes),
        )

    def of_test(self, test: Test, winner: tuple[str, ...]) -> list[tuple[str, Request]]:
        """The runs of a test: of each method that is the winner under its name, then of all others under
        none."""
        own = self.method.rpartition(COMPOSED)[2]  # the schedule's half, or the method itself
        others = [name for name in test.names if FOUND not in name.split(COMPOSED)]

        def request(methods: str, changes: tuple[str, ...]) -> Request:
            usual = self._request(methods, test.part, (*test.set, *changes))
            steps = () if test.nfe else test.steps or usual.steps
            changed = {"recommended": test.recommended, "nfe": test.nfe, "per_step": test.per_step}
            return replace(usual, steps=steps, **changed)

        wanted = []
        for name in test.names:
            if name not in others:
                named = self.method if name == FOUND else name
                halves = (own if half == FOUND else half for half in named.split(COMPOSED))
                wanted.append((name, request(COMPOSED.join(halves), winner)))
        return [*wanted, *([("", request(",".join(others), ()))] if others else [])]

    @property
    def sha256(self) -> str:
        """What the search was, less its tests: they are proof, and may be added to."""
        asked = self.model_dump(mode="json", exclude={"tests"})
        return hashlib.sha256(canonical_json(asked).encode()).hexdigest()


class Search(Strict):
    """A question that a search answers, and its sizes."""

    title: str
    source: str
    reads: str  # what its outcome can and cannot show
    plan: str  # written before it was run
    toy: Size | None = None
    paper: Size | None = None

    def size(self, name: str) -> Size:
        """One of its sizes; raises UserError where it has none of that name."""
        found = {"toy": self.toy, "paper": self.paper}.get(name)
        if found is None:
            has = [each for each in ("toy", "paper") if getattr(self, each) is not None]
            raise UserError(f"--size is {' or '.join(has)}, not '{name}'")
        return found


def names() -> list[str]:
    """The searches there are."""
    return sorted(path.stem for path in SEARCHES.glob("*.toml"))


def load(name: str) -> Search:
    """A search by its name, or by its file; raises UserError for an unknown one and for one that does not
    fit."""
    path = Path(name).expanduser() if name.endswith(".toml") else SEARCHES / f"{name}.toml"
    if not path.is_file():
        raise UserError(f"no search '{name}'{nearest(name, names())}")
    with fitting(path):
        return Search.model_validate(read_toml(read_text(path), path))
