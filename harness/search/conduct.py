"""A search from its first generation to its winner, and the winner's tests; the same command goes on.

The runs are a sweep's, in one folder; what was proposed and seen is in its journal. A generation is proposed
once all before it are scored, and written down before it is run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from eval.command import write_tables
from eval.figures.write import write_figures
from eval.metrics.r_precision import RPrecision
from eval.metrics.shapes import Shapes
from eval.statistics.power import POWERS, smallest, spread_of
from harness.config import Execution, UserError
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, run_id
from harness.reproduce import TIMED, evaluated_runs
from harness.search import show
from harness.search.axes import Point, settings
from harness.search.definition import BASELINE, Part, Search, Size, Test
from harness.search.journal import (
    TRAIN,
    VALIDATION,
    Candidate,
    Journal,
    Scores,
    Told,
    Winner,
    by_prompt,
    kept,
    mean,
)
from harness.search.propose import Seen, propose
from harness.search.worth import scores
from harness.sweep.grid import Suite
from harness.sweep.local import sweep
from harness.sweep.request import Request, execution_of

Advance = Callable[[Path, Suite, Sequence[RunSpec], Execution], int]
HERE: Advance = partial(sweep, others="keep")  # on this machine


@dataclass(frozen=True)
class Conduct:
    """Where a search's runs and results are, and how its runs are advanced; `hours`: no generation is begun
    once those before it took so long."""

    name: str
    search: Search
    size: str
    runs: Path
    out: Path
    device: str = "auto"
    encoder: str = "auto"
    wandb: str | None = None
    hours: float | None = None
    advance: Advance = HERE

    @property
    def sized(self) -> Size:
        """What is searched."""
        return self.search.size(self.size)

    @property
    def root(self) -> Path:
        """The folder of its runs."""
        return self.runs / f"search-{self.name}-{self.size}"

    @property
    def results(self) -> Path:
        """The folder of its tables and figures."""
        return self.out / f"search-{self.name}-{self.size}"

    # ---- the search

    def find(self, dry_run: bool = False) -> int:
        """Go on to the winner; the exit code. Raises UserError."""
        sized = self.sized
        journal, winner = kept(self.root, sized.sha256)
        if dry_run:
            return self._tell_plan(journal)
        for number in range(0 if winner else sized.generations):
            if self.hours is not None and journal.seconds >= 3600 * self.hours:
                print(f"the budget of {self.hours:g} hours is spent after {number} generations", flush=True)
                break
            journal = self._proposed(journal, number)
            own = journal.generation(number)
            if not own:
                print(f"the axes have no more than these {len(journal.candidates)} candidates", flush=True)
                break
            if all(TRAIN in each.scores for each in own):
                continue
            print(f"generation {number + 1} of {sized.generations}: {len(own)} candidates", flush=True)
            began = time.monotonic()
            found, code = self._scored(own, sized.train, TRAIN, journal)
            if found is None:
                return code
            took = journal.seconds + time.monotonic() - began
            journal = found.model_copy(update={"seconds": round(took, 1)})
            journal.write(self.root)
            self._tell_best(journal)
        if winner is None:
            journal, winner, code = self._chosen(journal)
            if winner is None:
                return code
        show.write_all(self.results, self.name, sized, journal, winner)
        print(f"the winner is fixed: {' '.join(winner.settings)} ({winner.sha256[:12]})")
        left = [test.name for test in sized.tests if test.name not in journal.tests]
        if left:
            print(f"next: harness search {self.name} --size {self.size} --test {left[0]}")
        return 0

    def _tell_plan(self, journal: Journal) -> int:
        sized = self.sized
        first = self._proposed(journal, 0, keep=False).generation(0)
        suite, specs = _resolved(sized.of_candidate(first[0].point, sized.train))
        _, known = _resolved(sized.of_references(sized.train))
        _, later = _resolved(sized.of_candidate(first[0].point, sized.validation))
        _, known_later = _resolved(sized.of_references(sized.validation))
        many = sized.generations * sized.candidates * len(specs) + sized.finalists * len(later)
        many += len(known) + len(known_later)
        print(f"{self.search.title}: {sized.generations} generations of {sized.candidates} candidates")
        print(
            f"{many} runs of {sized.steps} steps before the winner is fixed; of them the first candidate's:"
        )
        return sweep(self.root, suite, specs, self._execution(self.root), dry_run=True)

    def _proposed(self, journal: Journal, number: int, keep: bool = True) -> Journal:
        """The journal with a generation's candidates, the `start` before the optimiser's own."""
        if journal.generation(number):
            return journal
        sized = self.sized
        seen = [
            Seen(each.point, mean(each.scores[TRAIN]), self._shortfall(journal, each.scores[TRAIN]))
            for each in journal.scored(TRAIN)
        ]
        points: list[Point] = sized.starts[: sized.candidates] if number == 0 else []
        taken = [each.point for each in journal.candidates] + points
        points += propose(
            sized.axes, seen, taken, sized.candidates - len(points), sized.seed, number, sized.sampler
        )
        new = [Candidate(generation=number, point=point) for point in points]
        found = journal.model_copy(update={"candidates": (*journal.candidates, *new)})
        if keep and new:
            self.root.mkdir(parents=True, exist_ok=True)
            found.write(self.root)
        return found

    def _shortfall(self, journal: Journal, of: Scores, part: str = TRAIN) -> float:
        """By how much a candidate's last level misses what is demanded; at most 0 where it does not."""
        level = mean(journal.references[BASELINE][part], "last") - self.sized.slack / 100
        return level - mean(of, "last")

    def _scored(
        self, candidates: Sequence[Candidate], part: Part, name: str, journal: Journal
    ) -> tuple[Journal | None, int]:
        """The journal with the scores of candidates, and of the references, on a part's prompts; None, and an
        exit code, where their runs have not all ended."""
        sized = self.sized
        wanted = [
            (str(k), sized.of_candidate(each.point, part))
            for k, each in enumerate(candidates)
            if name not in each.scores
        ]
        if not journal.references or not all(name in found for found in journal.references.values()):
            wanted.append(("", sized.of_references(part)))
        if not wanted:
            return journal, 0
        found, stamp, code = self._ended(self.root, wanted)
        if found is None:
            return None, code
        journal = journal.model_copy(update={"stamp": stamp})
        for key, of in found.items():
            if key.isdecimal():
                journal = journal.with_scores(candidates[int(key)], name, of)
            else:
                before = journal.references.get(key, {})
                references = journal.references | {key: before | {name: of}}
                journal = journal.model_copy(update={"references": references})
        return journal, 0

    def _ended(
        self, root: Path, wanted: Sequence[tuple[str, Request]]
    ) -> tuple[dict[str, Scores] | None, Told | None, int]:
        """The scores of what was asked for by its names, and those of no name by their methods', with their
        stamp, once all its runs have ended; before that None, and an exit code."""
        suite: Suite | None = None
        every: dict[str, RunSpec] = {}
        ids: dict[str, list[str]] = {}
        for key, request in wanted:
            suite, specs = _resolved(request)
            for spec in specs:
                every[run_id(spec)] = spec
                ids.setdefault(key or spec.label, []).append(run_id(spec))
        assert suite is not None
        code = self.advance(root, suite, list(every.values()), self._execution(root))
        left = sum(RunFolder(root / run).status() not in ("done", "failed") for run in every)
        if left:
            print(f"{left} runs have not ended; the same command goes on once they have", flush=True)
            return None, None, code or 1
        found = evaluated_runs(
            root, clip=self.sized.clip, device=self.device, only=set(every), allow_mixed=True
        )
        names = [RPrecision.name, *([Shapes.name] if self.sized.iou else [])]
        stamp = Told(mark=found.stamp.mark, words=found.stamp.line(names), columns=found.stamp.fields(names))
        return scores(found, self.sized, ids), stamp, 0

    def _execution(self, root: Path) -> Execution:
        return execution_of(root, self.wandb, device=self.device, encoder=self.encoder)

    def _tell_best(self, journal: Journal) -> None:
        own = self._ranked(journal)
        level = mean(journal.references[BASELINE][TRAIN])
        best = own[0]
        print(
            f"best of {len(own)}: {' '.join(settings(self.sized.axes, best.point))}: "
            f"{100 * mean(best.scores[TRAIN]):.1f}; {BASELINE} {100 * level:.1f}",
            flush=True,
        )

    def _ranked(self, journal: Journal, part: str = TRAIN) -> list[Candidate]:
        """Candidates by what they are worth on a part, those that keep the level before those that do not."""

        def order(each: Candidate) -> tuple[bool, float]:
            return self._shortfall(journal, each.scores[part], part) > 0, -mean(each.scores[part])

        return sorted(journal.scored(part), key=order)

    def _chosen(self, journal: Journal) -> tuple[Journal, Winner | None, int]:
        """The finalists on the prompts of validation, and the best of them as the winner."""
        sized = self.sized
        finalists = self._ranked(journal)[: sized.finalists]
        if not finalists:
            raise UserError("no candidate was run: give the search more hours")
        print(f"{len(finalists)} finalists on the prompts of {sized.validation.split}", flush=True)
        found, code = self._scored(finalists, sized.validation, VALIDATION, journal)
        if found is None:
            return journal, None, code
        found.write(self.root)
        best = self._ranked(found, VALIDATION)[0]
        winner = Winner(
            of=sized.sha256,
            settings=settings(sized.axes, best.point),
            generation=best.generation,
            candidates=len(found.scored(TRAIN)),
            train=mean(best.scores[TRAIN]),
            validation=mean(best.scores[VALIDATION]),
        )
        return found, winner.fix(self.root), 0

    # ---- the proof

    def prove(self, name: str, dry_run: bool = False) -> int:
        """Run a test of the winner on prompts that no candidate has seen; the exit code."""
        sized = self.sized
        journal, winner = kept(self.root, sized.sha256)
        known = {test.name: test for test in sized.tests}
        if name not in known:
            raise UserError(f"no test '{name}'; this search has {', '.join(known) or 'none'}")
        if winner is None:
            raise UserError(
                f"nothing to be tested yet: harness search {self.name} --size {self.size} finds it"
            )
        test, root = known[name], self.root.with_name(f"{self.root.name}-{name}")
        wanted = sized.of_test(test, winner.settings)
        print(f"{name}: {test.title}; the winner ({winner.sha256[:12]}): {' '.join(winner.settings)}")
        specs = [spec for _, request in wanted for spec in _resolved(request)[1]]
        self._tell_power(journal, winner, specs)
        if dry_run:
            suite = _resolved(wanted[0][1])[0]
            return sweep(root, suite, specs, self._execution(root), dry_run=True)
        found, _, code = self._ended(root, wanted)
        if found is None:
            return code
        journal = journal.model_copy(update={"tests": journal.tests | {test.name: found}})
        journal.write(self.root)
        show.write_all(self.results, self.name, sized, journal, winner)
        self._write_tables(test, root, specs)
        return 0

    def _tell_power(self, journal: Journal, winner: Winner, specs: Sequence[RunSpec]) -> None:
        """What the test can show, by what the validation varied, before it is run."""
        won = show.won(self.sized, journal, winner).scores[VALIDATION]
        ours, theirs = by_prompt(won), by_prompt(journal.references[BASELINE][VALIDATION])
        gaps = {
            prompt: {seed: value - theirs[prompt][seed] for seed, value in seeds.items()}
            for prompt, seeds in ours.items()
        }
        prompts, seeds = len({spec.prompt for spec in specs}), len({spec.seed for spec in specs})
        if len(gaps) < 2 or prompts < 2:
            return
        least = [100 * smallest(spread_of(gaps), prompts, seeds, power) for power in POWERS]
        print(
            f"{prompts} prompts × {seeds} seeds show a difference of {least[0]:.1f} points to {BASELINE} in "
            f"80 % of tests and of {least[1]:.1f} in 95 %, if pairs differ as on {VALIDATION}",
            flush=True,
        )

    def _write_tables(self, test: Test, root: Path, specs: Sequence[RunSpec]) -> None:
        only = {run_id(spec) for spec in specs}
        if TIMED & {*test.tables, *test.figures}:
            from harness.bench_methods import run_where_missing

            run_where_missing(root, only)
        runs = evaluated_runs(root, clip=self.sized.clip, device=self.device, only=only)
        folder = self.results / test.name
        write_tables(runs, test.tables, folder)
        command = f"harness search {self.name} --size {self.size} --test {test.name}"
        for path in write_figures(runs, test.figures, folder, command) if test.figures else []:
            print(path)


def _resolved(request: Request) -> tuple[Suite, list[RunSpec]]:
    return request.resolve(say=lambda line: None)
