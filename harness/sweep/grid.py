"""From a prompt suite, methods and seeds to run specs."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.config import (
    Config,
    UserError,
    alternatives,
    closest,
    dotted,
    nearest,
    override_keys,
    parse_value,
    split_override,
)
from harness.distill.method import Method, in_full, load_method
from harness.prompt import SUITES, normalised
from harness.records import suites as kept
from harness.records.files import NoSuchFile, read_text
from harness.records.identity import COMPOSED, HALVES, LARGEST_SEED, OWN, Part, RunSpec, SuiteRef
from harness.scene.kind import settle
from harness.text import short


@dataclass(frozen=True)
class Suite:
    """A named, ordered list of prompts; all of it is the retrieval pool, however few are run. `about`: what
    its head says, by key."""

    name: str
    prompts: tuple[str, ...]
    about: Mapping[str, str] = field(default_factory=dict, compare=False)
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256("\n".join(self.prompts).encode()).hexdigest()
        object.__setattr__(self, "sha256", digest)

    @property
    def splits(self) -> dict[str, list[str]]:
        """The parts that its head declares: prompt k belongs to part k modulo their number."""
        parts = [part.strip() for part in self.about.get("splits", "").split(",") if part.strip()]
        return {
            name: [prompt for k, prompt in enumerate(self.prompts) if parts[k % len(parts)] == name]
            for name in dict.fromkeys(parts)
        }

    def split(self, name: str) -> list[str]:
        """The prompts of a declared part; raises UserError where there is no such."""
        if not self.splits:
            raise UserError(f"{self.name} declares no splits: its head says them, such as {SPLITS_EXAMPLE}")
        if name not in self.splits:
            raise UserError(f"{self.name} has no split '{short(name, 60)}'{nearest(name, self.splits)}")
        return self.splits[name]

    @property
    def ref(self) -> SuiteRef:
        """How a run spec names the suite."""
        return SuiteRef(name=self.name, sha256=self.sha256, size=len(self.prompts))


def make_suite(
    name: str, prompts: Sequence[str], source: str, about: Mapping[str, str] | None = None
) -> Suite:
    """A checked suite; raises UserError where it is empty or two prompts are the same after normalisation."""
    seen: dict[str, str] = {}
    for prompt in prompts:
        key = normalised(prompt)
        if not key:
            raise UserError(f"{source}: the prompt '{prompt}' has no words")
        if key in seen:
            raise UserError(f"{source}: '{prompt}' and '{seen[key]}' are the same prompt")
        seen[key] = prompt
    if not prompts:
        raise UserError(f"{source} holds no prompt: write one a line, # starts a comment")
    return Suite(name, tuple(prompts), about or {})


def suites() -> list[str]:
    """The names of the suites that come with the harness."""
    return sorted(path.stem for path in SUITES.glob("*.txt"))


SPLITS_EXAMPLE = "# splits: train, validation, test"
_ABOUT = re.compile(r"#\s*(name|version|licence|splits):\s*(\S.*)")


def read_suite(path: Path | str) -> Suite:
    """A suite by its name, from a text file, or from a column of a csv file, `FILE.csv:COLUMN`.

    A text file has one prompt a line; blank lines and lines that start with # are left out, but that of them
    `# name: …`, `# version: …` and `# licence: …` say what it is, and `# splits: …` which parts it has
    (`Suite.splits`). Its name is its file's unless it says another, with @version where that is not 1.
    """
    path = Path(path).expanduser()
    file, colon, column = str(path).rpartition(":")
    if colon and file.lower().endswith(".csv"):
        return make_suite(Path(file).stem, _column(Path(file), column), str(path))
    if len(path.parts) == 1 and path.name in suites() and not path.is_file():
        path = SUITES / f"{path.name}.txt"
    lines = [unicodedata.normalize("NFC", line).strip() for line in _text(path).splitlines()]
    about = {found[1]: found[2] for line in lines if (found := _ABOUT.fullmatch(line))}
    version = about.get("version", "1")
    name = about.get("name", path.stem) + (f"@{version}" if version != "1" else "")
    prompts = [line for line in lines if line and not line.startswith("#")]
    return make_suite(name, prompts, str(path), about)


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except NoSuchFile:
        raise UserError(f"no prompt file {path}{_meant(path)}") from None


def _meant(path: Path) -> str:
    """The suite that is meant by a path where nothing lies: a file there or in a folder named nearly so, or
    one of the harness's."""
    if len(path.parts) == 1 and not path.suffix:
        return nearest(path.name, suites())
    folder = path.parent
    if not folder.is_dir() and folder.parent.is_dir():
        beside = [each.name for each in folder.parent.glob("*") if each.is_dir()]
        folder = folder.with_name(closest(folder.name, beside) or folder.name)
    ending = path.suffix or ".txt"
    there = {each.stem: each for each in sorted(folder.glob(f"*{ending}"))} if folder.is_dir() else {}
    close = closest(path.stem, there)
    meant = str(there[close]) if close else closest(path.stem, suites()) if ending == ".txt" else None
    if meant:
        return f"; did you mean '{meant}'?"
    return f"; {folder} has {', '.join(each.name for each in there.values())}" if there else ""


