"""What is left to do: specs against the run folders that exist, and the packs that follow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.config import Config, GuidanceConfig, UserError
from harness.guidance import folder as priors
from harness.records.folder import DEATHS_ALLOWED, RunFolder
from harness.records.identity import RunSpec, by_identity, canonical_json, run_id, without_place
from harness.records.reader import shown
from harness.records.schema import CHECKPOINT, DEATHS, LEASE
from harness.records.stamp import changed


@dataclass
class Plan:
    """Run ids by what is to be done with them, and the packs to advance (new and resumed runs)."""

    new: list[str] = field(default_factory=list)
    resume: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    queued: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)  # with what is wrong
    unlabelled: list[str] = field(default_factory=list)  # their specs do not say that these axes were spanned
    specless: list[str] = field(default_factory=list)  # of the others: the spec has to be written anew
    retried: list[str] = field(default_factory=list)  # of the others: they had failed
    outdated: dict[str, list[str]] = field(default_factory=dict)  # with the names of the code that changed
    packs: list[list[str]] = field(default_factory=list)
    steps_left: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many runs the sweep has."""
        states = (self.new, self.resume, self.running, self.queued, self.done, self.failed, self.cancelled)
        return sum(map(len, states)) + len(self.damaged)

    @property
    def todo(self) -> list[str]:
        """The runs of the packs."""
        return [run for pack in self.packs for run in pack]

    def summary(self) -> str:
        """One line for people."""
        parts = [
            f"{self.total} runs: {len(self.new)} new, {len(self.resume)} to resume, {len(self.done)} done"
        ]
        states = {
            "running elsewhere": self.running, "queued": self.queued, "failed": self.failed,
            "cancelled": self.cancelled, "damaged": self.damaged,
        }  # fmt: skip
        parts += [f"{len(runs)} {state}" for state, runs in states.items() if runs or state == "failed"]
        steps = sum(self.steps_left.values())
        if self.packs:
            many = f"{len(self.packs)} packs" if len(self.packs) > 1 else "1 pack"
            largest = max(len(pack) for pack in self.packs)
            parts.append(f"{many} of up to {largest} runs, {steps} steps in all")
        return ", ".join(parts)


