"""VSD against its definition (arXiv 2305.16213): a UNet for each run, whose projections are W + B·A."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from harness.distill.context import GradientContext
from harness.distill.method import Method
from harness.guidance.prior import Guidance
from tests.methods import plain

T, RUNS = [80, 500, 940], 3


class Phi:
    """ε_φ of one run, float64, in modules of its own; `learn` is torch's AdamW."""

    def __init__(self, prior: Guidance, state: dict[str, Tensor], r: int, lr: float):
        self.unet = copy.deepcopy(prior.family.denoiser).double()
        self.own = {
            name: value[r].double().requires_grad_()
            for name, value in state.items()
            if not name.startswith(("first.", "second.")) and name != "updates"
        }
        self.adam = torch.optim.AdamW(self.own.values(), lr, betas=(0.9, 0.99), eps=1e-15, weight_decay=0.01)
        self.text = prior.embed([plain.KEYS[r].prompt]).double()

    def __call__(self, x_t: Tensor, t: int, c2w: Tensor) -> Tensor:
        layers = {name.removesuffix(".down") for name in self.own if name.endswith(".down")}
        weights: dict[str, Tensor] = dict(self.unet.named_parameters())
        merged = {
            f"{name}.weight": weights[f"{name}.weight"] + self.own[f"{name}.up"] @ self.own[f"{name}.down"]
            for name in layers
        }
        hidden = F.silu(self.own["camera.w1"] @ c2w.double().flatten() + self.own["camera.b1"])
        embedded = self.own["camera.w2"] @ hidden + self.own["camera.b2"]
        time: nn.Module = self.unet.time_embedding

        def add(module: nn.Module, inputs: object, out: Tensor) -> Tensor:
            return out + embedded

        handle = time.register_forward_hook(add)
        try:
            called = (x_t.double()[None], torch.tensor([t]), self.text)
            return functional_call(self.unet, merged, called).sample[0]
        finally:
            handle.remove()

    def learn(self, run: plain.Run, c2w: Tensor, tied: int | None) -> float:
        t = math.floor(run.uniform("phi t") * 1000) if tied is None else tied
        noise = run.normal("phi noise")
        seen = run.uniform("phi camera") >= 0.1
        loss = (self(run.noised(run.x, noise, t), t, c2w * seen) - noise).square().mean()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return float(loss.detach())


def begun(prior: Guidance, **params: object) -> tuple[Method, dict[str, Tensor]]:
    method = plain.made("vsd", prior, **params)
    state = method.initial_state(plain.KEYS, prior.shapes)
    generator = torch.Generator().manual_seed(1)
    for name, value in state.items():  # updates that change something
        if name.endswith(".up") and not name.startswith(("first", "second")):
            value += 0.3 * torch.randn(value.shape, generator=generator)
    method.load_state({name: value.clone() for name, value in state.items()})
    return method, state


@pytest.mark.parametrize("tied", [False, True])
def test_a_step_and_what_it_learns(prior: Guidance, tied: bool) -> None:
    prior = plain.changed(prior, weighting="sds")
    method, state = begun(prior, lr=0.01, tied=tied)
    phis = [Phi(prior, state, r, 0.01) for r in range(RUNS)]
    for i in (5, 6):
        ctx: GradientContext = plain.context(prior, T, i=i)
        found = method.gradient(ctx)
        for r, phi in enumerate(phis):
            run, c2w = plain.Run(ctx, prior, r), ctx.c2w_R44[r]
            z = run.noised(run.x, run.noise, T[r])
            with torch.no_grad():
                expected = run.q(T[r]) ** 2 * (run.cfg(z, T[r]) - phi(z, T[r], c2w))
            assert float((found[r] - expected).abs().max() / expected.abs().max()) < 2e-3
            loss = phi.learn(run, c2w, T[r] if tied else None)
            assert float(ctx.logged_R["phi_loss"][r]) == pytest.approx(loss, rel=1e-3)
        assert ctx.nfe_R.tolist() == [4] * RUNS
    for r, phi in enumerate(phis):
        for name, value in phi.own.items():
            moved = (method.state()[name][r] - state[name][r]).double()
            # Adam's first steps are of one size: a gradient that is rounding alone may take them either way.
            agree = (moved - (value.detach() - state[name][r])).abs() < 2e-3
            assert float(agree.double().mean()) > 0.98, name


def test_fresh_updates_and_no_camera_are_the_prior_itself(prior: Guidance) -> None:
    method = plain.made("vsd", prior, camera=False)
    method.load_state(method.initial_state(plain.KEYS, prior.shapes))
    ctx = plain.context(prior, T)
    noise_free = ctx.predict(ctx.x_t_RCHW, ctx.t_R, ctx.plain_RLD)
    found, expected = method.gradient(ctx), ctx.eps_RCHW - noise_free
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_timesteps(prior: Guidance) -> None:
    method = plain.made("vsd", prior)
    assert plain.timesteps(method, [1, 4, 5, 20], 20, 0.999999) == [980, 980, 500, 500]
    one_stage = plain.made("vsd", prior, preset="one_stage")
    assert plain.timesteps(one_stage, [1, 20], 20, 0.999999) == [980, 980]
