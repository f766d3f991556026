"""What there is to know of methods before they are used: settings, presets, cost, and their own pages."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.distill.method import Method, discover, load_method
from harness.records.identity import COMPOSED
from harness.text import short

PAGE = """# Methods

One folder of `methods/` each, with its equations, source and what differs from its authors' code. This page
is made of them (`harness methods --page`); `harness methods NAME` shows one with its settings. Any of them
can be driven by the timesteps of any other: `csd@tp_sds:iclr`. NFE: evaluations of the denoiser per run and
step.

| method | what it is | NFE | presets | recommended beside |
|---|---|---:|---|---|
"""


def about(name: str, dirs: Sequence[Path] = ()) -> str:
    """A method's page, with its settings and their defaults, presets, NFE and recommended settings; those of
    both halves of `a@b`.

    Raises UserError for an unknown method and for one that cannot be imported.
    """
    load_method(name, dirs)
    return "\n".join(_about(half, dirs) for half in name.split(COMPOSED))


def _about(name: str, dirs: Sequence[Path]) -> str:
    method, folder = load_method(name, dirs), discover(dirs)[name]
    readme = folder.path / "README.md"
    told = readme.read_text(encoding="utf-8").strip() if readme.is_file() else f"# {name}\n\n{folder.summary}"
    return "\n".join([told, "", *_lines(name, method), ""])


def _lines(name: str, method: type[Method]) -> Iterator[str]:
    defaults = method.resolve({}, name).model_dump(mode="json")
    yield f"NFE: {nfe(method)}"
    if defaults:
        yield f"settings (--set {name}.KEY=VALUE): {_settings(defaults)}"
    for preset, changes in method.presets.items():
        yield f"{name}:{preset}  {_settings(changes) or 'the defaults'}"
    if method.recommended:
        yield f"recommended: {_settings(method.recommended)}"


def nfe(method: type[Method]) -> str:
    """Evaluations of a step, "2", or from the least to the most, "4–9"."""
    return "–".join(f"{value:g}" for value in dict.fromkeys(method.nfe_range()))


def page(dirs: Sequence[Path] = ()) -> str:
    """docs/methods.md: a row for each method."""
    rows = []
    for name, folder in sorted(discover(dirs).items()):
        method = load_method(name, dirs)
        presets = ", ".join(f"`{preset}`" for preset in method.presets)
        beside = f"`{short(_settings(method.recommended), 120)}`" if method.recommended else ""
        summary = folder.summary.partition(": ")[2] or folder.summary
        rows.append(
            f"| [{name}](../methods/{name}/README.md) | {summary} | {nfe(method)} | {presets} | {beside} |"
        )
    return PAGE + "\n".join(rows) + "\n"


def _settings(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={_value(value)}" for key, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_value, value))
    return shlex.quote(value) if isinstance(value, str) else json.dumps(value)
