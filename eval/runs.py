"""The ended runs of a folder and what is derived of them; every table and figure reads from here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from eval.metrics import appearance, diversity, gradients, janus, shapes, spectrum
from eval.metrics import textureless as geometry
from eval.metrics.r_precision import MISS, VERSION, Pool, Scorer, load_pool, score_run
from eval.scorers.clip import Clip, load_clip
from eval.scorers.features import ViewFeatures, view_features
from eval.sources.load import BASELINE, DAMAGED, ENDED, RunRecord, in_order, load_runs, method_labels
from eval.statistics import convergence
from eval.statistics import intervals as stats
from eval.tables import cost
from eval.tables.cost import Costs, costs_of
from harness.config import UserError, ViewsConfig, dotted, first_line
from harness.guidance.views import VIEWS
from harness.records.costs import read_costs
from harness.records.reader import RecordError
from harness.records.stamp import TOY

GroundTruth = Callable[[str, ViewsConfig], np.ndarray]
Track = Callable[[Sequence[RunRecord], str], Iterable[RunRecord]]
SIGNATURES = ("false_front_rate", "peaks", "janus", "saturation", "contrast", "adjacent")


@dataclass(frozen=True)
class Stamp:
    """What every number of a study rests on."""

    metrics: tuple[tuple[str, int], ...]
    clip: str
    weights: str
    pools: tuple[str, ...]
    priors: tuple[str, ...]
    streams: int  # the runs' spec version: which random streams they drew from
    mark: str  # TOY, RANDOM or "" for a real prior's

    def line(self, metric: str = "") -> str:
        """One line for a caption, with the version of the metric that it shows."""
        parts = [
            *(f"{name} v{version}" for name, version in self.metrics if name == metric),
            f"CLIP {self.clip} {self.weights[:12]}",
            f"pool {', '.join(self.pools)}",
            f"prior {', '.join(self.priors)}",
            f"streams v{self.streams}",
        ]
        return " · ".join([self.mark] * bool(self.mark) + parts)

    def fields(self) -> dict[str, str | int]:
        """The columns that each line of a csv ends in."""
        return {
            "metrics": " ".join(f"{name}={version}" for name, version in self.metrics),
            "clip": self.clip,
            "weights": self.weights,
            "pools": "; ".join(self.pools),
            "priors": "; ".join(self.priors),
            "streams": self.streams,
            "toy": int(self.mark == TOY),
            "stamp": self.mark,
        }


class Study:
    """Ended runs under `root` whose numbers may stand in one table, and the scorer.

    `ground_truth(prompt, views)` returns the ceiling's images, [V, H, W, 3] uint8, and `solids(prompt)` the
    solid they are of. `only` keeps these run
    ids. What is derived is computed when it is first asked for, and cached in the run folders where it is
    slow.
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
        solids: shapes.Solids | None = None,
        only: Collection[str] | None = None,
        samples: int | None = None,
        track: Track = lambda runs, text: runs,
    ):
        self.root, self._track, self._samples = root, track, samples
        records, self.notes = load_runs(root)
        if only is not None:
            records = [record for record in records if record.run_id in only]
        self.runs = [record for record in records if record.status in ENDED]
        unfinished = sum(record.status not in (*ENDED, DAMAGED) for record in records)
        if not self.runs:
            raise UserError(
                f"no run in {root} has ended yet ({unfinished} unfinished); see `harness status {root}`"
            )
        check_comparable(self.runs, clip, allow_mixed)
        if unfinished:
            self.notes.append(f"{unfinished} unfinished runs are left out")
        self.labels = method_labels(self.runs)
        self.methods = in_order(self.labels.values())
        self.baseline = BASELINE if BASELINE in self.methods else None
        self.pools = {run.suite: load_pool(root, run.suite) for run in self.runs if run.suite}
        self.clip: Clip = load_clip(clip, device)
        self.scorers = {suite: Scorer.over(self.clip, pool) for suite, pool in self.pools.items()}
        self._render, self._solids = ground_truth, solids

    # ---- what the runs are

    @property
    def totals(self) -> list[int]:
        """The numbers of steps N that runs were given, rising."""
        return sorted({run.total for run in self.runs})

    @property
    def prompts(self) -> list[str]:
        """The prompts run, in the order of their suite."""
        run = {record.prompt for record in self.runs}
        ordered = [prompt for pool in self._pools() for prompt in pool.prompts if prompt in run]
        return list(dict.fromkeys([*ordered, *sorted(run)]))

    @property
    def seeds(self) -> list[int]:
        """The seeds run."""
        return sorted({run.seed for run in self.runs})

    def _pools(self) -> list[Pool]:
        return sorted(self.pools.values(), key=lambda pool: pool.name)

    @cached_property
    def stamp(self) -> Stamp:
        """What the numbers rest on."""
        known = sorted({f"{run.prior} {run.prior_hash[:12]}" for run in self.runs if run.prior_hash})
        return Stamp(
            metrics=METRICS,
            clip=self.clip.tag,
            weights=self.clip.weights_hash,
            pools=tuple(
                f"{pool.name} ({len(pool.prompts)} captions, {pool.sha256[:12]})" for pool in self._pools()
            ),
            priors=tuple(known or sorted({run.prior for run in self.runs})),
            streams=self.runs[0].spec_version,
            mark=self.runs[0].mark,
        )

    def views(self, run: RunRecord, step: int) -> np.ndarray:
        """The views of a step, [V, H, W, 3] uint8."""
        return run.views(step)

    def last_features(self, run: RunRecord) -> np.ndarray | None:
        """Features [V, D] of a finished run's last views; None for a failed run and for unreadable views."""
        return None if run.failure else self._features[run.run_id][0].get(run.total)

    @cached_property
    def _features(self) -> dict[str, ViewFeatures]:
        return {run.run_id: view_features(run, self.clip) for run in self._track(self.runs, "features")}

    # ---- R-Precision

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row per run and evaluated step: run, method, prompt, seed, total, step, final, pool, the
        scores, and why a run counts as a miss there.

        A step without readable views is a miss; so is the last step of a failed run, whatever its folder
        holds.
        """
        rows = []
        for run in self._track(self.runs, "scoring"):
            assert run.suite is not None  # check_comparable refuses a run without one
            scorer = self.scorers[run.suite]
            scores, problems = score_run(run, scorer, self._features[run.run_id])
            for step in run.config.views.steps(run.total):
                problem = problems.get(step)
                if run.status == "failed" and (step == run.total or step not in scores):
                    problem = run.failure
                elif step not in scores:
                    problem = problem or f"no views of step {step}"
                rows.append(
                    {
                        "run": run.run_id,
                        "method": self.labels[run.run_id],
                        "prompt": run.prompt,
                        "seed": run.seed,
                        "total": run.total,
                        "step": step,
                        "final": step == run.total,
                        "pool": len(scorer.pool.prompts),
                        **asdict(MISS if problem else scores[step]),
                        "problem": problem,
                    }
                )
        return pd.DataFrame(rows)

    @cached_property
    def truth(self) -> dict[str, np.ndarray]:
        """Ground-truth views per prompt; {} where there is no ground truth."""
        if self._render is None:
            return {}
        views = self.runs[0].config.views
        if any(run.config.views != views for run in self.runs):
            self.notes.append("no ceiling: the runs differ in their evaluation cameras")
            return {}
        try:
            return {prompt: self._render(prompt, views) for prompt in self.prompts}
        except UserError as error:
            self.notes.append(f"no ceiling: {error}")
            return {}

    @cached_property
    def truth_features(self) -> dict[str, np.ndarray]:
        """Features [V, D] of the ground truth."""
        return {prompt: self.clip.embed_images(views).numpy() for prompt, views in self.truth.items()}

    @cached_property
    def ceiling(self) -> pd.DataFrame:
        """Scores of the ground truth: prompt, pool and the scores; empty where there is none."""
        ring = self.runs[0].config.views.azimuths
        rows = []
        for suite, scorer in self.scorers.items():
            asked = {run.prompt for run in self.runs if run.suite == suite}
            for prompt in self.prompts:
                if prompt in asked and prompt in self.truth_features:
                    retrieval = scorer.retrieve(self.truth_features[prompt], ring)
                    score = retrieval.score(scorer.pool.index(prompt))
                    rows.append({"prompt": prompt, "pool": len(scorer.pool.prompts), **asdict(score)})
        return pd.DataFrame(rows)

    @cached_property
    def costs(self) -> Costs:
        """What a step of each method costs; UserError where it was not measured."""
        return costs_of(self.runs, self.labels, read_costs(self.root))

    # ---- beyond R-Precision, at each run's last step

    @cached_property
    def diversity(self) -> pd.DataFrame:
        """Spread over seeds: method, total, prompt, n_seeds, vendi, vendi_of, distance, prior_distance,
        collapsed.

        The Vendi score, which grows with the seeds, is of as many as the prompt with the fewest has.
        Prompts with fewer than two finished runs are left out; UserError where that leaves nothing.
        """
        groups: dict[tuple[str, int, str], list[np.ndarray]] = {}
        for run in self.runs:
            rows_VD = self.last_features(run)
            if rows_VD is not None:
                groups.setdefault((self.labels[run.run_id], run.total, run.prompt), []).append(rows_VD)
        rows = []
        groups = {key: features for key, features in sorted(groups.items()) if len(features) > 1}
        fewest = min(map(len, groups.values()), default=0)
        for (method, total, prompt), features in groups.items():
            spread = diversity.of_prompt(np.stack(features), fewest)
            prior = self.prior_distance.get(prompt, float("nan"))
            rows.append(
                {
                    "method": method,
                    "total": total,
                    "prompt": prompt,
                    "n_seeds": spread.n_seeds,
                    "vendi": spread.vendi,
                    "vendi_of": spread.vendi_of,
                    "distance": spread.distance,
                    "prior_distance": prior,
                    "collapsed": diversity.collapsed(spread.distance, prior),
                }
            )
        if not rows:
            raise UserError("diversity needs at least two seeds of a prompt: sweep with --seeds 0-1 or more")
        return pd.DataFrame(rows)

    @cached_property
    def prior_samples(self) -> dict[str, np.ndarray]:
        """The prior's own images of each prompt, front view, [n, H, W, 3] uint8; {} where none are wanted.

        By default four for a toy prior and none for a real one, which takes minutes on a GPU.
        """
        from eval.sources.samples import prior_samples

        count = self._samples if self._samples is not None else 4 * (self.stamp.mark == TOY)
        if not count:
            return {}
        try:
            return prior_samples(
                self.root,
                self.runs[0].config.guidance,
                self.runs[0].prior_hash,
                self.prompts,
                count,
                str(self.clip.device),
            )
        except UserError as error:
            self.notes.append(f"no samples of the prior: {error}")
            return {}

    @cached_property
    def prior_distance(self) -> dict[str, float]:
        """Mean pairwise distance of the prior's own samples of each prompt."""
        return {
            prompt: diversity.mean_pairwise_distance(self.clip.embed_images(images).numpy())
            for prompt, images in self.prior_samples.items()
            if len(images) > 1
        }

    @cached_property
    def signatures(self) -> pd.DataFrame:
        """Failure signatures of every finished run: run, method, prompt, seed, total, and `SIGNATURES`.

        The signs of Janus are nan where a prompt's front and back look alike in its ground truth.
        """
        rows = []
        for run in self.runs:
            rows_VD = self.last_features(run)
            if rows_VD is not None:
                rows.append(self._about(run) | self._signature(run, rows_VD))
        columns = ["run", "method", "prompt", "seed", "total", *SIGNATURES]
        return pd.DataFrame(rows, columns=columns)

    def _signature(self, run: RunRecord, rows_VD: np.ndarray) -> dict:
        ring = run.config.views.azimuths
        if ring < 3:  # no ring to walk round: a picture has colours, and no sides
            images_VHWC = run.views(run.total)
            looks = {
                "saturation": appearance.saturation(images_VHWC),
                "contrast": appearance.contrast(images_VHWC),
            }
            return dict.fromkeys(SIGNATURES, float("nan")) | looks
        found = appearance.measure(run.views(run.total)[:ring], rows_VD[:ring])
        azimuths = [360.0 * index / ring for index in range(ring)]
        references_VD = self.truth_features[run.prompt][:ring] if run.prompt in self.truth_features else None
        if references_VD is not None and not janus.applicable(references_VD, azimuths):
            return found | dict.fromkeys(("false_front_rate", "peaks", "janus"), float("nan"))
        signs = janus.janus(rows_VD[:ring], self._view_texts[run.prompt], azimuths, references_VD)
        return found | {
            "false_front_rate": signs.false_front_rate,
            "peaks": signs.peaks,
            "janus": float(signs.flagged),
        }

    @cached_property
    def janus_floor(self) -> dict[str, janus.Floor]:
        """What flags runs that are not of their prompt at all, mean over the sided prompts: random features,
        and the ground truth of the suite's other prompts where there is any. {} where no run has a ring.

        Of the rings of this study's runs; where they differ, of the first.
        """
        ring = next((run.config.views.azimuths for run in self.runs if run.config.views.azimuths > 2), 0)
        sided = dict.fromkeys(self.signatures.loc[self.signatures["janus"].notna(), "prompt"])
        if not ring or not sided:
            return {}
        azimuths = [360.0 * index / ring for index in range(ring)]
        truth = {prompt: rows_VD[:ring] for prompt, rows_VD in self.truth_features.items()}
        asked = [(self._view_texts[prompt], truth.get(prompt)) for prompt in sided]
        found = {"random features": janus.floor(asked, azimuths)}
        if len(truth) > 1:
            others = [[rows for other, rows in truth.items() if other != prompt] for prompt in sided]
            found["other prompts' ground truth"] = janus.floor(asked, azimuths, others)
        return found

    @cached_property
    def _view_texts(self) -> dict[str, np.ndarray]:
        return {
            prompt: self.clip.embed_texts([f"{prompt}, {view} view" for view in VIEWS]).numpy()
            for prompt in self.prompts
        }

    @cached_property
    def geometry(self) -> pd.DataFrame:
        """Scores of the textureless renders at the last step: run, method, prompt, seed, total, pool, scores.

        Failed runs and those whose views cannot be read are misses; empty where the runs have no field.
        """
        rows, fields = [], 0
        for run in self._track(self.runs, "textureless"):
            assert run.suite is not None
            scorer, score, rows_VD = self.scorers[run.suite], MISS, None
            problem = run.failure
            if problem is None and self.last_features(run) is None:
                problem = f"views of step {run.total} cannot be read"
            if problem is None:
                rows_VD, problem = self._textureless(run)
                fields += rows_VD is not None
            if rows_VD is not None:
                retrieval = scorer.retrieve(rows_VD, run.config.views.azimuths)
                score = retrieval.score(scorer.pool.index(run.prompt))
            about = self._about(run) | {"pool": len(scorer.pool.prompts), "problem": problem}
            rows.append(about | asdict(score))
        return pd.DataFrame(rows if fields else [])

    def _textureless(self, run: RunRecord) -> tuple[np.ndarray | None, str | None]:
        """Features [V, D], or why there are none."""
        try:
            rows_VD = geometry.textureless_features(run, self.clip)
        except UserError as error:
            return None, first_line(error)
        return rows_VD, None if rows_VD is not None else "its parameters are not there"

    @cached_property
    def solids(self) -> dict[str, shapes.Solid]:
        """The solid of each prompt; {} where there is no ground truth."""
        if self._solids is None or not self.truth:
            return {}
        return {prompt: self._solids(prompt) for prompt in self.truth}

    @cached_property
    def shapes(self) -> pd.DataFrame:
        """Shapes at the last step against ground truth: run, method, prompt, seed, total, problem and the
        fields of a `Shape`. Failed runs are misses; empty where there is no solid to compare."""
        rows, found = [], 0
        for run in self._track(self.runs if self.solids else [], "shapes"):
            shape, problem = None, run.failure
            if problem is None:
                try:
                    shape = shapes.of_run(run, self.solids[run.prompt], self.truth[run.prompt])
                except UserError as error:
                    problem = first_line(error)
            found += shape is not None
            if shape is not None or problem is not None:
                rows.append(self._about(run) | {"problem": problem} | asdict(shape or shapes.MISS))
        return pd.DataFrame(rows if found else [])

    @cached_property
    def shape_floor(self) -> pd.DataFrame:
        """What the next prompt's object scores in a prompt's place: prompt and the fields of a fit."""
        names = list(self.solids)
        pairs = zip(names, names[1:] + names[:1], strict=True)
        return pd.DataFrame(
            [
                {"prompt": one, "seed": 0} | asdict(shapes.floor(self.solids[one], self.solids[other]))
                for one, other in pairs
                if one != other
            ]
        )

    @cached_property
    def gradients(self) -> pd.DataFrame:
        """Maps of ‖ε̂ − ε‖: run, method, prompt, seed, total, step, t, mean, variance.

        Of the runs that kept the parameters of every evaluated step; empty where none did.
        """
        from harness.guidance.prior import Guidance

        kept = [run for run in self.runs if len(run.folder.params_steps()) > 1]
        rows = []
        if kept:
            where = str(self.clip.device)
            guidance = Guidance.load(kept[0].config.guidance, where, local_files_only=True)
            for run in self._track(kept, "gradients"):
                try:
                    found = gradients.gradient_map(run, guidance)
                except RecordError as error:
                    self.notes.append(f"left out of the gradients: {run.run_id}: {first_line(error)}")
                    continue
                rows += [self._about(run) | row for row in found]
        columns = ["run", "method", "prompt", "seed", "total", "step", "t", "mean", "variance"]
        return pd.DataFrame(rows, columns=columns)

    @cached_property
    def spectra(self) -> pd.DataFrame:
        """Radial power of every run's views at every evaluated step: …, step, power [K]."""
        rows = []
        for run in self._track(self.runs, "spectra"):
            ring = run.config.views.azimuths
            for step in self._features[run.run_id][0]:
                power_K = spectrum.radial_power(run.views(step)[:ring])
                rows.append(self._about(run) | {"step": step, "power": power_K})
        return pd.DataFrame(rows, columns=["run", "method", "prompt", "seed", "total", "step", "power"])

    @cached_property
    def reference_spectra(self) -> dict[str, np.ndarray]:
        """Radial power [K] of real images per prompt: ground truth, else the prior's samples; at the size of
        the runs' views, since a frequency is one per pixel."""
        ring = self.runs[0].config.views.azimuths
        images = {prompt: views[:ring] for prompt, views in self.truth.items()} or self.prior_samples
        side = self._side
        return {prompt: spectrum.radial_power(_resized(views, side)) for prompt, views in images.items()}

    @cached_property
    def prior_errors(self) -> pd.DataFrame:
        """How far the prior's own samples are from the real images, the least that a distilled scene can be
        asked for: prompt, seed, slope and its `band_error`; empty where there are no samples.

        Against ground truth all samples of a prompt together, as the views of a run; where the samples
        themselves stand for real images, one half of them against the other.
        """
        rows = []
        for prompt, images in self.prior_samples.items():
            images, half = _resized(images, self._side), len(images) // 2
            if not self.truth and not half:
                continue
            parts = (images, None) if self.truth else (images[:half], spectrum.radial_power(images[half:]))
            reference_K = self.reference_spectra[prompt] if parts[1] is None else parts[1]
            power_K = spectrum.radial_power(parts[0])
            row = {"prompt": prompt, "seed": 0, "slope": spectrum.slope(power_K)}
            rows.append(row | dict(spectrum.band_error(power_K, reference_K)))
        return pd.DataFrame(rows)

    @cached_property
    def _side(self) -> int:
        """Height and width of the stored views."""
        for run in self.runs:
            for step in self._features[run.run_id][0]:
                return run.views(step).shape[1]
        raise UserError(f"no run in {self.root} has views that can be read")

    def _about(self, run: RunRecord) -> dict:
        return {
            "run": run.run_id,
            "method": self.labels[run.run_id],
            "prompt": run.prompt,
            "seed": run.seed,
            "total": run.total,
        }


