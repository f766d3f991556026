"""The command that makes a run again, from its spec alone."""

from __future__ import annotations

import json
import shlex
from typing import Any

from harness.config import Config, dotted, parse_value
from harness.presets import DEFAULT, names, preset
from harness.records.identity import COMPOSED, OWN, RunSpec


def sweep_command(spec: RunSpec, suite: str, position: int | None) -> str:
    """A line for the shell that asks for `spec`, and for as little else as a sweep can.

    `suite` is the path of its prompts, `position` the prompt's place in them, from 1; None where it has none.
    """
    methods, changes = [], []
    for half, (name, params, params_set, label) in enumerate(spec.parts):
        variant = [part for part in label.split(",") if part]
        if spec.own and half == 0 and variant[-1:] == [OWN]:
            variant.pop()
        chosen = variant[0] if variant and "=" not in variant[0] else ""
        # A preset's own values come with its name; the others in full, not as a label rounds them.
        changed = [part.partition("=")[0] for part in variant if "=" in part] if variant else params_set
        methods.append(f"{name}:{chosen}" if chosen else name)
        if len(spec.parts) == 1:
            changes += [f"{name}.{key}={_text(params[key])}" for key in changed]
        else:  # both halves may be of one name
            methods[-1] += "".join(f":{key}={_text(params[key])}" for key in changed)
    words = ["harness", "sweep", suite]
    words += ["--limit", str(position)] if position else []
    words += ["--methods", COMPOSED.join(methods), "--seeds", str(spec.seed)]
    words += ["--steps", str(spec.config.steps), "--preset", _base(spec.config)]
    words += ["--recommended"] if spec.own else []
    ours, items = dotted(spec.config), config_changes(spec.config)
    set_by_hand = [item for item in items if item.partition("=")[0] not in spec.own]
    # What was set by hand to the preset's own value: the method's would take its place.
    held = [f"{key}={_text(ours[key])}" for key in spec.own_kept]
    for item in (*changes, *set_by_hand, *(item for item in held if item not in set_by_hand)):
        words += ["--set", item]
    return shlex.join(words)


def _base(config: Config) -> str:
    """The preset to set out from: its own, unless that was a file of somebody's."""
    return config.preset if config.preset in names() else DEFAULT


def config_changes(config: Config) -> list[str]:
    """What of `config` differs from its preset, less the number of steps, as items of `--set`."""
    ours, theirs = dotted(config), dotted(preset(_base(config)))
    return [
        f"{key}={_text(value)}"
        for key, value in ours.items()
        if value != theirs.get(key) and key not in ("preset", "steps")
    ]


def _text(value: Any) -> str:
    """A value as `--set` reads it back: bare words where that is safe."""
    if isinstance(value, str) and value.strip() == value and parse_value(value, str | None) == value:
        return value
    return json.dumps(value, ensure_ascii=False)
