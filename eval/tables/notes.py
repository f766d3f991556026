"""What stands below all tables."""

from __future__ import annotations

from eval.metrics.r_precision import RPrecision
from eval.runs import Runs
from eval.tables import controls
from eval.tables.differences import decidable

SMALL_POOL = 30  # captions; the field's has 153


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
    return [
        *controls.told(runs),
        *dict.fromkeys(runs.notes),
        *_small_pools(runs),
        *misses,
        *(balance if unpaired else []),
        *decidable(runs),
    ]


def _small_pools(runs: Runs) -> list[str]:
    """What R-Precision over few captions is worth."""
    return [
        f"a pool of {len(pool.prompts)} captions, {pool.name}: chance alone retrieves "
        f"{100 / len(pool.prompts):.0f} %, and a colour or a rough shape tells so few apart, textureless "
        "renders among them. Such an R-Precision shows that things work, not how well a method does: take a "
        "suite of a hundred and more, of which few may be run (--spread)"
        for pool in runs.pools.values()
        if len(pool.prompts) < SMALL_POOL
    ]
