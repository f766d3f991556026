"""Gradient maps: ‖ε̂ − ε‖ over step and timestep, DreamTime's figure 3 as numbers.

For a run's kept parameters after a step: its front evaluation view x, x_t = √ᾱ_t·x + √(1−ᾱ_t)·ε, ε̂ with the
run's own guidance; mean and variance over draws of ε of the norm per element, ‖ε̂ − ε‖/√n, which for w = 1 is
the size of the SDS gradient at x. Only runs swept with --keep-params have more than their last step.
"""

from __future__ import annotations

import json
from functools import cached_property

import pandas as pd
import torch
from typing_extensions import TypedDict

from eval.metric import PARAMETERS, Metric
from eval.sources.load import RunRecord
from harness import rng
from harness.config import first_line
from harness.guidance.prior import Guidance, held
from harness.guidance.views import view_name, view_prompt
from harness.records.files import write_cache
from harness.records.reader import RecordError
from harness.scene.cameras import evaluation
from harness.scene.kind import make_scene

VERSION = 3
TIMESTEPS = 10  # evenly spaced over the run's range, ends included
DRAWS = 8  # of the noise


class Row(TypedDict):
    """One cell of a map."""

    step: int
    t: int
    mean: float
    variance: float


def kept_steps(run: RunRecord) -> list[int]:
    """The steps whose parameters can be had, rising."""
    last = [run.total] if run.status == "done" else []
    return sorted({*run.folder.params_steps(), *last})


def gradient_map(run: RunRecord, guidance: Guidance) -> list[Row]:
    """Every cell of one run's map; cached in `<run>/eval/gradients-v<version>.json`."""
    name = f"{run.folder.eval.name}/gradients-v{VERSION}.json"
    steps, kept = kept_steps(run), run.folder.json(name)
    if (
        isinstance(kept, dict)
        and kept.get("weights") == guidance.content_hash
        and {row["step"] for row in kept["rows"]} == set(steps)
    ):
        return kept["rows"]
    rows = [row for step in steps for row in _at(run, step, guidance)]
    write_cache(run.path / name, json.dumps({"weights": guidance.content_hash, "rows": rows}).encode())
    return rows


@torch.no_grad()
def _at(run: RunRecord, step: int, guidance: Guidance) -> list[Row]:
    params = run.folder.load_params(step)
    if params is None:
        return []
    config = run.config
    scene = make_scene(config.scene, guidance.latent_shape[0], str(guidance.device))
    cameras = evaluation(config.views)[:1]
    stacked = {name: value[None].to(guidance.device) for name, value in params.items()}
    background_1C = guidance.flat_code(config.scene.background_rgb)[None]
    x_1CHW = scene.view(stacked, cameras, background_1C, None).x_RCHW
    name, camera = "front", config.camera
    if scene.has_sides:
        name = view_name(0.0, config.views.elevation, camera.front_sector, camera.overhead)
    cond_1LD = guidance.embed([view_prompt(config.guidance.view_prompt, run.prompt, name)])
    keys = [rng.Key(run.prompt, run.seed)] * DRAWS
    noise_DCHW = rng.normal(keys, range(DRAWS), "eval", x_1CHW.shape[1:]).to(guidance.device)
    low, high = guidance.t_range
    rows: list[Row] = []
    for k in range(TIMESTEPS):
        t = low + round((high - low) * k / (TIMESTEPS - 1))
        t_D = torch.full((DRAWS,), t)
        x_t_DCHW = guidance.add_noise(x_1CHW.expand_as(noise_DCHW), noise_DCHW, t_D)
        eps_DCHW = guidance.cfg_noise(*guidance.predict_noise(x_t_DCHW, t_D, cond_1LD.expand(DRAWS, -1, -1)))
        norm_D = (eps_DCHW - noise_DCHW).flatten(1).square().mean(1).sqrt()
        rows.append({"step": step, "t": t, "mean": float(norm_D.mean()), "variance": float(norm_D.var())})
    return rows


class Gradients(Metric):
    """A figure's numbers; they have no table."""

    version = VERSION
    needs = (PARAMETERS,)
    shown = ()

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Every cell: run, method, prompt, seed, total, step, t, mean, variance; of the runs that kept the
        parameters of every evaluated step, empty where none did."""
        kept = [run for run in self.runs if len(run.folder.params_steps()) > 1]
        rows = []
        where = str(self.runs.clip.device) if kept else "cpu"
        kept.sort(key=lambda run: run.config.guidance.model_dump_json())  # one prior is held at a time
        for run in self.runs.track(kept, "gradients"):
            try:
                found = gradient_map(run, held(run.config.guidance, where, local_files_only=True))
            except RecordError as error:
                self.runs.note(f"left out of the gradients: {run.run_id}: {first_line(error)}")
                continue
            rows += [self.runs.about(run) | row for row in found]
        columns = ["run", "method", "prompt", "seed", "total", "step", "t", "mean", "variance"]
        return pd.DataFrame(rows, columns=columns)
