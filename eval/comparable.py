"""Which runs may share a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.sources.load import RunRecord, rows_of
from harness.config import UserError
from harness.records.identity import SuiteRef
from harness.records.rows import differing, setting_of, value_shown
from harness.records.suites import check_one_pool


def check_comparable(runs: Sequence[RunRecord], clip: str, allow_mixed: bool) -> None:
    """Raises UserError unless the runs' numbers may stand in one table."""
    first = runs[0]
    weights: dict[str, str] = {}
    computed: dict[str, str] = {}
    suites = {run.suite for run in runs}
    if None in suites:
        check_one_pool(_suites_of(runs))
    for other in runs:
        if other.mark != first.mark:
            raise UserError(
                f"toy, random and real priors never share a table: '{first.prior}' ({first.run_id}), "
                f"'{other.prior}' ({other.run_id}); keep them in separate folders"
            )
        if other.spec_version != first.spec_version:
            raise UserError(
                "runs of different random streams (by seed: version 1; by prompt and seed: 2) never share a "
                f"table: {first.run_id} is of {first.spec_version}, {other.run_id} of {other.spec_version}; "
                "keep them in separate folders"
            )
    if not allow_mixed:
        _check_settings(runs)
    for other in runs if not allow_mixed else ():
        if other.prior_hash and other.prior_hash != weights.setdefault(other.prior, other.prior_hash):
            raise UserError(
                f"'{other.prior}' had other weights in {other.run_id}; separate them or pass --allow-mixed"
            )
        if other.numerics and other.numerics != computed.setdefault("as", other.numerics):
            raise UserError(
                f"{other.run_id} was computed otherwise ({other.numerics}) than others ({computed['as']}); "
                "separate them or pass --allow-mixed"
            )
    if len(suites) > 1:
        check_one_pool(_suites_of(runs), allow_mixed)
    if not first.mark and Path(clip).name.startswith("toy-"):
        raise UserError(
            f"'{clip}' knows only the toy world; score '{first.prior}' with ViT-B-32-quickgelu/openai"
        )


def _suites_of(runs: Sequence[RunRecord]) -> dict[str, SuiteRef | None]:
    return {run.run_id: run.folder.spec().suite for run in runs}


def _check_settings(runs: Sequence[RunRecord]) -> None:
    _, found = differing(run.made for run in runs)
    if found:
        key, (one, other, *_) = next(iter(found.items()))
        such = [
            next(run.run_id for run in runs if key not in run.own and setting_of(run.config, key) == value)
            for value in (one, other)
        ]
        told = "; ".join(f"{key} is {' and '.join(map(str, each))}" for key, each in found.items())
        raise UserError(
            f"runs of different settings in one folder: {told} ({', '.join(such)}); separate them, choose "
            f"some by words such as {key}={value_shown(one)}, or pass --allow-mixed"
        )
    rows = rows_of(runs)
    for run in runs:
        if rows[run.run_id].method != run.method:
            raise UserError(
                f"runs of {run.method} differ in its parameters; separate them or pass --allow-mixed"
            )
