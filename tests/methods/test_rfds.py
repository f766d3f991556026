"""RFDS and RFDS-Rev against their definitions (arXiv 2406.03293), written with a flow's own velocity."""

from collections.abc import Callable

import torch
from torch import Tensor

from harness.guidance.prior import Guidance
from tests.methods import plain


class Flow:
    """x_s = s·ε + (1−s)·x and the velocity v towards noise: the transformer's own for a flow, and for
    others x_s and v of the same ε̂ and signal-to-noise ratio."""

    def __init__(self, run: plain.Run, t: int):
        self.run, self.t = run, t
        self.is_flow = run.prior.prediction_type == "flow"
        if self.is_flow:
            self.s = float(run.prior.family.parts.scheduler.sigmas.double().sort().values[t])
        else:
            self.s = run.q(t) / (run.a(t) + run.q(t))

    def at(self, noise: Tensor) -> Tensor:
        return self.s * noise + (1 - self.s) * self.run.x

    def velocity(self, x_s: Tensor, text: str) -> Tensor:
        run, t, s = self.run, self.t, self.s
        run.nfe += self.is_flow
        if self.is_flow:
            cond = run.prior.embed([text])
            with torch.no_grad():
                return run.prior.family.denoise(x_s.float()[None], torch.tensor([t]), cond)[0].double()
        eps = run.eps(x_s / ((1 - s) ** 2 + s**2) ** 0.5, t, text)
        return eps - (x_s - s * eps) / (1 - s)

    def guided(self, x_s: Tensor) -> Tensor:
        null = self.velocity(x_s, "")
        return null + 7.5 * (self.velocity(x_s, self.run.prompt) - null)


def test_a_step(any_prior: Guidance) -> None:
    def definition(run: plain.Run, t: int) -> Tensor:
        flow = Flow(run, t)
        weight = run.normal("weight", 1, 1, 1).sigmoid()
        return weight * (flow.guided(flow.at(run.noise)) - (run.noise - run.x))

    ctx = plain.context(any_prior, [100, 500, 900])
    assert plain.check(plain.made("rfds", any_prior), any_prior, ctx, definition) == [2, 2, 2]


def test_a_step_of_weight_one(prior: Guidance) -> None:
    def definition(run: plain.Run, t: int) -> Tensor:
        flow = Flow(run, t)
        return flow.guided(flow.at(run.noise)) - (run.noise - run.x)

    ctx = plain.context(prior, [100, 500, 900])
    plain.check(plain.made("rfds", prior, preset="instaflow"), prior, ctx, definition)


def reversed_flow(whole: bool) -> Callable[[plain.Run, int], Tensor]:
    def definition(run: plain.Run, t: int) -> Tensor:
        flow = Flow(run, t)
        stride = 1 if whole else 1 - flow.s
        noise = run.noise + stride * (flow.velocity(flow.at(run.noise), run.prompt) + run.x - run.noise)
        return flow.guided(flow.at(noise)) - (noise - run.x)

    return definition


def test_a_reversed_step(any_prior: Guidance) -> None:
    ctx = plain.context(any_prior, [100, 500, 900])
    assert plain.check(plain.made("rfds_rev", any_prior), any_prior, ctx, reversed_flow(False)) == [3, 3, 3]


def test_a_reversed_step_of_stride_one(prior: Guidance) -> None:
    ctx = plain.context(prior, [100, 500, 900])
    plain.check(plain.made("rfds_rev", prior, preset="instaflow"), prior, ctx, reversed_flow(True))
