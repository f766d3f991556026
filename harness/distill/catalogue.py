"""What there is to know of methods before they are used: settings, presets, cost, and their own pages."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config import UserError
from harness.distill.method import Method, discover, load_method
from harness.records.files import read_text
from harness.records.identity import COMPOSED, OWN
from harness.text import short

PAGE = """# Methods

One folder of `methods/` each, with its equations, source and what differs from its authors' code. This page
is made of them (`harness methods --page --results docs/results`); `harness methods NAME` shows one whole. Any
of them can be driven by the timesteps of any other: `csd@tp_sds:iclr`. NFE: evaluations of the denoiser per
run and step.

| method | what it is | NFE | presets |
|---|---|---:|---|
"""
MEASURED = {
    "schedules": "a schedule, on SDS",
    "distillations": "a distillation, equal settings, equal evaluations",
    "distillations_own": "its own settings, equal evaluations",
    "distillations_steps": "its own settings, equal steps",
}
FIGURES = """
## In the toy world

R-Precision by majority at the last step, less that of uniform SDS, points [95 % interval, unadjusted], from
the tables that each head links to. What they say and do not say: [results](results/README.md).

"""
RULES = """
## Rules

As each folder's README has them; ε̂ is guided, w(t) is `guidance.weighting`, N the run's own number of steps.
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
    told = read_text(readme).strip() if readme.is_file() else f"# {name}\n\n{folder.summary}"
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


def page(dirs: Sequence[Path] = (), results: Path | None = None) -> str:
    """docs/methods.md: a row for each method, what runs of the toy world in `results` measured, each rule.

    Raises UserError where `results` holds none of their tables.
    """
    rows, rules = [], []
    for name, folder in sorted(discover(dirs).items()):
        method = load_method(name, dirs)
        presets = ", ".join(f"`{preset}`" for preset in method.presets)
        summary = folder.summary.partition(": ")[2] or folder.summary
        rows.append(f"| [{name}](../methods/{name}/README.md) | {summary} | {nfe(method)} | {presets} |")
        rules.append("\n".join(["", f"### {name}", "", *_rule(name, folder.path, method), ""]))
    return PAGE + "\n".join(rows) + "\n" + (_figures(results) if results else "") + RULES + "".join(rules)


def _rule(name: str, folder: Path, method: type[Method]) -> Iterator[str]:
    readme = folder / "README.md"
    told = read_text(readme) if readme.is_file() else ""
    for point in ("Timestep", "Gradient at x"):
        found = re.search(rf"^- \*\*{point}\*\*.*?(?=^- |^$|\Z)", told, re.MULTILINE | re.DOTALL)
        yield found[0].rstrip() if found else f"- **{point}**: see its README."
    if defaults := method.resolve({}, name).model_dump(mode="json"):
        yield f"- Settings: `{short(_settings(defaults), 240)}`"
    for preset, changes in method.presets.items():
        yield f"- `{name}:{preset}`: `{short(_settings(changes), 240) or 'the defaults'}`"
    if method.recommended:
        yield f"- Recommended beside: `{short(_settings(method.recommended), 240)}`"


def _figures(results: Path) -> str:
    """A row per method and preset, a column per experiment that has been run."""
    columns = {
        f"[{head}](results/{name}-toy/tables.md)": _differences(results / f"{name}-toy" / "differences.csv")
        for name, head in MEASURED.items()
        if (results / f"{name}-toy" / "differences.csv").is_file()
    }
    if not columns:
        raise UserError(f"{results}: no tables of {', '.join(f'{name}-toy' for name in MEASURED)}")
    methods = sorted({method for column in columns.values() for method in column})
    rows = [
        " | ".join([f"`{method}`", *(column.get(method, "") for column in columns.values())])
        for method in methods
    ]
    table = [" | ".join(["method", *columns]), "|".join(["---", *("---:" for _ in columns)]), *rows]
    return FIGURES + "\n".join(f"| {row} |" for row in table) + "\n"


def _differences(table: Path) -> dict[str, str]:
    """By method; whether it stands at its own settings is said by the column's head."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    ends = ("difference", "difference low", "difference high")
    return {
        row["method"].removesuffix(f":{OWN}"): "{:+.1f} [{:+.1f}, {:+.1f}]".format(
            *(100 * float(row[end]) for end in ends)
        )
        for row in rows
    }


def _settings(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={_value(value)}" for key, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_value, value))
    return shlex.quote(value) if isinstance(value, str) else json.dumps(value)
