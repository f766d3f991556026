"""What lies in a folder of runs and belongs to no run of it; it goes to a trash folder there, never at once.

No link is followed or taken for waste. Whatever holds a result, a checkpoint or views is kept, and so is what
a record that cannot be read may refer to.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.config import UserError
from harness.records.files import disk_errors, is_aside, read_json
from harness.records.folder import ID, PROOF, Look, run_folders
from harness.records.lease import holder
from harness.records.reader import is_file, is_folder, names
from harness.records.schema import LOCK, SPEC
from harness.records.suites import SUITES

EMPTY = "an empty run folder"
AGE_SECONDS = 3600.0  # what changed more recently may be somebody's work
TRASH = "trash"
_DATED = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
_SUITE = re.compile(r"[0-9a-f]{12}\.json")
_MIRROR = re.compile(r"(?:offline-)?run-\d+_\d+-(.+)")

Looks = dict[str, Look]
Add = Callable[[Path, str], None]


@dataclass(frozen=True)
class Waste:
    """A file or folder that no spec refers to, why, and its size in bytes."""

    path: Path
    why: str
    size: int


@dataclass
class Found:
    """What may go; what looks as if it might and is kept, with the reason; what is too young to go; and how
    many runs there are, by where they stand."""

    waste: list[Waste] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    young: list[Path] = field(default_factory=list)
    runs: Counter[str] = field(default_factory=Counter)


def find_waste(root: Path, busy: Collection[Path] = ()) -> Found:
    """Everything under `root` that no run's spec refers to; nothing of a run that is being advanced.

    `busy` are launches with tasks in the queue. Raises UserError where `root` is no folder.
    """
    found = Found()
    folders = run_folders(root)
    root = root.resolve()
    looks = {folder.id: folder.look() for folder in folders}
    unread = [name for name, look in looks.items() if look.spec is None]
    found.runs.update(look.status for look in looks.values())
    found.kept += [f"{name}: damaged: {look.damage}" for name, look in looks.items() if look.damage]
    now = time.time()

    def add(path: Path, why: str) -> None:
        try:
            size, changed = _measured(path)
        except FileNotFoundError:
            return  # it is in use
        if now - changed > AGE_SECONDS:
            found.waste.append(Waste(path, why, size))
        else:
            found.young.append(path)

    for name in names(root):
        path = root / name
        if not is_folder(path) or name in looks:
            continue
        if is_aside(name) and ID.fullmatch(name[1:].rsplit(".", 3)[0]) and _holds_only(path, {SPEC}):
            add(path, "a run folder that was never made to its end")
        elif ID.fullmatch(name) and not {SPEC, *PROOF} & set(names(path)):
            if _holds_only(path, {LOCK}):
                add(path, EMPTY)
            else:
                found.kept.append(f"{name}: named as a run, but holds only files that are not a run's")
    for folder in folders:
        if looks[folder.id].status != "damaged" and not holder(folder.path):
            for path in folder.leftovers():
                add(path, "a file that was never written to its end")
    _add_suites(root, looks, unread, found, add)
    if is_folder(root / "wandb"):
        for name in names(root, "wandb"):
            mirror = _MIRROR.fullmatch(name)
            if mirror and mirror[1] not in looks and is_folder(root / "wandb" / name):
                add(root / "wandb" / name, "the W&B files of a run that is not here")
    _add_launches(root, looks, busy, found, add)
    return found


def _add_suites(root: Path, looks: Looks, unread: list[str], found: Found, add: Add) -> None:
    used = {look.spec.suite.sha256[:12] for look in looks.values() if look.spec and look.spec.suite}
    suites = [name for name in names(root, SUITES) if _SUITE.fullmatch(name)]
    unused = [name for name in suites if name.removesuffix(".json") not in used]
    if unread and unused:
        found.kept.append(f"suites: {len(unused)} that only a run whose spec cannot be read may need")
        return
    for name in unused:
        if is_file(root, f"{SUITES}/{name}"):
            add(root / SUITES / name, "the prompts of a suite that no run here is of")


def _add_launches(root: Path, looks: Looks, busy: Collection[Path], found: Found, add: Add) -> None:
    for name in names(root, "slurm"):
        folder = root / "slurm" / name
        if not is_folder(folder) or not is_file(folder, "launch.json"):
            continue
        runs = _runs_of(read_json(folder / "launch.json"))
        if runs is None:
            found.kept.append(f"slurm/{name}: its launch.json cannot be read")
        elif folder.resolve() not in busy and not runs & looks.keys():
            add(folder, "a Slurm launch of runs that are not here")


def _runs_of(launch: Any) -> set[str] | None:
    """The runs that a launch names; None where it is no launch."""
    try:
        runs = {run for array in launch["arrays"] for task in array["tasks"] for run in task}
    except (KeyError, TypeError):
        return None
    return runs if all(isinstance(run, str) for run in runs) else None


def discard(
    root: Path, waste: Collection[Waste], busy: Collection[Path] = ()
) -> tuple[list[Waste], Path | None]:
    """Move what is still waste into a dated folder of RUNS/trash; what was moved, and that folder.

    Raises UserError where there is no place for it; what was moved before stays there.
    """
    root = root.resolve()
    still = {each.path for each in find_waste(root, busy).waste}
    moving = [each for each in waste if each.path in still]
    return moving, _to_trash(root, [each.path for each in moving]) if moving else None


def put_aside(root: Path, runs: Collection[str]) -> Path:
    """Move run folders, which nobody may hold, into a dated folder of RUNS/trash, and return that.

    Raises UserError where one is held, or where there is no place for it.
    """
    root = root.resolve()
    for run in runs:
        if holder(root / run):
            raise UserError(f"{run} is being advanced; `harness cancel` takes it out")
    return _to_trash(root, [root / run for run in runs])


def _to_trash(root: Path, paths: Collection[Path]) -> Path:
    trash = root / TRASH
    with disk_errors(trash):
        trash.mkdir(exist_ok=os.path.lexists(trash))
    if not is_folder(trash):
        raise UserError(f"{trash} is no folder, so there is no place for what is removed")
    target = trash / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    for path in paths:
        name = path.relative_to(root)
        place = target / name
        with disk_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                _move(root, name, place)
            except OSError as error:
                raise UserError(f"{path} cannot be moved to {target}: {error.strerror}") from None
    return target


def trashed(root: Path) -> list[Waste]:
    """The dated folders in RUNS/trash."""
    root = root.resolve()
    if not is_folder(root / TRASH):
        return []
    paths = [root / TRASH / name for name in names(root, TRASH) if _DATED.fullmatch(name)]
    return [Waste(path, _moved(path), _measured(path)[0]) for path in paths if is_folder(path)]


def _moved(path: Path) -> str:
    """When a dated folder of the trash was made, and what lies in it."""
    inside, at = sorted(names(path)), path.name
    more = f" and {len(inside) - 1} more" if len(inside) > 1 else ""
    when = f"{at[:4]}-{at[4:6]}-{at[6:8]} {at[9:11]}:{at[11:13]}"
    return f"moved there on {when}: {inside[0]}{more}" if inside else f"made on {when}, and empty"


def purge(trash: Collection[Waste]) -> None:
    """Delete what `trashed` found; no link is followed."""
    for each in trash:
        with disk_errors(each.path):
            shutil.rmtree(each.path)


def _move(root: Path, name: Path, place: Path) -> None:
    """Rename by way of folders that are no links, whatever has become of the path since it was found."""
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in name.parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        os.rename(name.name, place, src_dir_fd=at)
    finally:
        os.close(at)


def _holds_only(path: Path, allowed: Collection[str]) -> bool:
    """Whether a folder has nothing but regular files of these names, and half-written ones."""
    return all(is_file(path, name) and (name in allowed or is_aside(name)) for name in names(path))


def _measured(path: Path) -> tuple[int, float]:
    """Bytes in a file, or of all files below a folder, and when any of it last changed; follows no link."""
    about = os.lstat(path)
    size, changed = (0 if stat.S_ISDIR(about.st_mode) else about.st_size), about.st_mtime
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            inner = os.lstat(os.path.join(folder, name))
            size += inner.st_size if stat.S_ISREG(inner.st_mode) else 0
            changed = max(changed, inner.st_mtime)
    return size, changed
