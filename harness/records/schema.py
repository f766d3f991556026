"""What the files of a run folder are called, how large they may be, and what their JSON must say.

A record may say more than is listed here; what is listed has its type.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from harness.config import Config
from harness.records import reader
from harness.records.identity import RunSpec, SuiteRef
from harness.records.reader import RecordError

SPEC, ENV, STATE = "spec.json", "env.json", "state.json"
METRICS, CHECKPOINT, LOG = "metrics.jsonl", "checkpoint.safetensors", "log.txt"
RESULT, FAILURE, CANCELLED = "result.json", "failure.json", "cancelled.json"
LEASE, DEATHS, LOCK = "lease.json", "deaths.json", ".lock"
NOTE = "wandb.json"  # where in W&B all of the run is
VIEWS, PARAMS, EVAL, TURNTABLE, MESH = "views", "params", "eval", "turntable", "mesh"
VALUES = f"{EVAL}/values.json"  # of every metric that was computed of the run
FOLDERS = (VIEWS, PARAMS, EVAL, TURNTABLE, MESH)

RECORD_BYTES = 2**22
METRICS_BYTES = 2**30
PICTURE_BYTES = 2**28

Step = Annotated[int, Field(ge=0, le=10**9)]
Amount = Annotated[float, Field(ge=0, le=1e15)]  # seconds, megabytes, steps per second
Text = str | None


class Record(BaseModel):
    """A JSON file of a run."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class Prior(Record):
    """The diffusion prior that a run was made with."""

    tag: str = ""
    weights_hash: str = ""
    stamp: str = ""
    is_toy: bool = False


class Attempt(Record):
    """A process that advances a run, or did: lease.json, and each of deaths.json."""

    token: str = ""
    owner: Text = None
    machine: Text = None
    host: Text = None
    node: Text = None
    job: Text = None
    why: Text = None
    pid: Annotated[int, Field(ge=0, lt=2**31)] = 0
    start: Text = None
    restart: Annotated[int, Field(ge=0, le=10**9)] = 0
    taken: Amount = 0.0
    step: Step = 0


class Environment(Record):
    """env.json."""

    prior: Prior | None = None
    device: str = ""
    encoder: Text = None
    compiled: bool | None = None
    code: dict[str, str] = {}  # of the method and of the scene; joined by + where it changed on the way
    host: Text = None
    slurm: Attempt | None = None


class State(Record):
    """state.json."""

    step: Step
    total: Step
    rate: Amount = 0.0
    time: Amount = 0.0
    peak_memory_mb: Amount | None = None


class Result(Record):
    """result.json."""

    steps: Step | None = None
    views: list[Step] = []
    prior: Prior | None = None
    time: Amount | None = None


class Failure(Record):
    """failure.json."""

    reason: str
    step: Step
    detail: str = ""
    time: Amount = 0.0


class Cancelled(Record):
    """cancelled.json."""

    time: Amount = 0.0


class Uploaded(Record):
    """wandb.json."""

    server: Text = None
    entity: Text = None
    project: Text = None
    step: Annotated[int, Field(ge=-1, le=10**9)]
    record: str


class _Common(BaseModel):
    """The end of spec.json, from its configuration on: the same in all runs of a sweep."""

    model_config = ConfigDict(extra="forbid")

    config: Config
    suite: SuiteRef | None = None


_COMMON, _SPEC = TypeAdapter(_Common), TypeAdapter(RunSpec)


def read_spec(data: bytes) -> RunSpec:
    """spec.json as it was asked for, checked whole; what many have in common is parsed once, and is then one
    object. Raises RecordError.

    The bytes `"config":` are in no string of JSON, whose quotes are escaped. Where what stands before them
    is an object of its own, less its last comma, and what follows is another, the file is the two together.
    """
    own, mark, common = data.partition(b'"config":')
    own = own.rstrip()
    if mark and own.endswith(b","):
        with suppress(RecordError):
            spec, end = reader.typed(SPEC, own[:-1] + b"}", _SPEC), _common(mark + common)
            return spec.model_copy(update={name: getattr(end, name) for name in end.model_fields_set})
    return reader.typed(SPEC, data, _SPEC)


@lru_cache(maxsize=64)
def _common(data: bytes) -> _Common:
    return reader.typed(SPEC, b"{" + data, _COMMON)


FORMS: dict[str, TypeAdapter[Any]] = {
    SPEC: _SPEC,
    ENV: TypeAdapter(Environment),
    STATE: TypeAdapter(State),
    RESULT: TypeAdapter(Result),
    FAILURE: TypeAdapter(Failure),
    CANCELLED: TypeAdapter(Cancelled),
    LEASE: TypeAdapter(Attempt),
    DEATHS: TypeAdapter(list[Attempt]),
    NOTE: TypeAdapter(Uploaded),
}
FILES = (*FORMS, METRICS, CHECKPOINT, LOG, LOCK)