def make_plan(
    root: Path,
    specs: Sequence[RunSpec],
    pack: int | Callable[[RunSpec], int],
    retry_failed: bool = False,
    slots: int = 1,
    *,
    queued: Collection[str] = (),
    asked: bool = False,
    code: Callable[[RunSpec], Mapping[str, str]] | None = None,
) -> Plan:
    """Sort `specs` by the state of their folders under `root`, and pack what is to be done; writes nothing.

    `retry_failed` counts failed runs as runs to resume, `asked` (somebody asks for the sweep) cancelled
    ones. `queued` runs wait in a job already. `pack` is the most runs in a pack, of any or of a spec's kind;
    with several `slots` packs are kept small enough to give every slot one. A run that is one death from
    being given up goes alone. `code` says which code a run would be made with: those that were made with
    other are `outdated`.
    """
    plan = Plan()
    differing: dict[str, dict[str, str]] = {}  # by method
    alike: set[str] = set()
    groups: dict[tuple[str, str, bool], list[str]] = {}
    kinds: dict[tuple[str, str, bool], RunSpec] = {}  # one of each group
    for spec in specs:
        name = run_id(spec)
        folder = RunFolder(root / name)
        look = folder.look(spec_known=True)
        status, names = look.status, look.names
        if look.damage:
            plan.damaged[name] = look.damage
            continue
        if names:
            if look.spec is None:  # the sweep knows what was asked: it is written again
                plan.specless.append(name)
            elif difference := _difference(folder, look.spec, spec):
                differing.setdefault(spec.method, {})[name] = difference
                continue
            else:
                alike.add(spec.method)
                if not set(spec.axes) <= set(look.spec.axes):
                    plan.unlabelled.append(name)
        if code and look.code and (names_of := changed_code(look.code, code(spec))):
            plan.outdated[name] = names_of
        if status == "failed" and retry_failed:
            status = "resume"
            plan.retried.append(name)
        if status == "cancelled" and asked:
            status = "resume" if CHECKPOINT in names else "new"
        if status in ("new", "resume") and name in queued:
            plan.queued.append(name)
            continue
        getattr(plan, status).append(name)
        if status in ("new", "resume"):
            step = folder.checkpoint_step() if status == "resume" else 0
            plan.steps_left[name] = max(spec.config.steps - step, 0)
            alone = {DEATHS, LEASE} & names and len(folder.deaths()) >= DEATHS_ALLOWED - 1
            key = (canonical_json([spec.method, spec.alike]), _dump(spec.config)[1], bool(alone))
            groups.setdefault(key, []).append(name)
            kinds[key] = spec
    for method, told in differing.items():
        if method not in alike:  # a default that has changed shows in all of its runs
            raise UserError(next(iter(told.values())))
        plan.damaged |= told
    if groups:
        fair = -(-len(plan.steps_left) // slots)
        for key, group in groups.items():
            most = pack(kinds[key]) if callable(pack) else pack
            alone = key[-1]
            plan.packs += split(group, 1 if alone else min(most, fair), plan.steps_left)
    return plan


def changed_code(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names of the code that is another now."""
    return [name for name, here in now.items() if then.get(name, here) != here]


@by_identity
def _dump(config: Config) -> tuple[dict[str, Any], str]:
    """The configuration as plain data, and as one spelling of it; a sweep has few of them and many runs."""
    data = config.model_dump(mode="json")
    return data, canonical_json(data)


def split(runs: Sequence[str], most: int, steps_left: dict[str, int]) -> list[list[str]]:
    """`runs` in the fewest packs of at most `most`, evenly filled, runs with as much left to do together."""
    ordered = sorted(runs, key=lambda run: -steps_left[run])
    packs = -(-len(ordered) // most)
    bounds = [len(ordered) * k // packs for k in range(packs + 1)]
    return [ordered[a:b] for a, b in pairwise(bounds)]


def _difference(folder: RunFolder, found: RunSpec, spec: RunSpec) -> str | None:
    """How the spec that the folder holds differs from the one asked for.

    It must be this very run: a default that changed without a new id would mix two settings.
    """
    if _dump(found.config)[0] == _dump(spec.config)[0] and found.params == spec.params:
        return None  # what its name stands for besides is in the hash, unabridged
    labels = {"suite", "variant", "params_set", "own", "own_kept", "axes"}
    there, here = (
        s.model_copy(update={"config": without_place(s.config), "params": dict(s.settings)}).model_dump(
            mode="json", exclude=labels
        )
        for s in (found, spec)
    )
    # A setting that the method has gained since, and that stands at its default, is no difference.
    gained = (here["params"].keys() ^ there["params"].keys()) - {*spec.params_set, *found.params_set}
    for params in (there["params"], here["params"]):
        for key in gained:
            params.pop(key, None)
    for config in (there["config"], here["config"]):
        config.pop("preset")
    if there == here:
        return None
    for name in ("params", "config"):
        for key in sorted({*there[name], *here[name]}):
            if there[name].get(key) != here[name].get(key):
                then = shown(str(there[name].get(key)))
                return (
                    f"{folder.path} was made with {name} {key} = {then}, which is now "
                    f"{here[name].get(key)}: name another --out, or set it as it was"
                )
    return f"{folder.path} holds another run of the same name: name another --out"


def check_priors(root: Path, specs: Sequence[RunSpec]) -> None:
    """Told before anything is written: every prior is whole, and no run goes on with another than it had.

    A prior of the Hub that is not on this machine is left to whoever loads it. Raises UserError.
    """
    here: dict[GuidanceConfig, priors.PriorFolder | None] = {}
    for cfg in {spec.config.guidance for spec in specs}:
        try:
            here[cfg] = priors.find(cfg)
        except UserError:
            if not priors.is_on_hub(cfg):
                raise
            here[cfg] = None
    siblings: dict[str, list[str]] = {}
    for name in sorted(path.name for path in root.glob("*-s*-*")) if root.is_dir() else ():
        siblings.setdefault(name.rpartition("-")[0], []).append(name)
    seen: set[GuidanceConfig] = set()  # of whose finished runs one was looked at
    for spec in specs:
        cfg, name = spec.config.guidance, run_id(spec)
        found, alike = here[cfg], siblings.get(name.rpartition("-")[0], [])
        if name not in alike:
            _check_siblings(root, spec, alike)
            continue
        look = RunFolder(root / name).look()
        is_over = look.status == "done"
        if found is None or look.damage or CHECKPOINT not in look.names or (is_over and cfg in seen):
            continue
        seen |= {cfg} if is_over else set()
        RunFolder(root / name).check_prior(found.record)


def _check_siblings(root: Path, spec: RunSpec, names: Sequence[str]) -> None:
    """No folder holds the same run with another content of the same folder's prior."""
    cfg = spec.config.guidance
    for name in names if cfg.content is not None else ():
        try:
            saved = RunFolder(root / name).spec()
        except UserError:
            continue
        then = saved.config.guidance.content
        if then is not None and then != cfg.content:
            guidance = saved.config.guidance.model_copy(update={"content": cfg.content})
            config = saved.config.model_copy(update={"guidance": guidance})
            if run_id(saved.model_copy(update={"config": config})) == run_id(spec):
                raise changed(root / name, cfg.prior, then, cfg.content or "")
