"""What lies in a folder of runs and belongs to no run of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from harness.records.files import read_json
from harness.records.folder import RunFolder, run_folders
from harness.records.lease import holder

RUN_ID = re.compile(r"[a-z0-9_]+-[a-z0-9-]+-s\d+-[0-9a-f]{8}")


@dataclass(frozen=True)
class Waste:
    """A file or folder that no spec refers to, why, and its size in bytes."""

    path: Path
    why: str
    size: int

    def remove(self) -> None:
        """Delete it."""
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)


def find_waste(root: Path, busy: Collection[Path] = ()) -> list[Waste]:
    """Everything under `root` that no run's spec refers to; nothing of a run that is being advanced.

    `busy` are launches with tasks in the queue. Raises UserError where `root` is no folder.
    """
    folders = run_folders(root)
    runs = {folder.id for folder in folders}
    specs = [read_json(folder.path / "spec.json") or {} for folder in folders]
    suites = {spec["suite"]["sha256"][:12] for spec in specs if spec.get("suite")}
    found: list[tuple[Path, str]] = []
    for path in sorted(root.iterdir()):
        if path.is_dir() and path.name not in runs and RUN_ID.fullmatch(path.name):
            found.append((path, "a run folder without a spec"))
    found += [
        (p, "half-written") for folder in folders if not holder(folder.path) for p in _leftovers(folder)
    ]
    for path in sorted(root.glob("suites/*.json")):
        if path.stem not in suites:
            found.append((path, "a suite of no run"))
    for path in sorted(root.glob("wandb/*run-*")):
        run = re.match(r"(?:offline-)?run-\d+_\d+-(.+)", path.name)
        if run and path.is_dir() and run[1] not in runs:
            found.append((path, "the W&B mirror of no run"))
    for path in sorted(root.glob("slurm/*/launch.json")):
        launch = read_json(path) or {"arrays": []}
        if path.parent.resolve() not in busy and not runs & {
            run for array in launch["arrays"] for task in array["tasks"] for run in task
        }:
            found.append((path.parent, "a launch of no run"))
    return [Waste(path, why, _size(path)) for path, why in found]


def _leftovers(folder: RunFolder) -> list[Path]:
    return sorted(path for path in folder.path.rglob(".*.tmp"))


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)
