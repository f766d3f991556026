"""What a sweep is asked for, in the words of the command line or of an experiment, and the runs it means."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.config import Config, Execution, UserError
from harness.distill.method import discover
from harness.guidance.folder import pinned
from harness.guidance.reading import check_prompts
from harness.presets import CLIPS, DEFAULT, load
from harness.records.identity import COMPOSED, RunSpec
from harness.scene.kind import settle
from harness.sweep import grid
from harness.text import short

CLIP_TOKENS = 77  # that CLIP's text tower reads

to_stderr = partial(print, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Request:
    """Prompts × methods × seeds × numbers of steps. `limit` takes the first prompts, `spread` evenly spaced
    ones; all of the suite stays the pool."""

    prompts: Path
    methods: str = ""
    seeds: str = "0"
    steps: tuple[int, ...] = ()
    limit: int | None = None
    spread: int | None = None
    preset: str = DEFAULT
    settings: tuple[str, ...] = ()
    methods_dirs: tuple[Path, ...] = ()

    def resolve(self, say: Callable[[str], None] = to_stderr) -> tuple[grid.Suite, list[RunSpec]]:
        """The suite and every run asked for; `say` is told of words that the prior will not read.

        Raises UserError for whatever does not fit, before anything starts.
        """
        of_config, of_methods = grid.split_overrides(self.settings, list(discover(self.methods_dirs)))
        config = settle(load(self.preset).config, of_config)
        config = config.model_copy(update={"guidance": pinned(config.guidance)})
        suite = grid.read_suite(self.prompts)
        if config.guidance.prior == "toy-sd":
            from harness.toyworld.grammar import check

            for prompt in suite.prompts:
                check(prompt)  # whose language is short enough for its prior
        choices = grid.choose_methods(self.methods, of_methods, self.methods_dirs)
        named = {name for choice in choices for name in choice.name.split(COMPOSED)}
        unused = {item.partition(".")[0] for item in of_methods} - named
        if unused:
            raise UserError(f"--set {sorted(unused)[0]}.…: that method is not in this sweep")
        configs = [config.model_copy(update={"steps": steps}) for steps in self.steps] or [config]
        if self.limit is not None and self.spread is not None:
            raise UserError("--limit takes the first prompts and --spread even ones: give one of them")
        chosen = choose(suite.prompts, self.limit, self.spread)
        if config.guidance.prior != "toy-sd":
            for line in check_prompts(config.guidance, chosen):
                say(line)
        seeds = grid.parse_seeds(self.seeds)
        specs = [spec for each in configs for spec in grid.expand(suite, choices, seeds, each, chosen)]
        return suite, specs

    def tell_of_scorers(self, suite: grid.Suite, config: Config) -> None:
        """Say which captions the preset's scorers cannot tell apart or read to their ends."""
        longest = max(len(prompt.encode()) for prompt in suite.prompts)
        if config.guidance.prior == "toy-sd" or longest + 4 <= CLIP_TOKENS:  # a token is a byte or more
            return
        from eval.scorers.retrieval import cut_captions

        real = CLIPS if self.preset == DEFAULT else load(self.preset).scorers
        for line in cut_captions(suite.prompts, real[:1]):  # they read alike
            to_stderr(line)


def execution_of(out: Path, wandb: str | None, study: str | None = None, **settings: Any) -> Execution:
    """How the runs of `out` are advanced: W&B's project and group as its mirror has them, and as asked."""
    from harness.records.mirror import Place
    from harness.records.tracking import default_mode

    place = Place.to_sweep(out, study)
    named = {"wandb": wandb or default_mode(), "study": place.project, "sweep": place.group}
    return Execution.model_validate(named | settings)


def choose(prompts: Sequence[str], limit: int | None = None, spread: int | None = None) -> list[str]:
    """The first `limit` prompts, or `spread` of them at even distances, in the suite's order."""
    if spread is None or spread >= len(prompts):
        return list(prompts[:limit])
    return [prompts[k * len(prompts) // spread] for k in range(spread)]


def parse_steps(text: str) -> tuple[int, ...]:
    """`100,200` as (100, 200); raises UserError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 10 and int(part) > 0 for part in parts):
        taken = "--steps takes a number of steps below 10⁹, or several such as 100,200,400"
        raise UserError(f"{taken}, not '{short(text, 200)}'")
    return tuple(dict.fromkeys(int(part) for part in parts))
