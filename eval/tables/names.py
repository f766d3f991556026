"""The names of tables, known without loading what makes them."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from eval.metrics import SEAM
from harness.config import UserError, nearest

OWN = (
    "controls", "ceilings", "r_precision_steps", "differences", "contrasts", "schedules", "changes",
    "convergence", "own_n", "domains", "cost", "claims", "published",
)  # fmt: skip
FIRST = (
    "controls", "ceilings", "r_precision", "r_precision_steps", "differences", "contrasts", "schedules",
    "changes", "convergence", "own_n", "cost", "diversity", "shapes", "signatures", "spectrum",
)  # fmt: skip
LAST = ("claims", "published")  # other people's words and numbers
BASES = {"Metric", "RunMetric", "PromptMetric", "Preference"}  # classes without a table of their own


def in_order(of_metrics: Iterable[str]) -> list[str]:
    """Every table by name, in the order in which they are shown; `of_metrics`: those of metrics."""
    return [*FIRST, *sorted({*OWN, *of_metrics} - {*FIRST, *LAST}), *LAST]


def by_source(dirs: Sequence[Path] = ()) -> list[str]:
    """Every table by name, as the sources of metrics say it."""
    found = _standing(dirs)
    return in_order(
        table or name
        for name, table in found.items()
        if table is None or table == name or (table and table not in found)
    )


def check_names(names: Sequence[str], dirs: Sequence[Path] = ()) -> None:
    """Raises UserError for a name that no table or metric has; tells nothing where only loading can tell."""
    found = _standing(dirs)
    if None not in found.values():
        must_be_known(names, [*by_source(dirs), *(name for name, table in found.items() if table)])


def must_be_known(names: Sequence[str], known: Collection[str]) -> None:
    """Raises UserError for the first name that is not known, with the nearest one."""
    for name in names:
        if name not in known:
            raise UserError(f"no table '{name}'{nearest(name, known)}")


def _standing(dirs: Sequence[Path]) -> dict[str, str | None]:
    """Metric → the table that it stands in, "" for none, None where its source does not say it."""
    return {name: _table(name, each.source) for name, each in SEAM.discover(dirs).items()}


def _table(name: str, source: Path) -> str | None:
    try:
        tree = ast.parse(source.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return None
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        said = {
            ast.unparse(target): each.value
            for each in node.body
            if isinstance(each, ast.Assign | ast.AnnAssign)
            for target in (each.targets if isinstance(each, ast.Assign) else [each.target])
        }
        if not bases & BASES and not {"columns", "table"} & said.keys():
            continue
        table = said.get("table")
        if isinstance(table, ast.Constant) and isinstance(table.value, str):
            return table.value or name
        if table is not None or not bases <= BASES:
            return None
        return name if "columns" in said else ""
    return None
