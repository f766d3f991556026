"""What a process says while it advances runs, and what it is told: typed, one line of JSON on the wire."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from harness.config import Execution, Strict
from harness.records.identity import RunSpec


class Started(Strict):
    """A run goes on from `step` of `total`."""

    event: Literal["started"] = "started"
    run: str
    step: int
    total: int


class Stepped(Strict):
    """Each of these runs has taken a step."""

    event: Literal["stepped"] = "stepped"
    runs: tuple[str, ...]


class Finished(Strict):
    """A run is done."""

    event: Literal["finished"] = "finished"
    run: str


class Failed(Strict):
    """A run has failed after `step`."""

    event: Literal["failed"] = "failed"
    run: str
    reason: str
    step: int = 0


class Lost(Strict):
    """A run's lease was taken by somebody else."""

    event: Literal["lost"] = "lost"
    run: str


class Ready(Strict):
    """A worker has begun, and takes commands."""

    event: Literal["ready"] = "ready"


class Returned(Strict):
    """A pack is over. `problem`: it has to be tried again in smaller packs, and why; `oom`: of memory."""

    event: Literal["returned"] = "returned"
    problem: str = ""
    oom: bool = False


class Measured(Strict):
    """A pack's steps per second (0 where it took none in time) and peak memory in MB, or the `problem`."""

    event: Literal["measured"] = "measured"
    rate: float = 0.0
    memory: float = 0.0
    problem: str = ""
    oom: bool = False


class Refused(Strict):
    """A command that no run of its kind can be carried out with: a UserError's words."""

    event: Literal["refused"] = "refused"
    message: str


Told = Started | Stepped | Finished | Failed | Lost
Event = Told | Ready | Returned | Measured | Refused
EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


class Setup(Strict):
    """A worker's first line: where the runs are, and how they are advanced."""

    root: Path
    execution: Execution


class Advance(Strict):
    """Advance these runs as one pack."""

    do: Literal["advance"] = "advance"
    runs: list[str]


class Measure(Strict):
    """Time a pack of such runs, after a look at one of each of the `kinds`."""

    do: Literal["measure"] = "measure"
    specs: list[RunSpec]
    kinds: list[RunSpec]


class Stop(Strict):
    """Checkpoint and leave."""

    do: Literal["stop"] = "stop"


Command = Advance | Measure | Stop
COMMAND: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="do")])
