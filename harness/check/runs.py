"""What runs keep, whatever they are of, and how checks are told."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from harness.config import Config, Execution, named_line
from harness.console import busy, say
from harness.distill.runner import advance
from harness.guidance.random_prior import make_prior
from harness.records.folder import RunFolder
from harness.records.identity import Part, RunSpec
from harness.rng import Key

T = TypeVar("T")
KEYS = [Key("a red mug", 0), Key("a bus", 3)]


class Broken(Exception):
    """What an extension does not keep, in a line."""


def demand(kept: bool | Tensor, told: str) -> None:
    """Broken, with this line, unless it is kept."""
    if not bool(kept):
        raise Broken(told)


def results(trial: T, checks: Mapping[str, Callable[[T], None]]) -> Iterator[tuple[str, str, str | None]]:
    """Every check by its name, what it is of, and what is not kept, None where all is."""
    for name, check in checks.items():
        problem = None
        try:
            with busy(f"trying {name}"):
                check(trial)
        except Exception as error:  # an extension's own may be any
            problem = str(error) if isinstance(error, Broken) else named_line(error)
        yield name, (check.__doc__ or "").strip(), problem


def tell(trial: T, checks: Mapping[str, Callable[[T], None]]) -> bool:
    """Print a line for each check; True where all is kept."""
    broken = 0
    for name, about, problem in results(trial, checks):
        say(f"{'ok' if problem is None else 'BROKEN':<6}  {name}: {problem or about}")
        broken += problem is not None
    return not broken


def unbroken(
    made: Callable[[Path], Sequence[RunFolder]], folder: Path, execution: Execution
) -> list[dict[str, Any]]:
    """What runs come to in a pack; Broken where they come to anything else alone, or stopped and resumed.

    `made` creates the same runs, of some steps more than three, in a folder.
    """
    seen = {how: folder / how for how in ("packed", "solo", "resumed")}
    told: list[Any] = []
    gc.freeze()  # a pack's end looks for garbage: not again and again among all that is imported
    try:
        [ids, *_] = [[each.id for each in made(root)] for root in seen.values()]
        advance(seen["packed"], ids, execution)
        for run in ids:
            advance(seen["solo"], [run], execution)
        advance(seen["resumed"], ids, execution, told.append, lambda: len(told) >= 6)
        stopped = {RunFolder(seen["resumed"] / run).status() for run in ids}
        demand(stopped == {"resume"}, f"stopped runs are {', '.join(stopped)}")
        advance(seen["resumed"], ids[::-1], execution)
    finally:
        gc.unfreeze()
    expected = [finished(seen["packed"] / run) for run in ids]
    for how in ("solo", "resumed"):
        for run, own in zip(ids, expected, strict=True):
            for name, value in finished(seen[how] / run).items():
                demand(value == own[name], f"{name} of a {how} run are not those of a packed one")
    return expected


def tiny_prior(folder: Path) -> Path:
    """The folder's prior with random weights, latents 4×8×8; made where there is none."""
    path = folder / "tiny-prior"
    if not path.exists():
        make_prior(path, "sd14", size="tiny", dtype="float32")
    return path


def made(root: Path, config: Config, method: Part, keys: Sequence[Key]) -> list[RunFolder]:
    """New runs of a method, one of each key."""
    own = {"method": method.name, "params": method.params, "params_set": method.params_set}
    return [
        RunFolder.create(
            root, RunSpec(**own, variant=method.variant, prompt=key.prompt, seed=key.seed, config=config)
        )
        for key in keys
    ]


def finished(path: Path) -> dict[str, Any]:
    """`content` of a run that has ended well and logged finite numbers; Broken for any other."""
    folder = RunFolder(path)
    demand(folder.status() == "done", f"a run is {folder.status()}: {(folder.failure() or {}).get('reason')}")
    found = content(folder)
    for row in found["rows"]:  # what is not finite is stored as null
        demand(None not in row.values(), f"a logged value of step {row['step']} is not finite")
    return found


def content(folder: RunFolder) -> dict[str, Any]:
    """What of a run may not depend on how it was advanced: all but times, memory and the log."""
    rows = [{key: value for key, value in row.items() if key != "time"} for row in folder.metrics()]
    checkpoint = folder.load_checkpoint()
    result = {k: v for k, v in (folder.result() or {}).items() if k not in ("time", "peak_memory_mb")}
    return {
        "status": folder.status(),
        "rows": rows,
        "views": {step: folder.views_path(step).read_bytes() for step in folder.view_steps()},
        "parameters": checkpoint and {name: value.numpy().tobytes() for name, value in checkpoint[0].items()},
        "checkpoint step": checkpoint and checkpoint[1],
        "result": result,
    }