def _column(path: Path, column: str) -> list[str]:
    """The cells of a column, without empty ones."""
    rows = csv.DictReader(_text(path).splitlines(keepends=True))
    heads = list(rows.fieldnames or [])
    if column not in heads:
        raise UserError(f"{path} has no column '{short(column, 60)}'{nearest(column, heads)}")
    cells = [unicodedata.normalize("NFC", row[column] or "").strip() for row in rows]
    return [cell for cell in cells if cell]


def write_suite(root: Path, suite: Suite) -> None:
    """Keep the suite beside the runs."""
    kept.keep(root, suite.name, suite.sha256, suite.prompts)


MOST_SEEDS = 100_000  # of one sweep
COMPARISON = "uniform_sds,linear_decay,tp_sds,tp_sds:iclr"  # the paper's; TP-SDS as v1 and as v2 has it


def seed_ranges(text: str) -> list[range]:
    """`0-2,5` as ranges, however long; raises UserError."""
    ranges = []
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"--seeds takes numbers and ranges such as 0-2,5, not '{short(text, 200)}'")
        if max(len(first), len(last)) > len(str(LARGEST_SEED)):
            raise UserError(f"--seeds: {short(part.strip(), 60)} is beyond the largest seed, {LARGEST_SEED}")
        ends = range(int(first), int(last or first) + 1)
        if not ends:
            raise UserError(f"--seeds: the range {part.strip()} runs backwards")
        if ends[-1] > LARGEST_SEED:
            raise UserError(f"--seeds: {ends[-1]} is beyond the largest seed, {LARGEST_SEED}")
        ranges.append(ends)
    return ranges


def parse_seeds(text: str) -> list[int]:
    """`0-2,5` as [0, 1, 2, 5]; raises UserError, also where there are more than MOST_SEEDS."""
    ranges = seed_ranges(text)
    if sum(map(len, ranges)) > MOST_SEEDS:
        raise UserError(f"--seeds: {short(text, 60)} are more than {MOST_SEEDS} seeds, the most of one sweep")
    return sorted({seed for ends in ranges for seed in ends})


def choose_methods(names: str, overrides: Sequence[str], dirs: Sequence[Path] = ()) -> list[Part]:
    """The methods of `--methods a,b:preset,b:key=value,a@b:preset` (empty: `COMPARISON`), with the overrides
    `name.key=value` of `--set` for every variant of that method, composed ones' halves included.

    Imports their folders. Raises UserError for unknown methods, presets, keys and values.
    """
    wanted = [name.strip() for name in (names.strip(" ,") or COMPARISON).split(",") if name.strip()]
    wanted = [in_full(name, dirs) for name in wanted]
    choices: list[Part] = []
    for text in wanted:
        halves = text.split(COMPOSED)
        if len(halves) > 1:
            load_method(COMPOSED.join(half.partition(":")[0] for half in halves), dirs)
        parts = [_part(half, overrides, dirs) for half in halves]
        choice = _composed(*parts) if len(parts) > 1 else parts[0]
        twin = next((c for c in choices if (c.name, c.params) == (choice.name, choice.params)), None)
        if twin is not None:
            raise UserError(f"--methods: '{text}' is the same method with the same settings as '{twin.name}'")
        choices.append(choice)
    return choices


def _part(text: str, overrides: Sequence[str], dirs: Sequence[Path]) -> Part:
    """`name:preset:key=value` with its full settings; `params_set` differ from its defaults."""
    name, *parts = text.split(":")
    method = load_method(name, dirs)
    preset = parts.pop(0) if parts and "=" not in parts[0] else ""
    own = [f"{name}.{part}" for part in parts]
    changes = _changes(method, name, [*overrides, *own])
    full = method.resolve(({"preset": preset} if preset else {}) | changes, name).model_dump(mode="json")
    default = method.resolve({}, name).model_dump(mode="json")
    labels = [preset] if preset else []
    labels += [f"{key}={_short(full[key])}" for key in sorted(changes)]
    return Part(name, full, tuple(sorted(k for k in full if full[k] != default[k])), ",".join(labels))


