"""`import harness`: runs looked at, and packs stepped by hand, from Python.

The names that `harness` itself exports keep their meaning within a major version; what goes is announced by a
DeprecationWarning one minor version before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pandas as pd
import torch
import trimesh
from trimesh.visual import ColorVisuals

from harness.config import UserError, overrides
from harness.device import pick_device
from harness.distill.assemble import check_resolution, load_guidance, make_method
from harness.distill.assemble import make_pack as assembled
from harness.distill.method import Method
from harness.distill.step import Pack, evaluation_latents, step
from harness.objects.export import surface
from harness.objects.final import Final, latents, load, load_prior, pictures
from harness.objects.mesh import surface_level
from harness.records.folder import RunFolder, run_folders
from harness.records.identity import RunSpec
from harness.rng import Key
from harness.scene.cameras import evaluation
from harness.scene.cameras import make as cameras
from harness.sweep.request import Request
from harness.sweep.select import find_run, select

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from eval.runs import Runs as Evaluated

__all__ = ["Run", "Runs", "make_pack", "open_runs", "pack_views", "step"]


class Run:
    """One run's folder: what was asked, what it logged and showed, and its object."""

    def __init__(self, folder: RunFolder):
        self.folder = folder

    def __repr__(self) -> str:
        return f"<run {self.id}: {self.status}>"

    @property
    def id(self) -> str:
        """Its folder's name."""
        return self.folder.id

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.folder.path

    @property
    def status(self) -> str:
        """new, resume, running, done, failed, cancelled or damaged."""
        return self.folder.status()

    @cached_property
    def spec(self) -> RunSpec:
        """What was asked: `.label` (the method), `.prompt`, `.seed`, `.config`; UserError where it cannot be
        read."""
        return self.folder.spec()

    @property
    def metrics(self) -> pd.DataFrame:
        """What it logged, a row per logged step, by step."""
        rows = pd.DataFrame(self.folder.metrics())
        return rows.set_index("step") if "step" in rows else rows

    @property
    def steps(self) -> list[int]:
        """The steps after which its evaluation views are kept."""
        return self.folder.view_steps()

    def views(self, step: int | None = None) -> np.ndarray:
        """Its evaluation views after a step, the last by default, uint8 [V, H, W, 3]: a turn from the front
        on, then the held-out view if any. UserError where there are none."""
        if not self.steps:
            raise UserError(f"{self.id} has no views")
        at = self.steps[-1] if step is None else step
        if at not in self.steps:
            raise UserError(f"{self.id} has no views of step {at}; it has {', '.join(map(str, self.steps))}")
        return self.folder.views(at)

    @cached_property
    def _final(self) -> Final:
        return load(self.folder, pick_device("auto"))

    def render(
        self, azimuth: float = 0.0, elevation: float | None = None, distance: float | None = None
    ) -> np.ndarray:
        """The finished object from any side, in degrees and world units, decoded by its prior: uint8
        [H, W, 3]; from as high and as far as its evaluation views by default.

        Raises UserError for a picture, for a run that is not done, and where its prior is not here.
        """
        final, views = self._final, self.spec.config.views
        prior = load_prior(final)
        height = views.elevation if elevation is None else elevation
        seen = cameras([azimuth], [height], [distance or views.distance], [views.fov])
        return pictures(prior, latents(final, prior, seen)).numpy()[0]

    def mesh(self, resolution: int | None = None, components: int | None = None) -> trimesh.Trimesh:
        """The finished object's surface with the colours of its vertices: see `harness export`; `resolution`
        in cells along an axis, `components`: so many of its largest parts. UserError where it has none."""
        final = self._final
        made = surface(final, surface_level(final)[0], resolution, components)
        mesh, colours = made.mesh, made.colours
        rgb_N3 = (np.clip(colours.rgb_N3, 0, 1) * 255).round().astype(np.uint8)
        mesh.visual = ColorVisuals(mesh, vertex_colors=rgb_N3)
        return mesh


