"""What the rows of runs are called wherever runs are counted, compared or drawn: the method, the settings
that differ between the runs at hand, and the version of its code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from harness.config import Config, dotted
from harness.records.identity import NOT_HASHED, by_identity, canonical_json, without_place
from harness.text import short

DIGITS = 6  # of a hash of code, in a row's name
LONGEST = 24  # letters of a value in a row's name

At = tuple[tuple[str, Any], ...]  # the settings that differ, by the last word of their key, with values


class Made(NamedTuple):
    """What a run was made with: its configuration, the keys in it that are its method's own and not the
    sweep's, and those that its sweep spanned."""

    config: Config
    own: Collection[str] = ()
    axes: Collection[str] = ()


@dataclass(frozen=True)
class Row:
    """A row's name, the method that it begins with, and the values of the settings that differ."""

    name: str
    method: str
    at: At = ()

    def order(self, baseline: str) -> tuple[Any, ...]:
        """Sorts rows as they are shown everywhere: the baseline, then by name, values rising."""
        values = [(isinstance(v, str), v if isinstance(v, str | float | int) else str(v)) for _, v in self.at]
        return self.method != baseline, self.method, values, self.name


def differing(runs: Iterable[Made]) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """The settings that differ between runs, with their values as they are met: those that a sweep spanned,
    and all others. N is none of them."""
    seen = {(id(run.config), *map(frozenset, run[1:])): run for run in runs}.values()
    values: dict[str, dict[str, Any]] = {}
    for run in seen:
        for key, (text, value) in _settings(run.config).items():
            if key not in run.own:
                values.setdefault(key, {}).setdefault(text, value)
    found = {key: list(each.values()) for key, each in values.items() if len(each) > 1}
    spanned = {key for run in seen for key in run.axes}
    spanned |= {"guidance.content"} if "guidance.prior" in spanned else set()
    axes = {key: each for key, each in found.items() if key in spanned and key != "guidance.content"}
    return axes, {key: each for key, each in found.items() if key not in spanned}


def places(runs: Mapping[str, Made]) -> dict[str, At]:
    """Run id → its values of the spanned settings that differ."""
    axes, _ = differing(runs.values())
    last = [key.rpartition(".")[2] for key in axes]
    shown = {key: word if last.count(word) == 1 else key for key, word in zip(axes, last, strict=True)}

    def at(run: Made) -> At:
        settings = _settings(run.config)
        return tuple((shown[key], settings[key][1]) for key in axes if key in settings and key not in run.own)

    return {run_id: at(run) for run_id, run in runs.items()}


def named(method: str, at: At) -> str:
    """`uniform_sds, cfg_scale 50`."""
    return ", ".join([method, *(f"{key} {value_shown(value)}" for key, value in at)])


def usual(rows: Iterable[tuple[str, At]]) -> dict[str, Any]:
    """Of each setting the value that more than half of the rows (head, values) have, where there is one."""
    shown: dict[str, Counter[str]] = {}
    values: dict[tuple[str, str], Any] = {}
    each = {(head, tuple((key, value_shown(value)) for key, value in at)): at for head, at in rows}
    for at in each.values():
        for key, value in at:
            shown.setdefault(key, Counter())[value_shown(value)] += 1
            values[key, value_shown(value)] = value
    top = {key: count.most_common(1)[0] for key, count in shown.items()}
    return {key: values[key, text] for key, (text, n) in top.items() if 2 * n > len(each)}


def names_of(heads: Mapping[str, str], at: Mapping[str, At]) -> dict[str, str]:
    """Run id → its row's name: what its head is, and the values that are not the usual ones."""
    common = usual((heads[run], at[run]) for run in heads)
    return {
        run: named(head, tuple(each for each in at[run] if each not in common.items()))
        for run, head in heads.items()
    }


def value_shown(value: Any) -> str:
    """A setting's value as a row and a tick have it."""
    if isinstance(value, tuple):
        return "–".join(map(value_shown, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return short(text, LONGEST) or "none"


def setting_of(config: Config, key: str) -> Any:
    """A setting's value, a list as a tuple; None where the configuration has none of that key."""
    return _settings(config).get(key, ("", None))[1]


@by_identity
def _settings(config: Config) -> dict[str, tuple[str, Any]]:
    """Every setting but labels and N, as one spelling and as a value that can be compared."""
    found = {k: v for k, v in dotted(without_place(config)).items() if k not in (*NOT_HASHED, "steps")}
    return {k: (canonical_json(v), tuple(v) if isinstance(v, list) else v) for k, v in found.items()}


def told_by_code(labels: Mapping[str, str], codes: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Run id → its row, from the rows that runs have by name and the code that each was made with.

    Where one row's runs are known to be of several versions of its code, each version is a row; runs of which
    nothing is known stay together.
    """
    known: dict[str, set[str]] = {}
    versions = {run: _version(codes.get(run, {})) for run in labels}
    for run, label in labels.items():
        known.setdefault(label, set()).update({versions[run]} - {""})
    return {
        run: f"{label} (code {versions[run]})" if versions[run] and len(known[label]) > 1 else label
        for run, label in labels.items()
    }


def _version(code: Mapping[str, str]) -> str:
    parts = [[each[:DIGITS] for each in code[name].split("+")] for name in sorted(code)]
    return " ".join("+".join(part) for part in parts)
