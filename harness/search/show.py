"""A search as tables and a figure: what was tried, the winner, and what is left of it on other prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from eval.figures.looks import looks
from eval.figures.style import PAGE, Sheet, chart, few_ticks, handle, legend, style
from eval.figures.write import image_bytes
from eval.statistics.intervals import bootstrap_mean, paired_difference, share_mean
from eval.tables.rows import rng
from eval.tables.table import Cell, Table, console_for_tables, number, percent, tell
from harness.distill.method import NoiseSchedule, load_method
from harness.distill.schedules import sd_alphas_cumprod
from harness.records.files import make_folder, write_bytes
from harness.search.axes import settings
from harness.search.definition import BASELINE, FOUND, Size
from harness.search.journal import TRAIN, Candidate, Journal, Scores, Winner, by_prompt, mean
from harness.sweep.grid import choose_methods

T_MIN, T_MAX = 20, 980
Parts = dict[str, Scores]  # by train, validation, and the tests' names


def write_all(folder: Path, name: str, sized: Size, journal: Journal, winner: Winner) -> None:
    """Tables (md, csv, tex) and the figure (pdf, png, json) into a folder; the tables printed, too."""
    assert journal.stamp is not None  # what was scored is stamped
    make_folder(folder)
    tell(tables(name, sized, journal, winner), journal.stamp, console_for_tables(), folder)
    with style():
        sheet = figure(name, sized, journal, winner).arranged()
        images = image_bytes(sheet)
    about = {
        "figure": "search", "search": name, "definition": journal.of,
        "winner": winner.model_dump(mode="json"), "caption": sheet.caption,
    }  # fmt: skip
    text = json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    for suffix, data in (images | {"json": text.encode()}).items():
        write_bytes(folder / f"search.{suffix}", data)
        print(folder / f"search.{suffix}")


def won(sized: Size, journal: Journal, winner: Winner) -> Candidate:
    """The candidate that the winner was."""
    return next(each for each in journal.candidates if settings(sized.axes, each.point) == winner.settings)


def _rows(sized: Size, journal: Journal, winner: Winner) -> Iterator[tuple[str, Parts]]:
    """The winner and the references with their scores by part, tests by their names."""
    names = [test.name for test in sized.tests if test.name in journal.tests]
    for label, parts in ((FOUND, won(sized, journal, winner).scores), *journal.references.items()):
        yield label, dict(parts) | {name: journal.tests[name].get(label, ()) for name in names}


def tables(name: str, sized: Size, journal: Journal, winner: Winner) -> list[Table]:
    """What the winner and the references are worth on the prompts of the search, of the choice and of the
    tests; by how much that is more than the baseline; and how far the winner leads each. Selection shows as
    what is lost from left to right."""
    rows = list(_rows(sized, journal, winner))
    parts = list(dict.fromkeys(part for _, own in rows for part in own))
    base, won = dict(rows)[BASELINE], dict(rows)[FOUND]

    def worth(scores: Scores) -> Cell:
        if not scores:
            return "–"
        if sized.iou:
            return number(bootstrap_mean(by_prompt(scores), rng()), 3)
        return percent(share_mean(by_prompt(scores)))

    def less(scores: Scores, than: Scores) -> Cell:
        if not scores or not than:
            return "–"
        found = paired_difference(by_prompt(scores), by_prompt(than), rng(), shares=not sized.iou)
        return number(found, 3, sign=True) if sized.iou else percent(found, sign=True)

    measure = f"mean R-Precision ({sized.score.replace('_', ' ')}) over a run's steps"
    measure += f" + {sized.iou:g} × last aligned IoU" if sized.iou else ", %"
    heads = ["method", *(f"{part} ({len({s.prompt for s in base[part]})} prompts)" for part in parts)]

    def table(kind: str, title: str, columns: list[str], lines: list[list[Cell]], *notes: str) -> Table:
        return Table(kind, ["r_precision"], f"Search {name}: {title}", columns, lines, list(notes))

    elsewhere = [
        f"{test.name}: {item}"
        for test in sized.tests
        for item in test.set
        if item.startswith("guidance.prior=")
    ]
    found = [
        table(
            "search", measure, heads,
            [[label, *(worth(own.get(part, ())) for part in parts)] for label, own in rows],
            f"{FOUND}: {' '.join(winner.settings)}; of {winner.candidates} candidates on train, chosen on "
            f"validation, fixed as {winner.sha256[:12]} before any test.",
            *elsewhere,
        ),
        table(
            "search_gain", f"difference to {BASELINE} of {measure}", heads,
            [[label, *(less(own.get(part, ()), base.get(part, ())) for part in parts)]
             for label, own in rows if label != BASELINE],
        ),
        table(
            "search_lead", f"{FOUND} less each, of {measure}", ["less", *heads[1:]],
            [[label, *(less(won.get(part, ()), own.get(part, ())) for part in parts)]
             for label, own in rows if label != FOUND],
        ),
    ]  # fmt: skip
    carried: list[list[Cell]] = [
        [test, label, other, less(of, than), len(by_prompt(of))]
        for test, scores in journal.tests.items()
        for label, of in scores.items()
        if label.endswith(f"@{FOUND}")
        for other, than in scores.items()
        if other != label and other.partition("@")[0] == label.partition("@")[0]
    ]
    if carried:
        heads = ["test", "method", "less", "difference", "prompts"]
        found.append(table("search_carried", f"{FOUND} in other distillations: {measure}", heads, carried))
    return found


def figure(name: str, sized: Size, journal: Journal, winner: Winner) -> Sheet:
    """Every candidate in the order of the search with the best so far; and t over the run, of the winner and
    of the references, with Stable Diffusion's noise schedule."""
    tried = journal.scored(TRAIN)
    worth_C = np.array([100 * mean(each.scores[TRAIN]) for each in tried])
    known = [label for label in journal.references if label != FOUND]
    look = looks([*known, FOUND])
    assert journal.stamp is not None
    prompts = len({score.prompt for score in tried[0].scores[TRAIN]})
    caption = (
        f"Search {name}, {len(tried)} candidates on {prompts} prompts; found: {' '.join(winner.settings)}. "
        f"t in [{T_MIN}, {T_MAX}], N = {sized.steps}; dots: drawn at random. {journal.stamp.words}"
    )
    sheet = chart(PAGE, 2.9, caption=caption, mark=journal.stamp.mark)
    left, right = sheet.subplots(1, 2)
    order = np.arange(1, len(tried) + 1)
    left.plot(order, worth_C, ".", color="0.6")
    left.plot(order, np.maximum.accumulate(worth_C), color=look[FOUND].colour, drawstyle="steps-post")
    for label in known:
        level = 100 * mean(journal.references[label][TRAIN])
        left.axhline(level, color=look[label].colour, linestyle=look[label].line, linewidth=1.0)
    left.set(title="search", xlabel="candidate", ylabel="worth on train, %")
    for label in (*known, FOUND):
        t_N, is_random = _timesteps(sized, label, winner)
        progress = np.arange(1, len(t_N) + 1) / len(t_N)
        shown = (
            {"linestyle": "", "marker": ".", "markersize": 2.0}
            if is_random
            else {"linestyle": look[label].line}
        )
        right.plot(progress, t_N, color=look[label].colour, alpha=0.5 if is_random else 1.0, **shown)
    right.set(title="timestep", xlabel="progress i/N", ylabel="t(i)", xlim=(0, 1), ylim=(0, 1000))
    for axes in (left, right):
        few_ticks(axes)
    legend(sheet, [handle(label, look[label], marker="") for label in (*known, FOUND)])
    return sheet


def _timesteps(sized: Size, label: str, winner: Winner) -> tuple[np.ndarray, bool]:
    """t of every step of one run, and whether it is drawn at random."""
    found = label == FOUND
    changes = [item for item in winner.settings if item.partition(".")[0] in sized.method] if found else []
    (part,) = choose_methods(sized.method if found else label, changes)
    method_class = load_method(part.name)
    noise = NoiseSchedule(torch.from_numpy(sd_alphas_cumprod()).float(), T_MIN, T_MAX)
    method = method_class(method_class.resolve(part.params, part.name), noise)
    step_N = torch.arange(1, sized.steps + 1)
    draws = torch.rand(2, sized.steps, generator=torch.Generator().manual_seed(0))
    one, other = (
        method.timesteps(step_N, torch.full_like(step_N, sized.steps), row).numpy() for row in draws
    )
    return one, bool((one != other).any())