class Runs(Sequence[Run]):
    """The runs of a folder, by their ids; `evaluated` is them as tables and figures read them."""

    def __init__(self, root: Path, runs: Sequence[Run], clip: str = "toy-clip", device: str = "auto"):
        self.root, self._runs, self._clip, self._device = root, list(runs), clip, device

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Run]: ...
    def __getitem__(self, index: int | slice) -> Run | Sequence[Run]:
        return self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def __repr__(self) -> str:
        return f"<{len(self)} runs of {self.root}>"

    def select(self, *words: str) -> Runs:
        """Those that fit every word, such as "method=tp_sds" or "prompt=bus": the words of every command.
        UserError where none does."""
        wanted = {folder.id for folder in select(self.root, words)}
        found = [run for run in self if run.id in wanted]
        if not found:
            raise UserError(f"none of these runs fits '{' '.join(words)}'")
        return Runs(self.root, found, self._clip, self._device)

    def find(self, *words: str) -> Run:
        """The one run that fits every word; UserError where it is none, or not one alone."""
        return Run(find_run(words, self.root))

    @property
    def table(self) -> pd.DataFrame:
        """A row per run: run, method, prompt, seed, steps, status; damaged ones have their id and status."""
        rows = []
        for run in self:
            look = run.folder.look()
            row: dict[str, Any] = {"run": run.id, "status": look.status}
            if look.spec is not None:
                spec = look.spec
                row |= {"method": spec.label, "prompt": spec.prompt, "seed": spec.seed}
                row |= {"steps": spec.config.steps}
            rows.append(row)
        return pd.DataFrame(rows, columns=["run", "method", "prompt", "seed", "steps", "status"])

    @cached_property
    def evaluated(self) -> Evaluated:
        """The ended ones with their scorer, as `eval` reads them; UserError where none has ended."""
        from harness.reproduce import evaluated_runs

        only = {run.id for run in self}
        return evaluated_runs(self.root, clip=self._clip, device=self._device, only=only)

    def scores(self, metric: str = "r_precision") -> pd.DataFrame:
        """A metric of each run, or of each prompt, as a frame; `harness metrics` lists them.

        Shares are 0…1. UserError for an unknown metric, and where the runs lack what it needs.
        """
        known = self.evaluated.metrics
        if metric not in known:
            raise UserError(f"no metric '{metric}'; there are {', '.join(known)}")
        return self.evaluated.of(known[metric]).frame

    def plot(self, axes: Axes | None = None) -> Axes:
        """R-Precision against the step with 95 % bands, on axes of yours or on new ones."""
        from matplotlib import pyplot

        from eval.figures.curves import draw_r_precision

        axes = axes or pyplot.subplots()[1]
        draw_r_precision(axes, self.evaluated)
        return axes


def open_runs(path: str | Path, clip: str = "toy-clip", device: str = "auto") -> Runs:
    """The runs of a folder; `clip` is the scorer of their views, as for `harness eval`.

    Raises UserError where the folder holds none.
    """
    root = Path(path).expanduser()
    runs = [Run(folder) for folder in run_folders(root)]
    if not runs:
        raise UserError(f"{root} holds no runs")
    return Runs(root, runs, clip, device)


def make_pack(
    prompts: str | Sequence[str],
    method: str | type[Method] = "uniform_sds",
    seeds: Sequence[int] = (0,),
    settings: Mapping[str, Any] | Sequence[str] = (),
    preset: str = "toy",
    device: str = "auto",
) -> Pack:
    """Every prompt × seed as one pack of fresh runs that nothing is written of; `step` advances it.

    method: a name as `--methods` takes it, or a class that is being written, at its default settings;
    settings: {"guidance.cfg_scale": 20}, or as `--set` takes them. Raises UserError for what does not fit.
    """
    texts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    name = method if isinstance(method, str) else "uniform_sds"
    changes = overrides(settings) if isinstance(settings, Mapping) else settings
    request = Request(None, methods=name, texts=texts, preset=preset, settings=tuple(changes))
    _, specs = request.resolve(say=lambda line: None)
    if len({spec.label for spec in specs}) > 1:
        raise UserError(f"a pack has one method, not {', '.join(sorted({spec.label for spec in specs}))}")
    config = specs[0].config
    guidance = load_guidance(config, torch.device(pick_device(device)))
    check_resolution(config, guidance)
    asked = (specs[0].method, specs[0].params) if isinstance(method, str) else (method, {})
    made = make_method(config, guidance, *asked)
    keys = [Key(spec.prompt, seed) for spec in specs for seed in seeds]
    return assembled(config, guidance, made, keys, "auto")


def pack_views(pack: Pack) -> np.ndarray:
    """What the evaluation cameras see of every run of a pack now, uint8 [R, V, H, W, 3]."""
    latents_RVCHW = evaluation_latents(pack, evaluation(pack.config.views), range(len(pack.keys)))
    seen = pictures(pack.guidance, latents_RVCHW.flatten(0, 1)).numpy()
    return seen.reshape(*latents_RVCHW.shape[:2], *seen.shape[1:])
