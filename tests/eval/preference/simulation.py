"""A preference study whose raters are simulated, through the real store, with a preference that is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.preference.design import Design, Exclusion, Pair, Question, Side
from eval.preference.making import QUESTIONS
from eval.preference.store import Choice, Store
from eval.preference.trials import draw_trials
from harness.records.files import write_json

Chooses = Callable[[Pair, str, np.random.Generator], str]  # (pair, question, rng) → 'a', 'b' or 'tie'
SECONDS = 4.0  # that a simulated rater takes for a trial


def design(
    methods: Sequence[str] = ("tp_sds", "uniform_sds"),
    questions: Sequence[str] = ("alignment", "overall"),
    prompts: int = 12,
    seeds: int = 2,
    ties: int = 3,
    repeats: int = 3,
    **exclusion: float,
) -> Design:
    """A study of every two methods on prompts × seeds; hidden ties are of the first method."""
    places = list(itertools.product(range(prompts), range(seeds)))
    sides = [(place, a, b) for place in places for a, b in itertools.combinations(methods, 2)]
    sides += [(place, methods[0], methods[0]) for place in places[:ties]]
    pairs = [
        Pair(
            pair=f"p{index:04d}",
            kind="tie" if a == b else "real",
            prompt=f"prompt {prompt:02d}",
            seed=seed,
            a=Side(method=a, run=f"{a}-{prompt}-{seed}"),
            b=Side(method=b, run=f"{b}-{prompt}-{seed}"),
            media={"a": f"{index}a.webp", "b": f"{index}b.webp"},
        )
        for index, ((prompt, seed), a, b) in enumerate(sides)
    ]
    return Design(
        version=1,
        title="A simulated study",
        created="2024-01-01T00:00:00Z",
        methods=list(methods),
        questions=[Question(id=name, text=QUESTIONS[name]) for name in questions],
        consent="Agree.",
        mark="toy",
        prior="toy-sd 0123456789ab",
        runs="runs",
        seed=0,
        repeats=repeats,
        ties=ties,
        exclusion=Exclusion(**exclusion),
        pairs=pairs,
    )


class Clock:
    """Stands in for the store's `time`: it moves only when a job of the store moves it."""

    now = 1_700_000_000.0

    def time(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


class Simulated:
    """A study's folder, filled with raters one after the other."""

    def __init__(self, folder: Path, made: Design):
        self.folder, self.design = folder, made
        self.pairs = {pair.pair: pair for pair in made.pairs}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "study.json", made.model_dump(mode="json"))

    def rate(
        self,
        names: Sequence[str],
        chooses: Chooses,
        *,
        always: Choice | None = None,
        wavers: bool = False,
        stops_after: int | None = None,
        seconds: float = SECONDS,
    ) -> None:
        """Raters who answer their trials by `chooses` (or `always` on one side), a repeat as the first
        time, or, where one wavers, otherwise."""
        clock = Clock()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("eval.preference.store.time", clock)
            with Store(self.folder / "study.db", create=True) as store:
                writes = []
                for name in names:
                    seed = int.from_bytes(name.encode()[-6:], "big")
                    rng = np.random.default_rng(seed)
                    trials = draw_trials(self.design, seed, {})
                    writes += [
                        store.add_rater(name, seed, trials, name=f"name of {name}"),
                        store.consent(name),
                    ]
                    before: dict[tuple[str, str], str] = {}
                    for trial in trials[:stops_after]:
                        pair = self.pairs[trial.pair]
                        choices: dict[str, Choice] = {}
                        for question in self.design.questions:
                            key = (pair.pair, question.id)
                            winner = before.setdefault(key, chooses(pair, question.id, rng))
                            if wavers and trial.repeat:
                                winner = {"a": "b", "b": "a", "tie": "a"}[winner]
                            side: Any = "left" if winner == trial.left else "right"
                            choices[question.id] = always or ("tie" if winner == "tie" else side)
                        writes.append(store.show(name, trial.position))
                        writes.append(store.write(lambda db: clock.tick(seconds)))
                        writes.append(store.answer(name, trial.position, choices))
                for write in writes:
                    write.result()


def prefers(share: float, ties: float = 0.1) -> Chooses:
    """Chooses the pair's first method with probability `share`, a tie before that with `ties`; a hidden tie
    always is one."""

    def chooses(pair: Pair, question: str, rng: np.random.Generator) -> str:
        if pair.kind == "tie" or rng.random() < ties:
            return "tie"
        return "a" if rng.random() < share else "b"

    return chooses
