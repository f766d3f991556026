"""R-Precision by domain of the prompts: which things a method makes, and which it does not."""

from __future__ import annotations

import re

from eval.metrics.r_precision import RPrecision
from eval.runs import Runs
from eval.statistics.intervals import Difference, holm
from eval.tables.rows import difference, distinct, gap_of, groups, left_out, p_of, share_of
from eval.tables.table import Cell, Table
from harness.config import UserError
from harness.prompt import normalised

NOUNS = {
    "vehicles": "car, truck, bus, train, airplane, boat, bicycle, motorcycle, plane, ship, van, tram",
    "furniture": "chair, bench, couch, table, bed, sofa, desk, stool, armchair, shelf, wardrobe",
    "screens": "tv, laptop, phone, monitor, keyboard",
    "kitchen": "cup, bottle, vase, wine glass, bowl, plate, mug, teapot, pan, kettle, knife, fork, spoon",
    "food": "apple, orange, banana, carrot, donut, pizza, cake, sandwich, burger, broccoli, hot dog",
    "street": "traffic light, fire hydrant, stop sign, traffic cone, parking meter",
    "animals": "dog, cat, bird, sheep, elephant, giraffe, horse, cow, bear, zebra, lion, tiger, rabbit, fox, "
    "owl, squirrel, corgi, frog, pig, penguin",
    "toys and things": "teddy bear, sports ball, frisbee, snowman, clock, suitcase, umbrella, potted plant, "
    "kite, book, backpack, handbag",
}
TWO, OTHER = "one on another", "other"
_DOMAINS = {noun: domain for domain, nouns in NOUNS.items() for noun in nouns.split(", ")}


def domain(prompt: str) -> str:
    """The domain of what a prompt is of: the noun before its first "with", "on" or comma; "one on another"
    for a known thing on another, and "other" where the noun is not known."""
    head, *rest = re.split(r"\b(?:with|on)\b|,", normalised(prompt))
    noun = _noun(head)
    if noun is None:
        return OTHER
    return TWO if re.search(r"\bon (?:a|an)\b", normalised(prompt)) and _noun(rest[-1]) else _DOMAINS[noun]


def _noun(text: str) -> str | None:
    """The longest known noun that a text ends in."""
    words = text.split()
    return next(
        (noun for n in (2, 1) if (noun := " ".join(words[-n:])) in _DOMAINS and len(words) >= n), None
    )


def table(runs: Runs) -> Table:
    """A row per domain, method and N, with its paired difference to the baseline in that domain."""
    final = runs.of(RPrecision).frame
    final = final.assign(domain=[domain(prompt) for prompt in final["prompt"]])
    names = [name for name in (*NOUNS, TWO, OTHER) if name in set(final["domain"])]
    if len(names) < 2:
        raise UserError(f"all prompts are of one domain: {', '.join(names)}")
    rows, found = [], dict[tuple[str, str, int], Difference]()
    for name in names:
        part = final.loc[final["domain"] == name]
        for method, total, own in groups(runs, part):
            base = part.loc[(part["method"] == runs.base(method)) & (part["total"] == total)]
            key = (name, method, total)
            if method != runs.base(method) and (gap := difference(own, base, "majority", shares=True)):
                found[key] = gap
            rows.append((key, own))
    adjusted = holm({key: gap.p_value for key, gap in found.items()})
    cells: list[list[Cell]] = []
    for key, own in rows:
        shares = [share_of(own, column) for column in ("majority", "per_view")]
        gap = [gap_of(found.get(key)), p_of(adjusted, key)]
        cells.append([*key, *shares, *gap, distinct(own, "prompt"), distinct(own, "seed")])
    return Table(
        "domains",
        ["r_precision"],
        "R-Precision by domain at the final step, % [95 % interval over prompts]",
        ["domain", "method", "step", "majority", "per view", "difference", "p (Holm)", "prompts", "seeds"],
        cells,
        [
            "Domain: by the noun of the prompt; the pool is the whole suite in every row. Difference: of "
            f"majority to the baseline in the same domain, points; Holm over all {len(found)} of them.",
            *left_out({f"{method} ({name})": gap.n_dropped for (name, method, _), gap in found.items()}),
        ],
    )
