"""Asking Slurm: the queue, the site's limits, what it makes of profiles. All calls are here."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from harness.config import UserError, nearest
from slurm.profile import Profile, minutes

SECONDS = 60  # for a command to answer; a busy slurmctld takes its time
DEFAULT_ARRAY = 1001  # slurm.conf's default of MaxArraySize


class NoSlurm(UserError):
    """Slurm is not here, or does not answer."""


def here() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("squeue") is not None


def ask(*command: str, text: str | None = None, profile: Profile | None = None) -> str:
    """What a Slurm command prints, for a profile where it is sbatch; raises NoSlurm with its own words where
    it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, input=text, env=outside(profile)
        )
    except FileNotFoundError:
        raise NoSlurm(f"no {command[0]} on this machine: is it a login node of a Slurm cluster?") from None
    except subprocess.TimeoutExpired:
        raise NoSlurm(f"{command[0]} did not answer within {SECONDS} s; try again later") from None
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise NoSlurm(f"{command[0]}: {words}")
    return done.stdout or done.stderr


# Variables that Slurm's commands read as options, and that a job hands on to what it submits. sbatch's go
# before the script, where the profile is; squeue's would hide tasks; srun's would cut the step of a task.
_OPTIONS = (
    "SBATCH_", "SLURM_", "SLURMD_", "SRUN_", "SQUEUE_", "SCANCEL_", "SACCT_", "SCONTROL_", "SUBMITIT_",
)  # fmt: skip
_WHERE_SLURM_IS = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_TESTBED"}
# What sites set for their users, by the key of a profile, which goes before it.
_DEFAULTS = {
    key: f"SBATCH_{key.upper()}"
    for key in ("account", "partition", "qos", "constraint", "reservation", "wckey")
}


def defaults(profile: Profile) -> dict[str, str]:
    """What the environment says where the profile says nothing, by variable: sbatch goes by it."""
    stated = {key.lstrip("-").replace("_", "-") for key in profile.sbatch}
    stated |= {key for key in _DEFAULTS if getattr(profile, key, None) is not None}
    names = [name for key, name in _DEFAULTS.items() if key not in stated]
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def outside(profile: Profile | None = None) -> dict[str, str]:
    """The environment without options of Slurm's commands, but for the `defaults` of a profile."""
    kept = _WHERE_SLURM_IS | (defaults(profile).keys() if profile else set())
    return {k: v for k, v in os.environ.items() if k in kept or not k.startswith(_OPTIONS)}


def said_by_environment(profile: Profile) -> str:
    """What of the environment counts beside the profile, and what does not; "" where there is nothing."""
    used = [f"{name}={value}" for name, value in defaults(profile).items()]
    # Inside a job Slurm has set the others itself.
    prefix = _OPTIONS[:1] if "SLURM_JOB_ID" in os.environ else _OPTIONS
    unused = sorted(k for k in os.environ.keys() - outside(profile).keys() if k.startswith(prefix))
    parts = [f"{', '.join(used)} (the profile leaves it open)"] if used else []
    parts += [f"the profile goes before {', '.join(unused)}"] if unused else []
    return "; ".join(parts)


@contextmanager
def submitting(profile: Profile) -> Iterator[None]:
    """Inside, the process's own environment is `outside(profile)`: submitit calls sbatch with it."""
    before = dict(os.environ)
    added = before.keys() - outside(profile).keys()
    for key in added:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update({key: before[key] for key in added})


@dataclass(frozen=True)
class Queued:
    """A task in the queue, as squeue tells it: `reason` why it waits, `node` where it runs."""

    job: str
    state: str
    reason: str
    node: str


def queue(names: Iterable[str]) -> dict[str, dict[int, Queued]]:
    """The tasks in the queue of the jobs of these names, by name and array index, in one call of squeue.

    A job that is no array has index 0. Raises NoSlurm.
    """
    wanted = sorted(names)
    if not wanted:
        return {}
    text = ask("squeue", "--noheader", "--array", "--name", ",".join(wanted), "--format", "%i|%j|%T|%r|%N")
    found: dict[str, dict[int, Queued]] = {}
    for line in text.splitlines():
        job, name, state, reason, node = (part.strip() for part in line.split("|"))
        index = job.partition("_")[2]
        found.setdefault(name, {})[int(index) if index.isdecimal() else 0] = Queued(job, state, reason, node)
    return found


def cancel(jobs: Sequence[str]) -> None:
    """scancel; a job that has left the queue meanwhile is no error."""
    for start in range(0, len(jobs), 500):
        ask("scancel", "--quiet", *jobs[start : start + 500])


def state(job: str) -> str:
    """The state of a task that is in the queue, "" where it is not, or where nobody answers."""
    try:
        return ask("squeue", "--noheader", "--jobs", job, "--format", "%T").strip()
    except NoSlurm:
        return ""


def requeue(job: str) -> str | None:
    """Put a running task back into the queue; why that did not work, or None."""
    try:
        ask("scontrol", "requeue", job)
    except NoSlurm as error:
        return str(error)
    return None


def accounted(job: str) -> str | None:
    """What sacct says of a task, such as `NODE_FAIL on n02, exit code 0:0`; None without accounting."""
    try:
        text = ask(
            "sacct", "--noheader", "--parsable2", "--jobs", job, "--format", "JobID,State,ExitCode,NodeList"
        )
    except NoSlurm:
        return None
    rows = [line.split("|") for line in text.splitlines()]
    # Its steps have rows of their own, which may tell more: out of memory is known to the step alone.
    own = [row for row in rows if row[0] == job]
    if not own:
        return None
    state, code, nodes = own[-1][1:4]
    if any(row[1] == "OUT_OF_MEMORY" for row in rows):
        state = "OUT_OF_MEMORY"
    return f"{state} on {nodes}, exit code {code}" if nodes else state


