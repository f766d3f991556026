"""What the files of a run folder are called, how large they may be, and what their JSON must say.

A record may say more than is listed here; what is listed has its type.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from harness.records.identity import RunSpec

SPEC, ENV, STATE = "spec.json", "env.json", "state.json"
METRICS, CHECKPOINT, LOG = "metrics.jsonl", "checkpoint.safetensors", "log.txt"
RESULT, FAILURE, CANCELLED = "result.json", "failure.json", "cancelled.json"
LEASE, DEATHS, LOCK = "lease.json", "deaths.json", ".lock"
NOTE = "wandb.json"  # where in W&B all of the run is
VIEWS, PARAMS, EVAL, TURNTABLE, MESH = "views", "params", "eval", "turntable", "mesh"
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


FORMS: dict[str, TypeAdapter[Any]] = {
    SPEC: TypeAdapter(RunSpec),
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
