"""What stands below all tables."""

from __future__ import annotations

from eval.metrics.r_precision import RPrecision
from eval.runs import Runs
from eval.tables.differences import power


def all_notes(runs: Runs) -> list[str]:
    """What a reader of the tables must know of the runs: what is left out, what counts as a miss and why."""
    frame = runs.of(RPrecision).scores  # its notes are made with it
    reasons = {
        (row.prompt, row.seed, row.method, row.total): row.problem
        for row in frame.loc[frame["problem"].notna()].itertuples()
    }
    misses = [
        f"counted as a miss: {method}, '{prompt}', seed {seed}: {reason}"
        for (prompt, seed, method, _), reason in sorted(reasons.items())
    ]
    covered: dict[tuple[str, int], set[tuple[str, int]]] = {}
    for run in runs:
        covered.setdefault((runs.labels[run.run_id], run.total), set()).add((run.prompt, run.seed))
    unpaired = len({frozenset(pairs) for pairs in covered.values()}) > 1
    balance = ["the methods do not cover the same prompts and seeds, so their rows are not paired"]
    return [*dict.fromkeys(runs.notes), *misses, *(balance if unpaired else []), *power(runs)]
