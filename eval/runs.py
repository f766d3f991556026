"""The ended runs of a folder, the scorer, and what they are held against; every table and figure reads from
here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from eval.comparable import check_comparable
from eval.metric import Metric, known
from eval.metrics import SEAM
from eval.scorers.clip import Clip, load_clip
from eval.scorers.features import ViewFeatures, view_features
from eval.scorers.retrieval import Pool, Scorer, load_pool
from eval.sources.load import BASELINE, DAMAGED, ENDED, RunRecord, in_order, load_runs, rows_of
from eval.sources.samples import prior_samples, reconstructed
from eval.statistics import convergence, intervals
from eval.tables import cost
from harness.config import Config, UserError, ViewsConfig
from harness.records.rows import named, usual
from harness.records.stamp import TOY
from harness.text import short

GroundTruth = Callable[[str, ViewsConfig], np.ndarray]


@dataclass(frozen=True)
class Fitted:
    """A scene that was shown its object: its views, uint8 [V, H, W, 3], and its solid's IoU with the true
    one, as it is and aligned; None of a scene without a solid."""

    views_VHWC: np.ndarray
    iou: float | None
    aligned_iou: float | None


Fit = Callable[[Path, Config, str, Sequence[str], str], Mapping[str, Fitted]]
Track = Callable[[Sequence[RunRecord], str], Iterable[RunRecord]]
T = TypeVar("T")
ANALYSES = {"convergence": convergence.VERSION, "cost": cost.VERSION, "intervals": intervals.VERSION}


@dataclass(frozen=True)
class Stamp:
    """What every number rests on."""

    versions: Mapping[str, int]  # of metrics, and of what is computed from them
    clip: str
    weights: str
    pools: tuple[str, ...]
    priors: tuple[str, ...]
    streams: int  # the runs' spec version: which random streams they drew from
    mark: str  # TOY, RANDOM or "" for a real prior's
    own: tuple[str, ...] = ()  # methods at settings of their own, with those

    def line(self, metrics: Sequence[str] = ()) -> str:
        """One line for a caption, with the versions of the metrics that it shows."""
        parts = [
            *(f"{name} v{self.versions[name]}" for name in metrics),
            f"CLIP {self.clip} {self.weights[:12]}",
            f"pool {', '.join(self.pools)}",
            f"prior {', '.join(self.priors)}",
            f"streams v{self.streams}",
        ]
        parts += [self.settings] if self.own else []
        return " · ".join([self.mark] * bool(self.mark) + parts)

    @property
    def settings(self) -> str:
        """What a caption says of methods at settings of their own; "" where there are none."""
        return f"each method at its own settings ({'; '.join(self.own)})" if self.own else ""

    def fields(self, metrics: Sequence[str]) -> dict[str, str | int]:
        """The columns that each line of a csv ends in."""
        return {
            "metrics": " ".join(f"{name}={self.versions[name]}" for name in (*metrics, "intervals")),
            "clip": self.clip,
            "weights": self.weights,
            "pools": "; ".join(self.pools),
            "priors": "; ".join(self.priors),
            "streams": self.streams,
            "toy": int(self.mark == TOY),
            "stamp": self.mark,
        } | ({"own settings": "; ".join(self.own)} if self.own else {})


class Runs(Sequence[RunRecord]):
    """Ended runs under `root` whose numbers may stand in one table, by run id, and the scorer.

    `ground_truth(prompt, views)` returns the ceiling's images, [V, H, W, 3] uint8, `solids(prompt)` the
    solid they are of, and `fit(root, config, prior's hash, prompts, device)` scenes that were shown them.
    `contrasts`: pairs of methods that a table of that name holds against each other. `only` keeps these
    run ids, which `chosen` says in words. `metrics_dirs`: folders with more metrics. What is derived is
    computed when it is first asked for, and cached in the run folders where it is slow.
    Raises UserError for no ended run, for runs that do not belong together, and for an unusable scorer.
    """

    def __init__(
        self,
        root: Path,
        *,
        clip: str = "toy-clip",
        device: str = "auto",
        allow_mixed: bool = False,
        ground_truth: GroundTruth | None = None,
        solids: Callable[[str], Any] | None = None,
        fit: Fit | None = None,
        contrasts: Sequence[tuple[str, str]] = (),
        only: Collection[str] | None = None,
        chosen: Sequence[str] = (),
        samples: int | None = None,
        metrics_dirs: Sequence[Path] = (),
        track: Track = lambda runs, text: runs,
    ):
        self.root, self.track, self._samples, self._dirs = root, track, samples, metrics_dirs
        SEAM.discover(metrics_dirs)  # a wrong folder is told before anything is computed
        records, self.notes = load_runs(root)
        if only is not None:
            every = len(records)
            records = [record for record in records if record.run_id in only]
            if chosen:
                self.note(f"{len(records)} of {every} runs, chosen by {' '.join(chosen)}")
        self._records = [record for record in records if record.status in ENDED]
        unfinished = sum(record.status not in (*ENDED, DAMAGED) for record in records)
        if not self._records:
            raise UserError(
                f"no run in {root} has ended yet ({unfinished} unfinished); see `harness status {root}`"
            )
        check_comparable(self._records, clip, allow_mixed)
        if unfinished:
            self.note(f"{unfinished} unfinished runs are left out")
        rows = rows_of(self)
        self.labels = {run_id: row.name for run_id, row in rows.items()}
        self.rows = {row.name: row for row in rows.values()}
        self.methods = in_order(self.rows.values())
        self.usual = usual((row.method, row.at) for row in self.rows.values())
        if self.usual:
            self.note(f"What a row does not say: {named('', tuple(self.usual.items())).removeprefix(', ')}")
        for method in sorted({run.method for run in self if "(code " in self.labels[run.run_id]}):
            self.note(f"{method}: runs that were made with different code are rows of their own")
        self.baseline = BASELINE if any(map(self.base, self.methods)) else None
        self.pools = {run.suite: load_pool(root, run.suite) for run in self if run.suite}
        self.clip: Clip = load_clip(clip, device)
        self.scorers = {suite: Scorer.over(self.clip, pool) for suite, pool in self.pools.items()}
        self._render, self._solids, self._fit = ground_truth, solids, fit
        self.contrasts = tuple(contrasts)
        self._made: dict[Callable[[Runs], Any], Any] = {}

    def __getitem__(self, index: Any) -> Any:
        return self._records[index]

    def __len__(self) -> int:
        return len(self._records)

    # ---- what the runs are

    @property
    def totals(self) -> list[int]:
        """The numbers of steps N that runs were given, rising."""
        return sorted({run.total for run in self})

    @property
    def prompts(self) -> list[str]:
        """The prompts run, in the order of their suite."""
        run = {record.prompt for record in self}
        ordered = [prompt for pool in self._pools() for prompt in pool.prompts if prompt in run]
        return list(dict.fromkeys([*ordered, *sorted(run)]))

    @property
    def seeds(self) -> list[int]:
        """The seeds run."""
        return sorted({run.seed for run in self})

    def beside(self, name: str, method: str) -> str | None:
        """The row of a method at the same values of the settings that differ; None where there is not one."""
        at = self.rows[name].at
        found = [row.name for row in self.rows.values() if (row.method, row.at) == (method, at)]
        return found[0] if len(found) == 1 else None

    def base(self, name: str) -> str | None:
        """What a row is compared with: the baseline at the same values of the settings that differ; None
        where the two have no prompt and seed in common, which is noted."""
        found = self.beside(name, BASELINE)
        if found is None or self._places[name] & self._places[found]:
            return found
        self.note(f"{name} and {found} have no prompt and seed in common, so they are not compared")
        return None

    @cached_property
    def _places(self) -> dict[str, set[tuple[str, int]]]:
        """The prompts and seeds of each row."""
        found: dict[str, set[tuple[str, int]]] = {name: set() for name in self.rows}
        for run in self:
            found[self.labels[run.run_id]].add((run.prompt, run.seed))
        return found

    def _pools(self) -> list[Pool]:
        return sorted(self.pools.values(), key=lambda pool: pool.name)

    def about(self, run: RunRecord) -> dict[str, Any]:
        """What frames say of a run: run, method, prompt, seed, total."""
        return {
            "run": run.run_id,
            "method": self.labels[run.run_id],
            "prompt": run.prompt,
            "seed": run.seed,
            "total": run.total,
        }

    def note(self, line: str) -> None:
        """Something that a reader of any table must know."""
        if line not in self.notes:
            self.notes.append(line)

    @cached_property
    def stamp(self) -> Stamp:
        """What the numbers rest on."""
        priors = sorted({f"{run.prior} {run.prior_hash[:12]}" for run in self if run.prior_hash})
        return Stamp(
            versions={metric.name: metric.version for metric in self.metrics.values()} | ANALYSES,
            clip=self.clip.tag,
            weights=self.clip.weights_hash,
            pools=tuple(
                f"{pool.name} ({len(pool.prompts)} captions, {pool.sha256[:12]})" for pool in self._pools()
            ),
            priors=tuple(priors or sorted({run.prior for run in self})),
            streams=self[0].spec_version,
            mark=self[0].mark,
            own=tuple(sorted({_own(run) for run in self if run.own})),
        )

    # ---- what is computed of them

    @cached_property
    def metrics(self) -> dict[str, type[Metric]]:
        """Every metric there is, by name."""
        return {metric.name: metric for metric in known(self._dirs)}

    def of(self, make: Callable[[Runs], T]) -> T:
        """`make(runs)`, such as a metric's class, made once."""
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]

    def frame_of(self, kind: type[Metric]) -> pd.DataFrame | None:
        """The frame of a metric; None where it has no value of these runs."""
        try:
            return self.of(kind).frame
        except UserError:
            return None

    @property
    def computed(self) -> list[Metric]:
        """The metrics that have been asked for and have a frame."""
        return [made for made in self._made.values() if isinstance(made, Metric) and "frame" in vars(made)]

    def last_features(self, run: RunRecord) -> np.ndarray | None:
        """Features [V, D] of a finished run's last views; None for a failed run and for unreadable views."""
        return None if run.failure else self.features[run.run_id][0].get(run.total)

    @cached_property
    def features(self) -> dict[str, ViewFeatures]:
        """Run id → its features of every readable step, and why the others are not."""
        return {run.run_id: view_features(run, self.clip) for run in self.track(self, "features")}

    @cached_property
    def side(self) -> int:
        """Height and width of the stored views."""
        for run in self:
            for step in self.features[run.run_id][0]:
                return run.views(step).shape[1]
        raise UserError(f"no run in {self.root} has views that can be read")

    # ---- what they are held against

    @cached_property
    def truth(self) -> dict[str, np.ndarray]:
        """Ground-truth views per prompt; {} where there is no ground truth."""
        if self._render is None:
            return {}
        views = self[0].config.views
        if any(run.config.views != views for run in self):
            self.note("no ceiling: the runs differ in their evaluation cameras")
            return {}
        try:
            return {prompt: self._render(prompt, views) for prompt in self.prompts}
        except UserError as error:
            self.note(f"no ceiling: {error}")
            return {}

    @cached_property
    def truth_features(self) -> dict[str, np.ndarray]:
        """Features [V, D] of the ground truth."""
        return self.clip.embed_each(self.truth)

    @cached_property
    def solids(self) -> dict[str, Any]:
        """The solid of each prompt; {} where there is no ground truth."""
        if self._solids is None or not self.truth:
            return {}
        return {prompt: self._solids(prompt) for prompt in self.truth}

    def solid_of(self, caption: str) -> Any | None:
        """The solid of any caption; None where there is no ground truth for it."""
        if self._solids is None:
            return None
        try:
            return self._solids(caption)
        except UserError:
            return None

    def fitted(self, like: RunRecord, prompts: Sequence[str]) -> Mapping[str, Fitted]:
        """Prompt → a scene as a run's that was shown its object; {} where there is no ground truth, and of a
        real prior, where it would take as long as a sweep. Raises UserError without the prior."""
        if self._fit is None or not self.truth or self.stamp.mark != TOY:
            return {}
        return self._fit(self.root, like.config, like.prior_hash, prompts, str(self.clip.device))

    def through_autoencoder(self, like: RunRecord, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """Prompt → what a run's prior's autoencoder makes of the ground truth's views, uint8 [V, H, W, 3].
        Raises UserError without the prior."""
        images = {prompt: self.truth[prompt] for prompt in prompts if prompt in self.truth}
        return reconstructed(like.config.guidance, images, str(self.clip.device))

    @cached_property
    def prior_samples(self) -> dict[str, np.ndarray]:
        """The prior's own images of each prompt, front view, [n, H, W, 3] uint8; {} where none are wanted.

        By default four for a toy prior and none for a real one, which takes minutes on a GPU.
        """
        count = self._samples if self._samples is not None else 4 * (self.stamp.mark == TOY)
        if not count:
            return {}
        if len({run.config.guidance.prior for run in self}) > 1:
            self.note("no samples of the prior: these runs have several priors")
            return {}
        # Of the prior itself, not of a disturbed one.
        first = min(self, key=lambda run: run.config.guidance.perturb)
        where = str(self.clip.device)
        try:
            return prior_samples(
                self.root, first.config.guidance, first.prior_hash, self.prompts, count, where
            )
        except UserError as error:
            self.note(f"no samples of the prior: {error}")
            return {}

    @cached_property
    def prior_features(self) -> dict[str, np.ndarray]:
        """Features [n, D] of the prior's own images."""
        return self.clip.embed_each(self.prior_samples)


def _own(run: RunRecord) -> str:
    """`csd:own: optim.lr 0.001, …`."""
    return f"{run.method}: " + ", ".join(f"{key} {short(str(value), 40)}" for key, value in run.own.items())
