"""What a step of each method costs, measured side by side; kept beside the runs as costs.json."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import median

from pydantic import Field, NonNegativeFloat, PositiveFloat, TypeAdapter, ValidationError, model_validator

from harness.config import Strict, UserError, first_problem
from harness.records.files import read_json, write_json
from harness.records.lease import locked

FILE = "costs.json"


class MethodCost(Strict):
    """One method: denoiser evaluations per run and step, and seconds per run and step, one per round."""

    nfe: NonNegativeFloat
    seconds: tuple[PositiveFloat, ...] = Field(min_length=1)
    evaluation: tuple[PositiveFloat, ...] = ()  # of the denoiser alone, seconds per run, one per round

    @property
    def over_denoiser(self) -> float:
        """A step over as many evaluations of the denoiser alone, the median of rounds; nan where unknown."""
        if not self.evaluation or not self.nfe:
            return math.nan
        rounds = zip(self.seconds, self.evaluation, strict=True)
        return median(step / (self.nfe * one) for step, one in rounds)


class SideBySide(Strict):
    """Methods whose steps were timed in turn, round by round, in one process."""

    machine: str  # the GPU's name, or the processor's
    device: str
    threads: int
    pack: int  # runs that advanced together
    methods: dict[str, MethodCost]  # by the settings of the method and of all else (RunRecord.cost_key)

    @model_validator(mode="after")
    def _every_round_has_all(self) -> SideBySide:
        timed = (times for each in self.methods.values() for times in (each.seconds, each.evaluation))
        if len({len(times) for times in timed if times}) != 1:
            raise ValueError("methods measured side by side have equally many rounds, and there is one")
        return self


_FILE = TypeAdapter(list[SideBySide])


def read_costs(root: Path) -> list[SideBySide]:
    """What was measured for the runs under `root`, the last first; [] where nothing was.

    Raises UserError for a file that holds something else.
    """
    try:
        return _FILE.validate_python(read_json(root / FILE) or [])
    except ValidationError as error:
        raise UserError(
            f"{root / FILE}: {first_problem(error)}; delete it, `harness bench methods` makes it anew"
        ) from None


def keep_costs(root: Path, measured: SideBySide) -> None:
    """Add a measurement; it takes the place of those whose methods are all in it."""
    with locked(root):
        others = [one for one in read_costs(root) if not one.methods.keys() <= measured.methods.keys()]
        write_json(root / FILE, [one.model_dump(mode="json") for one in (measured, *others)])