def _resized(images_VHWC: np.ndarray, side: int) -> np.ndarray:
    if images_VHWC.shape[1] == side:
        return images_VHWC
    pictures = (Image.fromarray(image).resize((side, side), Image.Resampling.BOX) for image in images_VHWC)
    return np.stack([np.asarray(picture) for picture in pictures])


METRICS = (
    ("r_precision", VERSION),
    ("convergence", convergence.VERSION),
    ("cost", cost.VERSION),
    ("diversity", diversity.VERSION),
    ("janus", janus.VERSION),
    ("appearance", appearance.VERSION),
    ("spectrum", spectrum.VERSION),
    ("geometry", geometry.VERSION),
    ("shapes", shapes.VERSION),
    ("gradients", gradients.VERSION),
    ("intervals", stats.VERSION),
)


def check_comparable(runs: Sequence[RunRecord], clip: str, allow_mixed: bool) -> None:
    """Raises UserError unless the runs' numbers may stand in one table."""
    first = runs[0]
    settings: dict[str, str] = {}
    weights: dict[str, str] = {}
    computed: dict[str, str] = {}
    for other in runs:
        if other.suite is None:
            raise UserError(f"{other.run_id} belongs to no suite, so there is no pool to retrieve from")
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
        if allow_mixed:
            continue
        if other.config_hash != first.config_hash:
            raise UserError(
                f"runs of different settings in one folder: {_difference(first, other)} ({first.run_id}, "
                f"{other.run_id}); separate them or pass --allow-mixed"
            )
        if other.settings_hash != settings.setdefault(other.method, other.settings_hash):
            raise UserError(
                f"runs of {other.method} differ in its parameters; separate them or pass --allow-mixed"
            )
        if other.prior_hash and other.prior_hash != weights.setdefault(other.prior, other.prior_hash):
            raise UserError(
                f"'{other.prior}' had other weights in {other.run_id}; separate them or pass --allow-mixed"
            )
        if other.numerics and other.numerics != computed.setdefault("as", other.numerics):
            raise UserError(
                f"{other.run_id} was computed otherwise ({other.numerics}) than others ({computed['as']}); "
                "separate them or pass --allow-mixed"
            )
        if other.suite != first.suite:
            raise UserError(
                f"runs of different suites have different pools ({first.run_id}, {other.run_id}); "
                f"separate them or pass --allow-mixed"
            )
    if not first.mark and Path(clip).name.startswith("toy-"):
        raise UserError(
            f"'{clip}' knows only the toy world; score '{first.prior}' with ViT-B-32-quickgelu/openai"
        )


def _difference(one: RunRecord, other: RunRecord) -> str:
    a, b = dotted(one.config), dotted(other.config)
    del a["steps"], b["steps"]
    keys = dict.fromkeys([*a, *b])  # scenes of two kinds have their own
    return "; ".join(f"{key} is {a.get(key)} and {b.get(key)}" for key in keys if a.get(key) != b.get(key))
