"""A profile in sbatch's words: what submitit is given, and what a site makes of it."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import submitit

from harness.guidance import family
from harness.records.environment import own_code_in_shell
from slurm import site
from slurm.profile import Profile, load

OFFLINE = "HF_HUB_OFFLINE"  # compute nodes have no network; weights come with `harness doctor --fetch`


class _Anywhere(submitit.SlurmExecutor):
    """One that writes a script where there is no Slurm, too."""

    @classmethod
    def affinity(cls) -> int:
        """More than none."""
        return 1


def executor(
    folder: Path, profile: Profile, name: str, arrays: int = 1, kind: type = submitit.SlurmExecutor
) -> submitit.SlurmExecutor:
    """submitit's executor for one array of a launch of so many. Raises NoSlurm where there is no srun."""
    try:
        made = kind(folder, python=profile.python or shlex.quote(sys.executable))
    except RuntimeError:
        raise site.NoSlurm("no srun on this machine: is it a login node of a Slurm cluster?") from None
    made.update_parameters(**parameters(profile, name, arrays))
    return made


def parameters(profile: Profile, name: str, arrays: int = 1) -> dict[str, Any]:
    """The profile in submitit's words."""
    environment = {OFFLINE: "1"} | family.environment() | profile.environment
    named = {key: getattr(profile, key) for key in ("partition", "account", "qos", "constraint", "gres")}
    named["gpus_per_node"] = profile.gpus_per_node or None
    further = {key.lstrip("-"): value for key, value in profile.sbatch.items() if value is not False}
    return {
        **{key: value for key, value in named.items() if value is not None},
        "job_name": name,
        "cpus_per_task": profile.cpus,
        "mem": profile.mem,
        "time": profile.time,
        "signal_delay_s": profile.signal_seconds,
        "array_parallelism": max(profile.array_parallelism // arrays, 1),
        "setup": [
            *profile.setup,
            *own_code_in_shell(),
            *(f"export {k}={shlex.quote(v)}" for k, v in environment.items()),
        ],
        "stderr_to_stdout": True,
        "wckey": None,
        # srun of Slurm 22.05 and later does not take over what sbatch was given.
        "srun_args": [f"--cpus-per-task={profile.cpus}"],
        "additional_parameters": {"requeue": True, **further},
    }


def text(profile: Profile, name: str, tasks: int, folder: Path) -> str:
    """What sbatch would be given for an array of so many tasks."""
    made = executor(folder, profile, name, kind=_Anywhere)
    if tasks > 1:
        made.parameters["map_count"] = tasks
    return made._make_submission_file_text(made._submitit_command_str, "")


def flags(profile: Profile) -> list[str]:
    """The profile as options of sbatch."""
    lines = text(profile, "harness-check", 1, Path("harness-check")).splitlines()
    asked = [shlex.split(line)[1] for line in lines if line.startswith("#SBATCH ")]
    return [flag for flag in asked if not flag.startswith(("--output", "--error", "--open-mode"))]


def check(name: str, as_json: bool) -> bool:
    """Print what the site makes of a profile; whether it accepts it."""
    profile = load(name)
    found = site.check(profile, flags(profile))
    if as_json:
        print(json.dumps([asdict(finding) for finding in found], indent=2))
    for finding in [] if as_json else found:
        sign = {True: "ok", False: "REFUSED", None: ""}[finding.ok]
        print(f"{finding.name:<12} {sign:<8} {finding.text}")
    return all(finding.ok is not False for finding in found)
