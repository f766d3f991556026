"""What a search varies, as data, and what a point of it sets. No optuna."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from harness.config import Strict

Point = dict[str, float | str]  # what the optimiser sees: coordinate → value


class Axis(Strict):
    """A setting of `--set`, and the values that it may take: one of three kinds.

    `low`, `high`: a number between them, to `digits` after the point; `log`: evenly by its logarithm.
    `choices`: one of these words. `falling`: so many numbers between low and high that do not rise, written
    as a method takes knots, `100/60/0`; every such sequence is as likely as any other.
    """

    key: str = Field(min_length=1)
    low: float = 0.0
    high: float = 100.0
    digits: int = Field(default=0, ge=0, le=6)
    log: bool = False
    choices: tuple[str, ...] = ()
    falling: int | None = Field(default=None, ge=2, le=20)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.choices and self.falling:
            raise ValueError("an axis has choices or falls, not both")
        if not self.low < self.high:
            raise ValueError("low lies below high")
        if self.log and (self.low <= 0 or self.falling):
            raise ValueError("log is for one number above 0")
        return self

    @property
    def coordinates(self) -> list[str]:
        """The names of what the optimiser sees of it."""
        return [f"{self.key}[{k}]" for k in range(self.falling)] if self.falling else [self.key]

    def canonical(self, point: Mapping[str, float | str]) -> Point:
        """Its coordinates at the point, in the one spelling that a setting has."""
        if self.choices:
            return {self.key: point[self.key]}
        numbers = [
            min(max(round(float(point[name]), self.digits), self.low), self.high) for name in self.coordinates
        ]
        return dict(zip(self.coordinates, sorted(numbers, reverse=True), strict=True))

    def setting(self, point: Mapping[str, float | str]) -> str:
        """What the point sets, as `--set` takes it."""
        values = [point[name] for name in self.coordinates]
        return f"{self.key}={'/'.join(v if isinstance(v, str) else f'{v:.10g}' for v in values)}"

    def read(self, value: str) -> Point:
        """The coordinates of a setting's value; raises ValueError where it is none of the axis."""
        if self.choices:
            if value not in self.choices:
                raise ValueError(f"{self.key} is one of {', '.join(self.choices)}, not '{value}'")
            return {self.key: value}
        parts = value.split("/")
        if len(parts) != len(self.coordinates):
            raise ValueError(f"{self.key} has {len(self.coordinates)} numbers, not '{value}'")
        numbers = [float(part) for part in parts]
        if not all(math.isfinite(number) and self.low <= number <= self.high for number in numbers):
            raise ValueError(f"{self.key} lies in {self.low:g} … {self.high:g}, not '{value}'")
        return self.canonical(dict(zip(self.coordinates, numbers, strict=True)))


def settings(axes: Sequence[Axis], point: Mapping[str, float | str]) -> tuple[str, ...]:
    """What a point sets, axis by axis."""
    return tuple(axis.setting(point) for axis in axes)


def read(axes: Sequence[Axis], items: Sequence[str]) -> Point:
    """The point that settings name, each axis once; raises ValueError."""
    given = {key: value for key, _, value in (item.partition("=") for item in items)}
    keys = [axis.key for axis in axes]
    if sorted(given) != sorted(keys) or len(given) != len(items):
        raise ValueError(f"a start names each of {', '.join(keys)} once, not {' '.join(items)}")
    return {name: value for axis in axes for name, value in axis.read(given[axis.key]).items()}


Sampler = Literal["tpe", "random"]
