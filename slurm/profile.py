"""A profile: what a site wants to hear from sbatch, and how much of it a task of this harness asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from harness.config import Strict, UserError, fitting, nearest, read_toml
from harness.records.files import NoSuchFile, make_folder, read_text, write_bytes

SHIPPED = Path(__file__).parent / "profiles"
OWN = Path("slurm-profiles")  # in the folder that commands are run from
# What sbatch is told by the launcher itself; a profile that said otherwise would lose runs.
RESERVED = {"array", "job-name", "output", "error", "open-mode", "signal", "requeue", "no-requeue", "ntasks"}


class Profile(Strict):
    """One site, one kind of node. Every key may be left out; what stands here without one is the site's."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus_per_node: int | None = Field(default=None, ge=0, description="--gpus-per-node; or use gres")
    gres: str | None = Field(default=None, description="such as gpu:a100:1, for sites that want --gres")
    cpus: int = Field(default=4, ge=1, description="CPU cores of a task")
    mem: str = Field(default="24G", pattern=r"^\d+[KMGT]?$", description="memory of a task")
    time: int = Field(default=240, ge=1, description="minutes; longer tasks are requeued")
    signal_seconds: int = Field(default=90, ge=10, description="warning before the time limit")
    array_parallelism: int = Field(default=256, ge=1, description="most tasks of a sweep at a time")
    max_array: int | None = Field(default=None, ge=1, description="tasks in an array; asked of the site")
    max_submit: int | None = Field(default=None, ge=1, description="tasks in the queue; asked of the site")
    packs_per_task: int | None = Field(default=None, ge=1, description="packs of a task; one per GPU")
    pack: int | None = Field(default=None, ge=1, description="most runs in a pack; --pack goes before it")
    device: str = Field(default="auto", pattern="^(auto|cpu|cuda)$")
    python: str | None = Field(default=None, description="the command that starts Python, for containers")
    setup: tuple[str, ...] = Field(default=(), description="shell lines before Python starts")
    environment: dict[str, str] = Field(default_factory=dict, description="set in every task")
    sbatch: dict[str, str | int | bool] = Field(default_factory=dict, description="any other sbatch option")

    @field_validator("time", mode="before")
    @classmethod
    def _minutes(cls, value: Any) -> Any:
        return minutes(value) if isinstance(value, str) else value

    @field_validator("sbatch")
    @classmethod
    def _passed_on(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name in options:
            key = name.lstrip("-").replace("_", "-")
            if key in RESERVED:
                raise ValueError(f"{name} is set by the launcher")
            if key.replace("-", "_") in cls.model_fields:
                raise ValueError(f"{name} has a key of its own in the profile")
        return options

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.gpus_per_node and self.gres:
            raise ValueError("gpus_per_node and gres both ask for GPUs: keep one")
        if self.signal_seconds >= 60 * self.time:
            raise ValueError(f"signal_seconds = {self.signal_seconds} is no less than the time limit")
        return self

    @property
    def gpus(self) -> int:
        """How many GPUs a task has."""
        if self.gres and self.gres.startswith("gpu"):
            last = self.gres.split(":")[-1]
            return int(last) if last.isdecimal() else 1
        return self.gpus_per_node or 0

    @property
    def slots(self) -> int:
        """How many packs a task advances at a time."""
        return max(self.gpus, 1) if self.device != "cpu" else 1


def minutes(text: str) -> int:
    """Slurm's ways of writing a time limit as minutes, rounded up: `90`, `1:30:00`, `2-12`, `2-12:30`.

    Raises ValueError.
    """
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    day = int(days) if dash else 0
    if dash:  # D-H[:M[:S]]
        hours, minute, second = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minute, second = parts
    else:  # M[:S]
        hours, minute, second = 0, *((*parts, 0)[:2])
    return (day * 24 + hours) * 60 + minute + (1 if second else 0)


def names() -> dict[str, Path]:
    """The profiles there are: shipped ones, and those of ./slurm-profiles, which go before."""
    return {path.stem: path for folder in (SHIPPED, OWN) for path in sorted(folder.glob("*.toml"))}


def default() -> str:
    """The one profile of ./slurm-profiles; raises UserError where there are none or several."""
    own = sorted(path.stem for path in OWN.glob("*.toml"))
    if len(own) != 1:
        which = f"choose from {', '.join(sorted(names()))}" if not own else f"choose from {', '.join(own)}"
        raise UserError(f"--slurm: which profile? {which}")
    return own[0]


def load(name: str) -> Profile:
    """A profile by name or by path; raises UserError for an unknown one, an unknown key and a bad value."""
    path = Path(name).expanduser() if name.endswith(".toml") else names().get(name)
    if path is None:
        raise UserError(
            f"no Slurm profile '{name}'{nearest(name, names())}; "
            f"`harness slurm profile new {name}` writes one"
        )
    try:
        data = read_toml(read_text(path), path)
    except NoSuchFile:
        raise UserError(f"no Slurm profile {path}{nearest(name, names())}") from None
    for key in data:
        if key not in Profile.model_fields:
            raise UserError(
                f"{path}: no key '{key}'{nearest(key, Profile.model_fields)}; options of sbatch that have no "
                "key go under [sbatch]"
            )
    with fitting(path):
        return Profile.model_validate(data)


TEMPLATE = """# A Slurm profile of dreamtime-harness: `harness sweep PROMPTS --slurm {name}`.
# `harness slurm check {name}` asks the site what it makes of it. Every key may be left out.

# partition = "gpu"
# account = "my-project"
# qos = "normal"
# constraint = "a100"

gpus_per_node = 1            # or gres = "gpu:a100:1"; 0 for CPU nodes. Each GPU advances a pack of runs
cpus = 4                     # CPU cores of a task
mem = "24G"                  # memory of a task
time = "4:00:00"             # a task that needs longer checkpoints, and is requeued by itself
# signal_seconds = 90        # warning before the time limit

# array_parallelism = 256    # most tasks of a sweep at a time
# max_array = 1000           # asked of the site by default
# max_submit = 500           # most tasks you may have in the queue; asked of the site by default
# packs_per_task = 1         # longer tasks, and fewer: one pack per GPU by default
# pack = 32                  # most runs in a pack

# python = "apptainer exec --nv image.sif python"   # Python of a container
# setup = ["module load cuda/12.4"]                 # shell lines before Python starts

[environment]                # set in every task; HF_HUB_OFFLINE=1 is there already
# HF_HOME = "/scratch/me/huggingface"

[sbatch]                     # any other option of sbatch
# exclude = "node[07-08]"
# mail-type = "FAIL"
"""


def new(name: str) -> Path:
    """Write a profile with comments into ./slurm-profiles; UserError for a name that is taken or odd."""
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UserError(f"'{name}' is no name for a profile: use letters, digits, - and _")
    if name in names():
        raise UserError(f"{names()[name]} exists already; name another, or edit it")
    path = OWN / f"{name}.toml"
    make_folder(path.parent)
    write_bytes(path, TEMPLATE.format(name=name).encode())
    return path
