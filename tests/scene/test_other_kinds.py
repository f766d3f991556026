"""The contract carries what no built-in kind needs: signed distances, and primitives that come and go."""

import pytest

from harness.check.scene import CHECKS, Trial
from harness.scene.kind import look_in

DISTANCE = '''"""A grid of signed distances, rendered as VolSDF does, with an eikonal term."""

import torch
from pydantic import Field
from torch.nn.functional import grid_sample

from harness import rng
from harness.scene.contract import SceneSettings, mean_by_run
from harness.scene.volume import VolumeScene

SIDE = 9


class Settings(SceneSettings):
    beta: float = Field(default=0.1, gt=0)
    eikonal: float = Field(default=0.1, ge=0)


class Distance(VolumeScene):
    Settings = Settings
    quantity = "distance"

    def init(self, keys, background_RC):
        axis = torch.linspace(-self.bound, self.bound, SIDE)
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        ball = ((x * x + y * y + z * z).sqrt() - 0.5).expand(len(keys), 1, -1, -1, -1).contiguous()
        colour = rng.normal(keys, [0] * len(keys), "init", (self.channels, SIDE, SIDE, SIDE))
        return {"distance": ball, "colour": 0.1 * colour}

    def _at(self, grid, x_RN3):
        at = (x_RN3 / self.bound).to(grid.dtype)[:, :, None, None]
        return grid_sample(grid, at, align_corners=True, padding_mode="border")[..., 0, 0].transpose(1, 2)

    def field(self, params, x_RN3):
        distance_RN1 = self._at(params["distance"], x_RN3)
        tail = 0.5 * torch.exp(-distance_RN1.abs() / self.own.beta)
        density_RN1 = torch.where(distance_RN1 > 0, tail, 1 - tail) / self.own.beta
        return torch.cat([density_RN1, self._at(params["colour"], x_RN3)], -1)

    def query(self, params, x_RN3):
        _, latent_RNC = super().query(params, x_RN3)
        runs = [self._at(params["distance"][r : r + 1], x_RN3[r : r + 1]) for r in range(len(x_RN3))]
        return torch.cat(runs)[..., 0], latent_RNC

    def penalties(self, params, out):
        step = 2 * self.bound / (SIDE - 1)
        inner = params["distance"][:, :, :-1, :-1, :-1]
        ahead = [params["distance"].roll(-1, d)[:, :, :-1, :-1, :-1] for d in (2, 3, 4)]
        slope = sum(((each - inner) / step).square() for each in ahead)
        eikonal_R = mean_by_run(((slope + 1e-9).sqrt() - 1).square())
        return super().penalties(params, out) | {"eikonal": self.own.eikonal * eikonal_R}
'''

