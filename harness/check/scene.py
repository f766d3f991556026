"""What every kind of scene keeps, tried on one of them. The tests try the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from harness import rng
from harness.check.runs import KEYS, demand, made, tiny_prior, unbroken
from harness.config import Config, Execution
from harness.distill.runner import advance
from harness.objects.export import export_mesh
from harness.objects.final import load
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, hashed
from harness.scene.cameras import make
from harness.scene.contract import Draws, Params, Scene, View
from harness.scene.kind import channels_of, load_kind, make_scene, settle
from harness.sweep.grid import choose_methods

STEPS = 7
SIDE = 8  # of a tiny prior's latents
METHOD = "uniform_sds"
CAMERAS = make([10.0, 200.0], [20.0, 50.0], [2.8, 2.5], [40.0, 40.0])
# The largest relative error of a gradient against differences, and their half width.
DOUBLE, SINGLE = (1e-4, 1e-7), (3e-2, 1e-3)
SMALL = ("resolution=8", "samples=8", "levels=4", "log2_hashmap=8", "hidden=8")


@dataclass(frozen=True)
class Trial:
    """A kind of scene, with settings `key=value` of `--set`, and a folder for what is tried with it."""

    kind: str
    folder: Path
    settings: Sequence[str] = ()
    scenes_dirs: tuple[str, ...] = ()

    @cached_property
    def config(self) -> Config:
        """A small scene of the kind, for a prior with random weights."""
        items = [f"scene.kind={self.kind}", *(f"scene.{item}" for item in SMALL), *self.settings]
        one_view = [] if self.scene_class.has_sides else ["views.azimuths=1", "views.heldout_elevation=none"]
        return settle(Config(steps=STEPS), ["views.count=3", "views.azimuths=2", *one_view, *items])

    @property
    def scene_class(self) -> type[Scene]:
        """The kind's class."""
        return load_kind(self.kind)

    def scene(self, encoder: str = "auto", channels: int = 4) -> Scene:
        """The scene on the CPU."""
        return make_scene(self.config.scene, channels, "cpu", encoder)


def fresh(scene: Scene, rows: Sequence[int] = (0, 1)) -> Params:
    """New parameters of some of KEYS."""
    return scene.init([KEYS[r] for r in rows], torch.full((len(rows), scene.channels), 0.3))


def _row(params: Params, r: int) -> Params:
    return {name: value[r : r + 1].clone() for name, value in params.items()}


def draws(rows: Sequence[int]) -> Draws:
    """Uniform draws for some of KEYS, the same at every call."""
    return lambda shape: rng.uniform([KEYS[r] for r in rows], [1] * len(rows), "render", shape)


def view(
    scene: Scene,
    params: Params,
    rows: Sequence[int] = (0, 1),
    training: bool = False,
    side: int | None = None,
) -> View:
    """What some of KEYS show their cameras."""
    flat_RC = torch.full((len(rows), scene.channels), 0.3)
    return scene.view(params, CAMERAS[list(rows)], flat_RC, draws(rows) if training else None, side=side)


def check_settings(trial: Trial) -> None:
    """Defaults fit; settling a configuration again changes nothing; what is at its default is in no id."""
    config = trial.config
    demand(settle(config) == config, "settling the configuration again changes it")
    own = set(
        hashed(RunSpec(method=METHOD, prompt="p", seed=0, config=config))["config"]["scene"].get("own", {})
    )
    demand(own == set(config.scene.own_set), f"an id takes {own}, and {config.scene.own_set} differ")


def check_fresh_parameters(trial: Trial) -> None:
    """Float32 on the CPU, finite, a run's own; their shapes tell the number of channels."""
    scene = trial.scene()
    params = fresh(scene)
    demand(bool(params), "init returned no parameters")
    for r in (0, 1):
        for name, value in fresh(scene, [r]).items():
            demand(
                value.dtype == torch.float32 and value.device.type == "cpu",
                f"{name} is no float32 on the CPU",
            )
            demand(torch.isfinite(value).all(), f"{name} is not finite")
            demand(torch.equal(value[0], params[name][r]), f"{name} depends on the other runs of the pack")
    for channels in (3, 4):
        one = fresh(trial.scene(channels=channels), [0])
        demand(channels_of(trial.config.scene, one) == channels, f"shapes do not tell {channels} channels")


def check_views(trial: Trial) -> None:
    """Of the right shapes, finite, without draws the same again; a run's the same in any pack."""
    scene, side = trial.scene(), trial.config.scene.resolution
    params = fresh(scene)
    for training in (False, True):
        seen = view(scene, params, training=training)
        told = "a training view" if training else "a view"
        demand(seen.x_RCHW.shape == (2, scene.channels, side, side), f"{told} is {list(seen.x_RCHW.shape)}")
        for name, value in {"x": seen.x_RCHW, **seen.maps_R, **seen.penalties_R}.items():
            demand(len(value) == 2, f"{told}'s {name} has no leading run dimension")
            demand(torch.isfinite(value).all(), f"{told}'s {name} is not finite")
            for r in (0, 1):
                alone = view(scene, _row(params, r), [r], training)
                own = {"x": alone.x_RCHW, **alone.maps_R, **alone.penalties_R}[name]
                demand(
                    torch.equal(own[0], value[r]), f"{told}'s {name} depends on the other runs of the pack"
                )
        if seen.opacity_RHW is not None:
            low, high = float(seen.opacity_RHW.min()), float(seen.opacity_RHW.max())
            demand(low >= -1e-5 and high <= 1 + 1e-5, f"opacity is {low:g}…{high:g}")
    plain = view(scene, params)
    demand(not plain.penalties_R, "a view without draws has penalties")
    demand(
        torch.equal(plain.x_RCHW, view(scene, params).x_RCHW), "a view without draws is not the same again"
    )
    if scene.has_sides:
        demand(plain.opacity_RHW is not None and plain.depth_RHW is not None, "a view lacks opacity or depth")
        larger = view(scene, params, side=2 * side)
        demand(larger.x_RCHW.shape[2:] == (2 * side, 2 * side), "a view of another side has not that side")


