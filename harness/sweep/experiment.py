"""Named experiments (experiments/*.toml): what to run at which size, and what is drawn of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Self

from pydantic import Field, model_validator

from harness.config import Strict, UserError, fitting, nearest, read_toml, split_override
from harness.home import PARTS
from harness.records.files import read_text
from harness.records.identity import RunSpec, run_id
from harness.sweep.grid import COMPARISON, Suite
from harness.sweep.request import Request

EXPERIMENTS = PARTS / "experiments"


class Beside(Strict):
    """Further runs of a size: other methods than its own, at other steps or settings."""

    methods: str
    steps: tuple[int, ...] = Field(default=(), description="none = the size's")
    set: tuple[str, ...] = Field(default=(), description="in addition to the size's")


class Size(Strict):
    """One size of an experiment: a sweep, what is run beside it, and the scorers of its views."""

    preset: str
    suite: str = "prompts/coco.txt"  # beside methods/ and eval/
    prompts: int | None = Field(default=None, ge=1, description="so many at even distances; none = all")
    split: str | None = Field(default=None, description="the part of the suite that is run")
    methods: str = COMPARISON
    seeds: str = "0"
    steps: tuple[int, ...] = ()
    recommended: bool = Field(default=False, description="each method at its own settings")
    nfe: int | None = Field(default=None, ge=1, description="denoiser evaluations of a run, instead of steps")
    per_step: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="method → denoiser evaluations of a mean step, where it is no one number"
    )
    set: tuple[str, ...] = ()
    beside: tuple[Beside, ...] = ()
    clips: tuple[str, ...] = ("toy-clip",)

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        if self.nfe is not None and self.steps:
            raise ValueError("a run has steps or a budget of nfe, not both")
        if self.nfe is None and self.per_step:
            raise ValueError("per_step belongs to a budget of nfe")
        return self


class StudyAsk(Strict):
    """A blind preference study of an experiment's runs, which each of the size's scorers judges."""

    methods: tuple[str, ...] = Field(min_length=2, description="as tables name them; every two are compared")
    questions: tuple[str, ...] = Field(default=(), description="ID or ID=TEXT; none = the default ones")


class Experiment(Strict):
    """A question, the runs that answer it, and what is drawn of them; without sizes it needs no runs."""

    title: str
    source: str  # what of the paper it reproduces
    reads: str  # what its outcome can and cannot show
    plan: str = ""  # written before it was run: hypothesis, primary measure, n, rule of decision, cost
    runs: str | None = Field(default=None, description="share the runs of this experiment's folder")
    keep_params: bool = Field(default=False, description="keep the parameters of every evaluated step")
    contrasts: tuple[tuple[str, str], ...] = Field(default=(), description="methods held against each other")
    tables: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    study: StudyAsk | None = None
    toy: Size | None = None
    paper: Size | None = None

    def resolve(self, size: Size) -> tuple[Suite, list[RunSpec]]:
        """The suite and every run of a size; what is set for those beside its sweep is an axis of tables.

        Raises UserError for whatever does not fit.
        """
        own = self._request(size)
        suite, specs = own.resolve()
        for more in size.beside:
            steps, settings = more.steps or size.steps, (*size.set, *more.set)
            request = replace(own, methods=more.methods, steps=steps, settings=settings)
            keys = [split_override(item)[0] for item in more.set]
            for spec in request.resolve()[1]:
                axes = tuple(dict.fromkeys([*spec.axes, *keys]))
                specs.append(spec.model_copy(update={"axes": axes}))
        return suite, list({run_id(spec): spec for spec in reversed(specs)}.values())[::-1]

    def _request(self, size: Size) -> Request:
        return Request(
            prompts=PARTS / size.suite,
            methods=size.methods,
            seeds=size.seeds,
            steps=size.steps,
            spread=size.prompts,
            split=size.split,
            preset=size.preset,
            settings=size.set,
            recommended=size.recommended,
            nfe=size.nfe,
            per_step=size.per_step,
        )


def names() -> list[str]:
    """The experiments there are."""
    return sorted(path.stem for path in EXPERIMENTS.glob("*.toml"))


def load(name: str) -> Experiment:
    """An experiment by its name; raises UserError for an unknown one and for a file that does not fit."""
    path = EXPERIMENTS / f"{name}.toml"
    if not path.is_file():
        raise UserError(f"no experiment '{name}'{nearest(name, [*names(), 'all'])}")
    with fitting(path):
        return Experiment.model_validate(read_toml(read_text(path), path))
