"""`harness study new`: run folders → the folder of a preference study."""

from __future__ import annotations

import itertools
import math
import os
import random
import shutil
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from pydantic import ValidationError

from eval.preference.design import VERSION, Design, Exclusion, Pair, Question, Side, check_size
from eval.preference.media import Two, write_media
from eval.preference.store import DATABASE, Store
from eval.sources.load import RunRecord, load_runs, method_labels
from harness.config import UserError, nearest
from harness.records.files import disk_errors, write_json

QUESTIONS = {
    "alignment": "Which object fits the text better?",
    "shape": "Which object has the better shape?",
    "texture": "Which object has the better surface and colours?",
    "overall": "Which object do you prefer overall?",
}
SHARE_HIDDEN = 0.1  # of the pairs that a rater sees: as many hidden ties, and as many repeats, by default
CONSENT = """\
This is a research study about programs that make three-dimensional objects from a line of text. You will
see a text and two objects, and say which of the two you prefer, or that you cannot tell.

Stored are your choices, the time you take for each, and when you began and ended. Neither your name, nor
your address, nor anything else about you is stored.

Taking part is voluntary. You may pause and come back by the same link, and you may stop at any time by
closing the page; what you have answered until then is kept.

Questions go to the person who sent you the link."""


def parse_questions(items: Sequence[str]) -> list[Question]:
    """`ID=TEXT` each, or the ID of a default question; all defaults for none. Raises UserError."""
    found = []
    for item in items or QUESTIONS:
        name, equals, text = item.partition("=")
        if not equals and name not in QUESTIONS:
            raise UserError(
                f"--question {item}: write ID=TEXT, or the id of a default{nearest(name, QUESTIONS)}"
            )
        try:
            found.append(Question(id=name, text=text.strip() if equals else QUESTIONS[name]))
        except ValidationError:
            raise UserError(
                f"--question {item}: ID is lower-case letters, digits, _; TEXT is not empty"
            ) from None
    ids = [question.id for question in found]
    if len(set(ids)) < len(ids):
        raise UserError(f"--question: each id once, not {', '.join(ids)}")
    return found


def new_study(
    runs: Path,
    methods: Sequence[str],
    out: Path,
    *,
    questions: Sequence[Question],
    only: Collection[str] | None = None,
    title: str = "Comparing objects made from text",
    consent: str = CONSENT,
    prompts: int | None = None,
    repeats: int | None = None,
    ties: int | None = None,
    seed: int = 0,
) -> Design:
    """Pair the done runs of `methods` by prompt and seed, and write the study's folder, or nothing at all.

    Every two methods are compared on every prompt and seed that both have, at the largest number of steps
    that all have; `only` keeps these run ids and `prompts` the first so many of the suite. `repeats` and
    `ties` are a tenth of the pairs by default. Raises UserError for unknown methods, nothing to pair, runs
    that belong to no common table, and an `out` that exists.
    """
    if out.exists():
        raise UserError(f"{out} exists, and a study never changes once it is made: choose another --out")
    paired, done = _paired(runs, methods, only, prompts)
    most = len(paired) // 2
    tenth = min(most, math.ceil(SHARE_HIDDEN * len(paired)))
    repeats, ties = (tenth if n is None else n for n in (repeats, ties))
    check_size(len(paired), repeats, ties)
    hidden = _hidden_ties(paired, ties, random.Random(seed))
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        building = out.with_name(f".{out.name}.{os.getpid()}.tmp")
        building.mkdir()
    try:
        names = write_media(building / "media", [*paired, *hidden])
        pairs = [
            _pair(f"p{index:04d}", *sides, media)
            for index, (sides, media) in enumerate(zip([*paired, *hidden], names, strict=True))
        ]
        first = done[0]
        design = Design(
            version=VERSION,
            title=title,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            methods=list(methods),
            questions=list(questions),
            consent=consent.strip(),
            mark=first.mark,
            prior=f"{first.prior} {first.prior_hash[:12]}".strip(),
            runs=str(runs),
            seed=seed,
            repeats=repeats,
            ties=ties,
            exclusion=Exclusion(),
            pairs=pairs,
        )
        write_json(building / "study.json", design.model_dump(mode="json"))
        Store(building / DATABASE, create=True).close()
        os.rename(building, out)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return design


def _paired(
    root: Path, methods: Sequence[str], only: Collection[str] | None, prompts: int | None
) -> tuple[list[Two], list[RunRecord]]:
    """The real pairs, by the suite's order of prompts, seed and methods; and the runs they are of."""
    from eval.comparable import check_comparable
    from eval.scorers.retrieval import load_pool

    if len(methods) < 2 or len(set(methods)) < len(methods):
        raise UserError(f"a comparison needs two different methods or more, not {', '.join(methods)}")
    records, _ = load_runs(root)
    records = [run for run in records if only is None or run.run_id in only]
    labels = method_labels(records)
    for method in methods:
        if method not in labels.values():
            raise UserError(f"no runs of '{method}' in {root}{nearest(method, set(labels.values()))}")
    done = [run for run in records if run.status == "done" and labels[run.run_id] in methods]
    totals = [{run.total for run in done if labels[run.run_id] == method} for method in methods]
    common = set.intersection(*totals)
    if not common:
        raise UserError(f"no pairs in {root}: {', '.join(methods)} have no done runs of the same steps")
    done = [run for run in done if run.total == max(common)]
    check_comparable(done, "", allow_mixed=False)
    assert done[0].suite is not None  # check_comparable refuses a run without one
    order = {prompt: index for index, prompt in enumerate(load_pool(root, done[0].suite).prompts)}
    found = {(run.prompt, run.seed, labels[run.run_id]): run for run in done}
    places = sorted({(run.prompt, run.seed) for run in done}, key=lambda p: (order.get(p[0], len(order)), p))
    paired = [
        (found[*place, a], a, found[*place, b], b)
        for place in places
        for a, b in itertools.combinations(methods, 2)
        if (*place, a) in found and (*place, b) in found
    ]
    if prompts is not None:
        kept = set(list(dict.fromkeys(one.prompt for one, *_ in paired))[:prompts])
        paired = [two for two in paired if two[0].prompt in kept]
    if not paired:
        raise UserError(f"no pairs in {root}: no prompt and seed is done by two of {', '.join(methods)}")
    return paired, done


def _hidden_ties(paired: Sequence[Two], ties: int, chance: random.Random) -> list[Two]:
    """Runs to be shown against themselves, of all methods alike, no run twice."""
    by_method: dict[str, list[Two]] = {}
    for one, a, other, b in paired:
        by_method.setdefault(a, []).append((one, a, one, a))
        by_method.setdefault(b, []).append((other, b, other, b))
    queues = []
    for method in sorted(by_method):
        own = list({two[0].run_id: two for two in by_method[method]}.values())
        chance.shuffle(own)
        queues.append(own)
    chance.shuffle(queues)
    in_turn = [two for row in itertools.zip_longest(*queues) for two in row if two]
    return in_turn[:ties]


def _pair(name: str, one: RunRecord, a: str, other: RunRecord, b: str, media: tuple[str, str]) -> Pair:
    return Pair(
        pair=name,
        kind="tie" if one.run_id == other.run_id else "real",
        prompt=one.prompt,
        seed=one.seed,
        a=Side(method=a, run=one.run_id),
        b=Side(method=b, run=other.run_id),
        media={"a": media[0], "b": media[1]},
    )
