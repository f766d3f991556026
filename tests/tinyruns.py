"""Runs of a few steps on the tiny prior."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.config import Config, Execution
from harness.distill.events import Stepped, Told
from harness.distill.runner import advance
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.sweep.grid import choose_methods

STEPS = 7
LATENT = 8  # of a tiny prior: latents 4×8×8, images 32×32


def config(prior: Path, **changes: Any) -> Config:
    """A small scene on the tiny prior, three evaluation points."""
    return Config.model_validate(
        {
            "guidance": {"prior": str(prior), "dtype": "float32", "microbatch": 4},
            "scene": {
                "resolution": LATENT,
                "samples": 8,
                "levels": 4,
                "log2_hashmap": 8,
                "hidden": 8,
            },
            "views": {"count": 3, "azimuths": 2},
            "steps": STEPS,
        }
        | changes
    )


def execution(**changes: Any) -> Execution:
    """One thread, no mirror, a checkpoint every third step."""
    defaults: dict[str, Any] = {"wandb": "disabled", "checkpoint_every": 3, "log_every": 2, "device": "cpu"}
    return Execution(**(defaults | changes))


def create(
    root: Path,
    prior: Path,
    method: str = "tp_sds",
    runs: int = 3,
    methods_dirs: Sequence[Path] = (),
    **changes: Any,
) -> list[str]:
    """Run folders of one method (`name`, `name:preset`, `a@b`), prompts and seeds of their own; their ids."""
    (chosen,) = choose_methods(method, [], methods_dirs)
    resolved = config(prior, **changes)
    specs = [
        RunSpec(
            method=chosen.name,
            params=chosen.params,
            params_set=chosen.params_set,
            variant=chosen.variant,
            prompt=f"a {colour} mug",
            seed=seed,
            config=resolved,
        )
        for seed, colour in zip(range(runs), ("red", "green", "blue", "white", "black"), strict=False)
    ]
    return [RunFolder.create(root, spec).id for spec in specs]


def run(root: Path, ids: Sequence[str], **changes: Any) -> list[Told]:
    """Advance the runs to their ends; the events."""
    events: list[Told] = []
    advance(root, ids, execution(**changes), events.append)
    return events


def stop_after(steps: int) -> tuple[Callable[[Told], None], Callable[[], bool]]:
    """`emit` and `should_stop` that end a pack after so many of its steps."""
    seen = []

    def emit(event: Told) -> None:
        if isinstance(event, Stepped):
            seen.append(event)

    return emit, lambda: len(seen) >= steps