SPLATS = '''"""Isotropic Gaussians, composited from front to back; some split, faint ones go."""

import torch

from harness import rng
from harness.scene.cameras import rays
from harness.scene.contract import Scene, SceneSettings, View, by_run
from harness.scene.regularisers import entropy


class Settings(SceneSettings):
    most: int = 12
    first: int = 6


class Splats(Scene):
    Settings = Settings
    reads = ("resolution", "bound", "samples", "entropy")
    quantity = "density"
    finest_cells = 16

    def init(self, keys, background_RC):
        u = rng.uniform(keys, [0] * len(keys), "init", (self.own.most, 3))
        rows = torch.arange(self.own.most)
        return {
            "mean": 0.6 * (2 * u - 1),
            "size": torch.full((len(keys), self.own.most), -1.2),
            "opacity": torch.full((len(keys), self.own.most), 2.0),
            "latent": rng.normal(keys, [1] * len(keys), "init", (self.own.most, self.channels)),
            "alive": (rows < self.own.first).float().repeat(len(keys), 1),
        }

    def learning_rates(self):
        return {"mean": 0.5}

    def state(self, runs):
        return {"pull": torch.zeros(runs, self.own.most)}

    def after_step(self, params, state, grads, moments, step_R, total_R, draws):
        state["pull"] += grads["mean"].abs().amax(-1)
        shift = 0.1 * (2 * draws((3,)) - 1)
        for r in (step_R % 3 == 0).nonzero()[:, 0].tolist():
            alive = params["alive"][r]
            free = (alive == 0).nonzero()[:, 0]
            if len(free):
                parent, child = (state["pull"][r] * alive).argmax(), free[0]
                for name in ("mean", "size", "opacity", "latent", "alive"):
                    params[name][r, child] = params[name][r, parent]
                    for moment in moments:
                        moment[name][r, child] = 0
                params["mean"][r, child] += shift[r]
            params["alive"][r] *= (params["opacity"][r] > -3).float()
            state["pull"][r] = 0

    def view(self, params, cameras, background_RC, draws=None, state=None, side=None):
        side = side or self.cfg.resolution
        origin_RP3, way_RP3 = rays(cameras, side, side, params["mean"].device)
        names = list(params)

        def shown(origin, way, background, *values):
            p = dict(zip(names, values, strict=True))
            offset = p["mean"][:, None] - origin[:, :, None]
            along = (offset * way[:, :, None]).sum(-1)
            miss = (offset.square().sum(-1) - along.square()).clamp(min=0)
            weight = torch.exp(-0.5 * miss * torch.exp(-2 * p["size"])[:, None])
            alpha = weight * torch.sigmoid(p["opacity"])[:, None] * p["alive"][:, None]
            order = along.argsort(dim=-1, stable=True)
            alpha, along = alpha.gather(-1, order), along.gather(-1, order)
            left = (1 - alpha).cumprod(-1)
            share = alpha * torch.cat([torch.ones_like(left[..., :1]), left[..., :-1]], -1)
            latent = p["latent"][:, None].expand(-1, way.shape[1], -1, -1)
            latent = latent.gather(2, order[..., None].expand(*order.shape, latent.shape[-1]))
            x = (share[..., None] * latent).sum(2) + left[..., -1:] * background[:, None]
            return x.transpose(1, 2), 1 - left[..., -1], (share * along).sum(-1)

        x, opacity, depth = by_run(shown, origin_RP3, way_RP3, background_RC, *params.values())
        opacity = opacity.unflatten(1, (side, side))
        terms = {"entropy": self.cfg.entropy * entropy(opacity)} if draws else {}
        depth = depth.unflatten(1, (side, side))
        return View(x.unflatten(2, (side, side)), opacity, depth, terms, {"alive": params["alive"]})

    def query(self, params, x_RN3):
        names = list(params)

        def at(x, *values):
            p = dict(zip(names, values, strict=True))
            away = (x[:, :, None] - p["mean"][:, None]).square().sum(-1)
            weight = torch.exp(-0.5 * away * torch.exp(-2 * p["size"])[:, None])
            weight = weight * (torch.sigmoid(p["opacity"]) * p["alive"])[:, None]
            latent = weight @ p["latent"] / weight.sum(-1, keepdim=True).clamp(min=1e-6)
            return weight.sum(-1) * (x.abs() <= self.bound).all(-1), latent

        return by_run(at, x_RN3, *params.values())
'''


@pytest.fixture(scope="module", params=[("distance", DISTANCE), ("splats", SPLATS)], ids=lambda kind: kind[0])
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    name, source = request.param
    folder = tmp_path_factory.mktemp(name)
    (folder / "scenes").mkdir()
    (folder / "scenes" / f"{name}.py").write_text(source)
    return Trial(name, folder, scenes_dirs=(str(folder / "scenes"),))


@pytest.mark.parametrize("check", CHECKS)
def test_contract(check: str, trial: Trial) -> None:
    look_in(trial.scenes_dirs)
    try:
        CHECKS[check](trial)
    finally:
        look_in([])
