"""What a sweep is asked for, in the words of the command line or of an experiment, and the runs it means."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from harness.config import Config, Execution, UserError, split_override
from harness.distill.method import discover, load_method
from harness.guidance.folder import pinned
from harness.guidance.reading import check_prompts
from harness.presets import CLIPS, DEFAULT, load
from harness.prompt import normalised
from harness.records.identity import COMPOSED, Part, RunSpec, canonical_json
from harness.scene.kind import annotation_of, settle
from harness.sweep import grid
from harness.text import short

CLIP_TOKENS = 77  # that CLIP's text tower reads

to_stderr = partial(print, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Request:
    """Prompts × methods × seeds × numbers of steps. `split` is a part that the suite declares; `limit` takes
    the first prompts, `spread` evenly spaced ones; all of the suite stays the pool. `texts` are prompts of
    the suite, or without one they are it.

    `recommended`: each method at its own settings, except for what `settings` says. `nfe` gives each method
    the steps that so many denoiser evaluations allow, at its NFE per step; `per_step`, by the method's name
    with its variant or without, says it where that is no one number.
    """

    prompts: Path | None
    methods: str = ""
    seeds: str = "0"
    steps: tuple[int, ...] = ()
    limit: int | None = None
    spread: int | None = None
    preset: str = DEFAULT
    settings: tuple[str, ...] = ()
    methods_dirs: tuple[Path, ...] = ()
    recommended: bool = False
    nfe: int | None = None
    per_step: Mapping[str, float] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    split: str | None = None

    def _suite(self) -> grid.Suite:
        if self.prompts is not None:
            return grid.read_suite(self.prompts)
        texts = [unicodedata.normalize("NFC", text).strip() for text in self.texts]
        return grid.make_suite("prompts", texts, "--prompt")

    def _chosen(self, suite: grid.Suite) -> list[str]:
        """The prompts that are run of the suite."""
        known = {normalised(prompt): prompt for prompt in suite.prompts}
        for text in self.texts:
            if normalised(text) not in known:
                raise UserError(f"--prompt: '{short(text, 80)}' is not in {self.prompts}, which is its pool")
        if self.texts and (self.limit, self.spread, self.split) != (None, None, None):
            raise UserError("--prompt names the prompts, so --limit, --spread and --split choose none")
        if self.texts:
            return list(dict.fromkeys(known[normalised(text)] for text in self.texts))
        part = suite.prompts if self.split is None else suite.split(self.split)
        return choose(part, self.limit, self.spread)

    def resolve(self, say: Callable[[str], None] = to_stderr) -> tuple[grid.Suite, list[RunSpec]]:
        """The suite and every run asked for; `say` is told of words that the prior will not read.

        Raises UserError for whatever does not fit, before anything starts.
        """
        dirs = self.methods_dirs
        of_config, of_methods = grid.split_overrides(self.settings, list(discover(dirs)))
        combinations, axes = grid.spanned(of_config, annotation_of)
        base = load(self.preset).config
        configs = [settle(base, items) for items in combinations]
        guidances = {each.guidance: pinned(each.guidance) for each in configs}
        configs = [each.model_copy(update={"guidance": guidances[each.guidance]}) for each in configs]
        suite = self._suite()
        if any(each.guidance.prior == "toy-sd" for each in configs):
            from harness.toyworld.grammar import check

            for prompt in suite.prompts:
                check(prompt)  # whose language is short enough for its prior
        every = [
            grid.choose_methods(self.methods, items, dirs)
            for items in grid.spanned(of_methods, lambda key: grid.method_annotation(key, dirs))[0]
        ]
        choices = list(
            {(each.name, canonical_json(each.params)): each for some in every for each in some}.values()
        )
        named = {name for choice in choices for name in choice.name.split(COMPOSED)}
        unused = {item.partition(".")[0] for item in of_methods} - named
        if unused:
            raise UserError(f"--set {sorted(unused)[0]}.…: that method is not in this sweep")
        if self.limit is not None and self.spread is not None:
            raise UserError("--limit takes the first prompts and --spread even ones: give one of them")
        chosen = self._chosen(suite)
        for guidance in guidances.values():
            for line in check_prompts(guidance, chosen) if guidance.prior != "toy-sd" else ():
                say(line)
        seeds = grid.parse_seeds(self.seeds)
        by_hand = {split_override(item)[0] for item in of_config} if self.recommended else set()
        specs: list[RunSpec] = []
        made: dict[Config, Config] = {}  # equal configurations are one object, which is looked at once
        for config in configs:
            owns = [
                grid.own_settings(choice.name, config, by_hand, dirs)
                if self.recommended
                else grid.Own(config)
                for choice in choices
            ]
            for steps in self.steps or (config.steps,):
                for choice, own in zip(choices, owns, strict=True):
                    many = self._steps_of(choice) if self.nfe else steps
                    each = own.config.model_copy(update={"steps": many})
                    each = made.setdefault(each, each)
                    specs += grid.expand(suite, [own.mark(choice)], seeds, each, chosen, own, axes)
        return suite, specs

    def _steps_of(self, method: Part) -> int:
        """The steps that the budget of denoiser evaluations allows."""
        assert self.nfe is not None
        least, most = load_method(method.name, self.methods_dirs).nfe_range()
        per_step = self.per_step.get(method.label, self.per_step.get(method.name))
        if per_step is None and least != most:
            raise UserError(
                f"nfe: a step of {method.label} takes {least:g} to {most:g} denoiser evaluations; "
                "give its mean in per_step"
            )
        per_step = per_step or least
        if per_step > self.nfe:
            raise UserError(f"nfe: {self.nfe} denoiser evaluations are no step of {method.label}")
        return round(self.nfe / per_step)

    def tell_of_scorers(self, suite: grid.Suite, config: Config) -> None:
        """Say which captions the preset's scorers cannot tell apart or read to their ends."""
        longest = max(len(prompt.encode()) for prompt in suite.prompts)
        if config.guidance.prior == "toy-sd" or longest + 4 <= CLIP_TOKENS:  # a token is a byte or more
            return
        from eval.scorers.retrieval import cut_captions

        real = CLIPS if self.preset == DEFAULT else load(self.preset).scorers
        for line in cut_captions(suite.prompts, real[:1]):  # they read alike
            to_stderr(line)


def execution_of(
    out: Path, wandb: str | None, study: str | None = None, group: str = "", **settings: Any
) -> Execution:
    """How the runs of `out` are advanced: W&B's project and group as its mirror has them, and as asked."""
    from harness.records.mirror import Place
    from harness.records.tracking import default_mode

    place = Place.to_sweep(out, study, group)
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
