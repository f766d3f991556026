"""What `harness sweep --slurm` and `harness slurm check` print."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.config import UserError
from harness.guidance import hub
from harness.records.folder import run_folders
from harness.records.reader import RecordError
from harness.sweep.plan import check_priors
from slurm import launcher, site
from slurm.launch import in_queue, launches
from slurm.profile import load

MEASURED = 64  # finished runs that an estimate looks at


def sweep(dry_run: bool, **asked: Any) -> None:
    """Submit what is missing, or with `dry_run` say what would be; `asked` as `launcher.Ask`."""
    ask = launcher.Ask(**asked)
    if words := site.said_by_environment(ask.profile):
        print(f"environment: {words}", flush=True)
    _weights_are_here(ask)
    check_priors(ask.root, ask.specs)
    pace = seconds_per_step(ask.root)
    if dry_run:
        found = launcher.plan(ask, in_queue(launches(ask.root)), site.limits(ask.profile))
        print(found.plan.summary(), flush=True)
    else:
        found = launcher.submit(ask)
    for run, damage in found.plan.damaged.items():
        print(f"damaged, and left as it is: {run}: {damage}")
    if not found.arrays:
        print(f"nothing to submit; harness status {ask.root}")
        return
    print(launcher.estimate(found, pace, ask.profile))
    if dry_run:
        folder = ask.root / "slurm" / "LAUNCH" / "jobs"
        for number, array in enumerate(found.arrays):
            text = launcher.sbatch_text(ask.profile, f"{ask.root.name}-LAUNCH-{number}", len(array), folder)
            print(f"\n# array {number}: {len(array)} tasks\n{text}", end="")
    else:
        print(f"submitted; harness status {ask.root} --watch")


def _weights_are_here(ask: launcher.Ask) -> None:
    """Raises UserError where a prior of the Hub is not on this machine: its jobs look for it offline."""
    if ask.profile.environment.get(launcher.OFFLINE, "1") != "1":
        return
    for prior, revision in {(s.config.guidance.prior, s.config.guidance.revision) for s in ask.specs}:
        of_the_hub = hub.is_hub_id(prior) and not Path(prior).expanduser().is_dir()
        if of_the_hub and hub.stored(prior, revision, ["model_index.json"]) is None:
            raise UserError(
                f"{prior} is not on this machine, and jobs run offline; fetch it here first: "
                f"harness doctor --fetch --prior {prior}"
            )


def seconds_per_step(root: Path) -> float | None:
    """Median wall seconds that a step of a pack took in this folder; None before the first run has ended."""
    found = []
    for folder in run_folders(root) if root.is_dir() else []:
        try:
            result = folder.result()
        except RecordError:
            continue  # it tells nothing
        if result and result.get("steps") and result.get("time"):
            found.append(result["time"] / result["steps"])
        if len(found) == MEASURED:
            break
    return statistics.median(found) if found else None


def check(name: str, as_json: bool) -> bool:
    """Print what the site makes of a profile; whether it accepts it."""
    profile = load(name)
    found = site.check(profile, launcher.flags(profile))
    if as_json:
        print(json.dumps([asdict(finding) for finding in found], indent=2))
    for finding in [] if as_json else found:
        sign = {True: "ok", False: "REFUSED", None: ""}[finding.ok]
        print(f"{finding.name:<12} {sign:<8} {finding.text}")
    return all(finding.ok is not False for finding in found)
