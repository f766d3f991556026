"""What a published folder consists of, and what of a run is nobody's business."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

VERSION = 1
HUB = "hf:"  # before a dataset of the Hugging Face Hub
CARD, CROISSANT = "README.md", "croissant.json"
RUNS, METRICS, VIEWS, SUITES = "runs", "metrics", "views", "suites"
SHARD_BYTES = 2**28  # of pictures in one file

# File → column → (Croissant's type, what it is).
COLUMNS: dict[str, dict[str, tuple[str, str]]] = {
    RUNS: {
        "run": ("sc:Text", "the run's name"),
        "method": ("sc:Text", "the method with its variant"),
        "prompt": ("sc:Text", "what it was asked for"),
        "seed": ("sc:Integer", "its random numbers"),
        "steps": ("sc:Integer", "N"),
        "status": ("sc:Text", "done or failed"),
        "suite": ("sc:Text", "the suite, which is the retrieval pool, by the sha256 of its prompts"),
        "prior": ("sc:Text", "the diffusion prior"),
        "prior_sha256": ("sc:Text", "of the prior's files"),
        "mark": ("sc:Text", "toy, RANDOM WEIGHTS, or nothing for a real prior"),
        "spec": ("sc:Text", "all that was asked, JSON"),
        "environment": ("sc:Text", "what made it, JSON, without names of machines, people and places"),
        "ending": ("sc:Text", "how it ended, JSON"),
        "values": ("sc:Text", "metrics of the last step with versions and scorer, JSON"),
    },
    METRICS: {
        "run": ("sc:Text", "the run's name"),
        "step": ("sc:Integer", "the step after which it was logged"),
        "metric": ("sc:Text", "what was logged"),
        "value": ("sc:Float", "its value; not a number where it was none"),
    },
    VIEWS: {
        "run": ("sc:Text", "the run's name"),
        "step": ("sc:Integer", "the step after which the views were taken"),
        "image": ("sc:ImageObject", "evaluation views side by side, square tiles, PNG"),
    },
}

ENVIRONMENT = (  # of env.json: what can move a number, and no name of a machine or a person
    "git", "python", "packages", "processor", "cores", "threads", "device", "deterministic", "gpu", "prior",
    "encoder", "compiled", "code",
)  # fmt: skip
_PATH = re.compile(
    r"(?<![\w.:/])(?:~[\w.-]*)?/(?:[^\s/:;,'\"<>|]+/)+(?=[^\s/])|(?<!\w)[A-Za-z]:\\(?:[^\\\s]+\\)+"
)


def public(value: Any, secrets: Collection[str] = ()) -> Any:
    """JSON data whose texts have no folders of absolute paths and none of the `secrets`, at any depth; what a
    path ends in stays."""
    if isinstance(value, str):
        text = _PATH.sub("", value)
        for secret in sorted(secrets, key=len, reverse=True):
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "…", text)
        return text
    if isinstance(value, Mapping):
        return {public(key, secrets): public(each, secrets) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [public(each, secrets) for each in value]
    return value


def secrets_of(env: Mapping[str, Any], deaths: Collection[Mapping[str, Any]]) -> set[str]:
    """The names of machines, jobs and owners that a run's records have, and those of this one."""
    told = [env, *deaths, *([env["slurm"]] if isinstance(env.get("slurm"), dict) else [])]
    named = {record.get(key) for record in told for key in ("host", "node", "owner", "job", "machine")}
    with suppress(KeyError, OSError):  # a user without a name
        named.add(getpass.getuser())
    named |= {socket.gethostname(), Path.home().name}
    return {name for name in named if isinstance(name, str) and len(name) > 2}
