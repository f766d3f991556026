"""What the rows of runs are called wherever runs are counted, compared or drawn."""

from __future__ import annotations

from collections.abc import Mapping

DIGITS = 6  # of a hash of code, in a row's name


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