def config() -> dict[str, str]:
    """slurm.conf as the controller runs it. Raises NoSlurm."""
    pairs = (line.partition("=") for line in ask("scontrol", "show", "config").splitlines())
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


@dataclass(frozen=True)
class Limits:
    """Most tasks in an array, and most tasks that may be submitted now (None: no limit known)."""

    array: int
    room: int | None


def stated(profile: Profile) -> Limits:
    """The limits that a profile states, without its site."""
    return Limits(max(profile.max_array or DEFAULT_ARRAY, 1), profile.max_submit)


def limits(profile: Profile) -> Limits:
    """The site's limits, less those that the profile states. Raises NoSlurm."""
    ask("squeue", "--version")  # though nothing else may have to be asked
    array = profile.max_array
    if array is None:
        size = config().get("MaxArraySize", "")
        array = int(size) if size.isdecimal() else DEFAULT_ARRAY
    most = profile.max_submit if profile.max_submit is not None else _submit_limit(profile)
    if most is None:
        return Limits(max(array, 1), None)
    mine = ask("squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i")
    return Limits(max(array, 1), max(most - len(mine.split()), 0))


def _submit_limit(profile: Profile) -> int | None:
    """The lowest MaxSubmitJobs of the user's associations and of the QOS; None without accounting."""
    where = [f"user={getpass.getuser()}", *([f"account={profile.account}"] if profile.account else [])]
    asked = [["association", "where", *where, "format=MaxSubmitJobs"]]
    if profile.qos:
        asked.append(["qos", "where", f"name={profile.qos}", "format=MaxSubmitJobsPerUser"])
    found = []
    for what in asked:
        try:
            text = ask("sacctmgr", "--noheader", "--parsable2", "show", *what)
        except NoSlurm:
            return None
        found += [int(line) for line in text.split() if line.isdecimal()]
    return min(found, default=None)


# ---- what the site says to a profile


@dataclass(frozen=True)
class Finding:
    """One line of `harness slurm check`; `ok` is None for what is good to know and no demand."""

    name: str
    ok: bool | None
    text: str


def check(profile: Profile, flags: Sequence[str]) -> list[Finding]:
    """What the site accepts, before anything is submitted; `flags` are the profile's as sbatch takes them.

    Raises NoSlurm where no controller answers.
    """
    conf = config()
    found = [_partition(profile)]
    try:
        words = ask("sbatch", "--test-only", *flags, text="#!/bin/sh\ntrue\n", profile=profile)
        found.append(Finding("a task", True, re.sub(r"^sbatch: (Job \d+ )?", "", " ".join(words.split()))))
    except NoSlurm as error:
        found.append(Finding("a task", False, str(error)))
    allowed = limits(profile)
    found.append(Finding("arrays", None, f"of up to {allowed.array} tasks; longer sweeps are split"))
    room = "no limit known" if allowed.room is None else f"{allowed.room} tasks can be submitted now"
    found.append(Finding("queue", None if allowed.room is None else allowed.room > 0, room))
    requeue_ok = conf.get("JobRequeue", "1") == "1"
    words = "jobs are requeued after a lost node" if requeue_ok else "the site requeues no job by itself"
    found.append(Finding("requeue", None, words + "; the same sweep command resubmits what is missing"))
    found.append(_preemption(conf))
    accounting = "none" not in conf.get("AccountingStorageType", "none").rpartition("/")[2]
    words = "sacct tells why a job ended" if accounting else "none: states come from run folders and squeue"
    found.append(Finding("accounting", None, words))
    if words := said_by_environment(profile):
        found.append(Finding("environment", None, words))
    return found


def _partition(profile: Profile) -> Finding:
    partitions: dict[str, dict[str, str]] = {}
    for block in ask("scontrol", "--oneliner", "show", "partition").splitlines():
        fields = dict(word.split("=", 1) for word in block.split() if "=" in word)
        partitions[fields["PartitionName"]] = fields
    default = next((name for name, p in partitions.items() if p.get("Default") == "YES"), None)
    name = profile.partition or defaults(profile).get("SBATCH_PARTITION") or default
    if name is None:
        return Finding("partition", False, f"the site has no default; choose from {', '.join(partitions)}")
    if name not in partitions:
        return Finding("partition", False, f"no partition '{name}'{nearest(name, partitions)}")
    fields = partitions[name]
    longest = fields.get("MaxTime", "UNLIMITED")
    if longest != "UNLIMITED" and minutes(longest) < profile.time:
        return Finding(
            "partition", False, f"{name} allows {longest}, the profile asks for {profile.time} minutes"
        )
    grace = f", preempted tasks get {fields['GraceTime']} s" if fields.get("GraceTime", "0") != "0" else ""
    words = f"{name}: {fields.get('State')}, {fields.get('TotalNodes')} nodes, time limit {longest}{grace}"
    return Finding("partition", fields.get("State") == "UP", words)


def _preemption(conf: dict[str, str]) -> Finding:
    if conf.get("PreemptType", "preempt/none") in ("preempt/none", "(null)"):
        return Finding("preemption", None, "none")
    if "preempt_send_user_signal" in conf.get("SlurmctldParameters", ""):
        return Finding("preemption", None, "announced by the signal that asks for a checkpoint")
    return Finding("preemption", None, "without warning but SIGTERM: what is kept is the last checkpoint")
