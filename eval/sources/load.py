"""Run folders → typed records. Reads through `RunFolder` only; no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.config import Config, UserError, first_line
from harness.records.folder import RunFolder, run_folders
from harness.records.identity import canonical_json, hashed_config
from harness.records.reader import RecordError
from harness.records.rows import At, Made, Row, differing, names_of, places, told_by_code
from harness.records.stamp import mark, prior_hash

ENDED = ("done", "failed")
DAMAGED = "damaged"
BASELINE = "uniform_sds"


@dataclass(frozen=True)
class RunRecord:
    """One run as evaluation sees it."""

    run_id: str
    method: str  # with its variant, as tables name it
    params: Mapping[str, Any]
    prompt: str
    seed: int
    config: Config
    own: Mapping[str, Any]  # what of the method's recommended settings its configuration holds
    axes: tuple[str, ...]  # the settings that its sweep spanned
    suite: str | None  # sha256 of the whole suite, which is the retrieval pool
    status: str
    failure: str | None  # why a failed run failed, or what of a damaged one is damaged
    prior: str  # tag of the diffusion prior
    prior_hash: str  # of its files, or of its weights in older records; "" where the run never loaded it
    mark: str  # TOY, RANDOM or "" for a real prior's: numbers of different marks never share a table
    spec_version: int  # which random streams it drew from (harness.config)
    numerics: str  # how it was computed, as far as that moves its numbers; "" where its records do not say
    code: Mapping[str, str]  # of its method and scene, which it was made with; {} where that is not known
    view_steps: tuple[int, ...]
    folder: RunFolder

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @property
    def total(self) -> int:
        """N: the run's own number of steps."""
        return self.config.steps

    @property
    def made(self) -> Made:
        """What its row's name follows from."""
        return Made(self.config, self.own, self.axes)

    @property
    def config_hash(self) -> str:
        """8 hex digits over the configuration as run ids take it, less the number of steps.

        N is an axis of every table, not a difference that keeps runs out of one.
        """
        return _hash({key: value for key, value in hashed_config(self.config).items() if key != "steps"})

    @property
    def settings_hash(self) -> str:
        """8 hex digits over the configuration and the method's parameters."""
        return _hash([self.config_hash, dict(self.params)])

    @property
    def cost_key(self) -> str:
        """What the cost of a step hangs on, the machine aside: the method and all settings but N."""
        return f"{self.method}@{self.settings_hash}"

    def views(self, step: int) -> np.ndarray:
        """[V, H, W, 3] uint8: the ring of azimuths, then the held-out view if any; ValueError otherwise."""
        images_VHWC = self.folder.views(step)
        expected = self.config.views.tiles
        if len(images_VHWC) != expected:
            raise ValueError(f"{len(images_VHWC)} tiles, expected {expected}")
        return images_VHWC

    def shown(self, step: int, views: Sequence[int] | slice = slice(None)) -> np.ndarray | str:
        """Some views of a step, or what stands in their place: why there are none."""
        if self.failure and (step == self.total or step not in self.view_steps):
            return f"failed: {self.failure}"
        try:
            return self.views(step)[views]
        except Exception as error:  # a damaged picture, told in its place as it is in the tables
            return f"unreadable: {first_line(error)}"


def load_runs(root: Path) -> tuple[list[RunRecord], list[str]]:
    """Every run under `root` whose spec can be read, sorted by run id, and a line for each that is damaged.

    Raises UserError where there is no run at all.
    """
    records: list[RunRecord] = []
    problems: list[str] = []
    for folder in run_folders(root):
        try:
            record = load_run(folder)
        except (OSError, ValueError, UserError):
            problems.append(f"{folder.id}: damaged: {folder.damage() or 'it was replaced a moment ago'}")
            continue
        records.append(record)
        if record.status == DAMAGED:
            problems.append(f"{record.run_id}: {record.failure}")
    if not records:
        raise UserError(f"no runs in {root}" + (f" ({problems[0]})" if problems else ""))
    return records, problems


def load_run(folder: RunFolder) -> RunRecord:
    """One run as it stands now; of a damaged one what its spec says, and what is wrong as its failure.

    Raises UserError, OSError or ValueError where its spec cannot be read.
    """
    look = folder.look()
    status = look.status
    spec = look.spec or folder.spec()
    told: str | None = None
    env: Mapping[str, Any] = {}
    try:
        if look.damage:
            raise RecordError(look.damage)
        if status == "failed":
            failure = folder.failure() or {}
            told = f"{failure.get('reason')} at step {failure.get('step')}"
        env = folder.env() or {}
    except RecordError as error:
        status, told = DAMAGED, f"damaged: {error}"
    prior = env.get("prior") or {}
    asked = spec.config.guidance.prior
    return RunRecord(
        run_id=folder.id,
        method=spec.label,
        params=spec.params,
        prompt=spec.prompt,
        seed=spec.seed,
        config=spec.config,
        own=spec.own,
        axes=spec.axes,
        suite=spec.suite.sha256 if spec.suite else None,
        status=status,
        failure=told,
        prior=prior.get("tag", asked),
        prior_hash=prior_hash(prior),
        mark=mark(prior, asked),
        spec_version=spec.spec_version,
        numerics=_numerics(env),
        code=look.code,
        view_steps=() if status == DAMAGED else tuple(folder.view_steps()),
        folder=folder,
    )


def _numerics(env: Mapping[str, Any]) -> str:
    """The device's kind, and what of the back ends is not shown by tests to give the same numbers.

    The fields of numba, torch and Triton do (tests/scene); tiny-cuda-nn interpolates in half precision, and a
    compiled denoiser rounds elsewhere.
    """
    if "device" not in env:
        return ""
    words = [str(env["device"]).partition(":")[0]]
    words += ["compiled"] if env.get("compiled") else []
    words += ["tinycudann"] if env.get("encoder") == "tinycudann" else []
    return ", ".join(words)


def rows_of(runs: Iterable[RunRecord]) -> dict[str, Row]:
    """Run id → its row: the method, what a sweep spanned and is not usual, and a hash of all settings or of
    the code where that is still ambiguous."""
    runs = list(runs)
    made = {run.run_id: run.made for run in runs}
    at, mixed = places(made), bool(differing(made.values())[1])
    settings: dict[tuple[str, At], set[str]] = {}
    for run in runs:
        settings.setdefault((run.method, at[run.run_id]), set()).add(run.settings_hash)
    heads = {
        run.run_id: f"{run.method}@{run.settings_hash}"
        if mixed or len(settings[run.method, at[run.run_id]]) > 1
        else run.method
        for run in runs
    }
    names = told_by_code(names_of(heads, at), {run.run_id: run.code for run in runs})
    return {run_id: Row(name, heads[run_id], at[run_id]) for run_id, name in names.items()}


def method_labels(runs: Iterable[RunRecord]) -> dict[str, str]:
    """Run id → name of its row: see `rows_of`."""
    return {run_id: row.name for run_id, row in rows_of(runs).items()}


def in_order(rows: Iterable[Row]) -> list[str]:
    """The names of rows as they are shown everywhere: the baseline, then by name, values rising."""
    return [row.name for row in sorted(set(rows), key=lambda row: row.order(BASELINE))]


def _hash(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:8]