def _composed(*parts: Part) -> Part:
    halves = list(zip(HALVES, parts, strict=True))
    return Part(
        COMPOSED.join(part.name for part in parts),
        {half: part.params for half, part in halves},
        tuple(f"{half}.{key}" for half, part in halves for key in part.params_set),
        COMPOSED.join(part.variant for part in parts) if any(part.variant for part in parts) else "",
    )


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _changes(method: type[Method], name: str, overrides: Sequence[str]) -> dict[str, Any]:
    changes = {}
    for item in overrides:
        key, value = split_override(item)
        section, _, param = key.partition(".")
        if section == name and param == "preset":
            raise UserError(f"--methods: a preset is named after a colon, such as {name}:{short(value, 60)}")
        if section == name and param:
            known = method.Params.model_fields.get(param)
            changes[param] = parse_value(value, known.annotation if known else None)
    return changes


def split_overrides(items: Sequence[str], methods: Sequence[str]) -> tuple[list[str], list[str]]:
    """`--set` items for the config, and those for a method (`tp_sds.m1=700`)."""
    sections = {key.split(".")[0] for key in override_keys(Config)}
    of_methods = [item for item in items if item.partition(".")[0] in set(methods) - sections]
    return [item for item in items if item not in of_methods], of_methods


MOST_COMBINATIONS = 1000  # of the values that are spanned


def spanned(
    items: Sequence[str], annotation: Callable[[str], Any]
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Every combination of the values that `--set` items span (`guidance.cfg_scale=7.5,20`), as items of one
    value each, and the keys that have several; `annotation` is of a key's field.

    Raises UserError for views, which are how runs are looked at, and for more than MOST_COMBINATIONS.
    """
    choices, axes = [], []
    for item in items:
        key, text = split_override(item)
        values = list(dict.fromkeys(alternatives(text, annotation(key))))
        choices.append([f"{key}={value}" for value in values])
        if len(values) > 1:
            axes.append(key)
            if key.startswith("views."):
                raise UserError(
                    f"--set {short(item, 60)}: runs of other views are no axis, but another folder"
                )
    many = math.prod(map(len, choices))
    if many > MOST_COMBINATIONS:
        raise UserError(f"--set spans {many} combinations, more than {MOST_COMBINATIONS}")
    return list(itertools.product(*choices)), tuple(dict.fromkeys(axes))


def method_annotation(key: str, dirs: Sequence[Path] = ()) -> Any:
    """The annotation of a method's setting, `tp_sds.m1`; None where there is none."""
    name, _, param = key.partition(".")
    field = load_method(name, dirs).Params.model_fields.get(param)
    return field.annotation if field else None


@dataclass(frozen=True)
class Own:
    """A configuration with what a method recommends put in, see `own_settings`."""

    config: Config
    applied: dict[str, Any] = field(default_factory=dict)
    kept: tuple[str, ...] = ()

    def mark(self, method: Part) -> Part:
        """The method, named as one at its own settings where there are any."""
        if not self.applied:
            return method
        mine, *schedule = method.variant.split(COMPOSED) if method.variant else [""]
        schedule = schedule or [""] * method.name.count(COMPOSED)
        named = ",".join([mine, OWN] if mine else [OWN])
        return method._replace(variant=COMPOSED.join([named, *schedule]))


def own_settings(name: str, config: Config, by_hand: Collection[str], dirs: Sequence[Path] = ()) -> Own:
    """`config` at what the method's authors recommend, of `a@b` a's, except where a key was set by hand.

    What stands in `config` already is not counted as applied. Raises UserError where a recommended value does
    not fit.
    """
    wanted = load_method(name, dirs).recommended
    items = [f"{key}={json.dumps(value)}" for key, value in wanted.items() if key not in by_hand]
    changed = settle(config, items)
    before, after = dotted(config), dotted(changed)
    applied = {key: after[key] for key in wanted if after[key] != before.get(key)}
    return Own(changed, applied, tuple(key for key in wanted if key in by_hand)) if applied else Own(config)


def expand(
    suite: Suite,
    methods: Sequence[Part],
    seeds: Sequence[int],
    config: Config,
    prompts: Sequence[str] | None = None,
    own: Own | None = None,
    axes: Sequence[str] = (),
) -> list[RunSpec]:
    """Every prompt × seed × method as a spec, for these prompts or all; the suite stays the pool. `own` is
    what the methods recommend, which `config` holds, and `axes` what the sweep spans of it."""
    label = own or Own(config)
    return [
        RunSpec(
            method=method.name,
            params=method.params,
            params_set=method.params_set,
            variant=method.variant,
            own=label.applied,
            own_kept=label.kept,
            axes=tuple(axes),
            prompt=prompt,
            seed=seed,
            config=config,
            suite=suite.ref,
        )
        for method in methods
        for prompt in (suite.prompts if prompts is None else prompts)
        for seed in seeds
    ]