def check_gradients(trial: Trial) -> None:
    """Of a training view and its penalties, against differences: in float64 where the kind computes in it."""
    scene = trial.scene("torch")
    params = {name: value.double() for name, value in fresh(scene).items()}
    generator = torch.Generator().manual_seed(0)
    weight_RCHW = torch.randn(view(scene, params).x_RCHW.shape, generator=generator)

    def loss(params: Params) -> Tensor:
        seen = view(scene, params, training=True)
        return (seen.x_RCHW * weight_RCHW).sum() + sum(seen.penalties_R.values(), torch.zeros(())).sum()

    def gradients() -> tuple[Tensor, dict[str, Tensor]]:
        wanted = {name: value.clone().requires_grad_() for name, value in params.items()}
        total = loss(wanted)
        found = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
        return total, {name: grad for name, grad in zip(wanted, found, strict=True) if grad is not None}

    _, found = gradients()
    demand(bool(found), "no parameter has a gradient")
    for name in found:  # away from where it begins: a fresh network's units are all at their kinks
        away = torch.randn(params[name].shape, generator=generator)
        params[name] = params[name] + 0.1 * away.double()
    total, found = gradients()
    tolerance, step = DOUBLE if total.dtype == torch.float64 else SINGLE
    for name, grad in found.items():
        value = params[name]
        way = torch.randn(value.shape, generator=generator).double()
        there, back = (loss({**params, name: value + sign * step * way}) for sign in (1, -1))
        expected, got = float((there - back) / (2 * step)), float((grad * way).sum())
        scale = max(abs(expected), abs(got), 1e-3 * float(grad.norm() * way.norm()), 1e-9)
        off = abs(expected - got) / scale
        demand(off <= tolerance, f"{name}: the gradient is {got:.6g}, and differences say {expected:.6g}")


def check_points(trial: Trial) -> None:
    """Density or distance and latent at points, where the kind promises them; normals of length one."""
    scene = trial.scene()
    if scene.quantity is None:
        return
    params = fresh(scene)
    x_RN3 = (2 * rng.uniform(KEYS, [2, 2], "eval", (300, 3)) - 1) * 1.2 * scene.bound
    value_RN, latent_RNC = scene.query(params, x_RN3)
    demand(value_RN.shape == (2, 300), f"query's {scene.quantity} is {list(value_RN.shape)}")
    demand(latent_RNC.shape == (2, 300, scene.channels), f"query's latent is {list(latent_RNC.shape)}")
    demand(torch.isfinite(value_RN).all() and torch.isfinite(latent_RNC).all(), "query is not finite")
    if scene.quantity == "density":
        demand((value_RN >= 0).all(), "a density is below zero")
        outside_RN = (x_RN3.abs() > scene.bound).any(-1)
        demand((value_RN[outside_RN] == 0).all(), "a density outside the cube is not zero")
    one_RN, _ = scene.query(_row(params, 1), x_RN3[1:])
    demand(torch.equal(one_RN[0], value_RN[1]), "query depends on the rest of the pack")
    length_N = scene.normals(params, 0.5 * x_RN3).norm(dim=-1)
    demand(
        (length_N <= 1 + 1e-4).all() and (length_N > 0.99).float().mean() > 0.5, "normals have not length one"
    )


def check_runs(trial: Trial) -> None:
    """Runs in a pack, alone, and stopped and resumed: the same bits, and every number finite."""
    execution = Execution(
        wandb="disabled", checkpoint_every=3, log_every=2, device="cpu", scenes_dirs=trial.scenes_dirs
    )
    unbroken(lambda root: _made(trial, root), trial.folder, execution)


def check_objects(trial: Trial) -> None:
    """A finished run as a mesh and as a surface with normals, where the kind has sides."""
    if trial.scene_class.quantity is None:
        return
    [folder] = _made(trial, trial.folder / "object", 1)
    advance(
        folder.path.parent,
        [folder.id],
        Execution(wandb="disabled", device="cpu", scenes_dirs=trial.scenes_dirs),
    )
    final = load(folder)
    _, about = export_mesh(final, "ply", resolution=32)
    demand(about["faces"] > 0 and about["watertight"], "the mesh is not watertight")
    seen = final.scene.surface(final.params, CAMERAS[:1], 16, normals=True)
    demand(seen.normals_P3 is not None and seen.normals_P3.shape == (256, 3), "a surface lacks normals")
    demand(all(torch.isfinite(value).all() for value in vars(seen).values()), "a surface is not finite")


CHECKS: Mapping[str, Callable[[Trial], None]] = {
    "settings": check_settings,
    "fresh parameters": check_fresh_parameters,
    "views": check_views,
    "gradients": check_gradients,
    "points": check_points,
    "runs": check_runs,
    "objects": check_objects,
}


def _made(trial: Trial, root: Path, runs: int = 2) -> list[RunFolder]:
    guidance = {"prior": str(tiny_prior(trial.folder)), "dtype": "float32", "microbatch": 4}
    config = trial.config.model_copy(update={"guidance": trial.config.guidance.model_copy(update=guidance)})
    [chosen] = choose_methods(METHOD, [])
    return made(root, config, chosen, KEYS[:runs])
