"""All tables there are: those of metrics, and those of their own kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from eval.metric import Metric
from eval.runs import Runs
from eval.tables import ceilings, changes, claims, controls, convergence, cost, differences, domains, own_n
from eval.tables.names import in_order, must_be_known
from eval.tables.of_metrics import table_of, tables_of
from eval.tables.table import Table
from harness.config import UserError
from harness.console import busy
from harness.records.identity import COMPOSED

OWN: dict[str, Callable[[Runs], Table]] = {
    "controls": controls.table,
    "ceilings": ceilings.table,
    "r_precision_steps": convergence.r_precision_steps,
    "differences": differences.table,
    "contrasts": differences.contrasts,
    "schedules": differences.by_distillation,
    "changes": changes.table,
    "convergence": convergence.table,
    "own_n": own_n.table,
    "domains": domains.table,
    "cost": cost.table,
    "claims": claims.table,
    "published": claims.published,
}
RARE = {"ceilings", "changes", "contrasts", "controls", "domains"}  # most sweeps have no such question


def table_names(kinds: Mapping[str, type[Metric]]) -> list[str]:
    """Every table by name, in the order in which they are shown."""
    return in_order(tables_of(kinds))


def make_tables(runs: Runs, names: Sequence[str] = ()) -> tuple[list[Table], list[str]]:
    """The tables asked for, a metric's by its name, too; or all that these runs allow but those on request,
    and a line for each that they do not.

    Raises UserError for an unknown name, and for a table that was asked for and cannot be made.
    """
    with busy("loading metrics"):
        known, of_metrics = table_names(runs.metrics), tables_of(runs.metrics)
    guests = {name: kind.table for name, kind in runs.metrics.items() if kind.table}
    must_be_known(names, [*known, *guests])
    made, left_out = [], []
    composed = any(COMPOSED in method for method in runs.methods)
    rare = RARE if composed else {*RARE, "schedules"}
    every = [name for name in known if name not in rare]
    every = [name for name in every if not all(kind.on_request for kind in of_metrics.get(name, [Metric]))]
    for name in dict.fromkeys(guests.get(name, name) for name in names or every):
        try:
            with busy(f"table {name}"):
                if name in OWN:
                    made.append(OWN[name](runs))
                else:
                    made.append(table_of(runs, name, [runs.of(kind) for kind in of_metrics[name]]))
        except UserError as error:
            if names:
                raise
            left_out.append(f"no table {name}: {error}")
    return made, left_out
