"""VSD: in place of the noise, what low-rank updates of the prior have learned of the run's own renders."""

from typing import ClassVar

import torch
from pydantic import Field

from harness.distill.learning import Decay, Learner, linear
from harness.distill.method import GradientContext, Method, MethodParams
from harness.guidance.lora import TIME, fresh


class Params(MethodParams):
    """`rank`: of the updates φ; `lr`, `betas`, `eps`, `weight_decay`: of their AdamW. They know the camera
    (`camera`) except in a share `dropout` of the steps, and learn at any t, or at the step's (`tied`). From
    the share `late` of the run on t stays below `late_t_max` of T."""

    rank: int = Field(default=4, ge=1)
    lr: float = Field(default=1e-4, gt=0)
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    eps: float = Field(default=1e-15, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    camera: bool = True
    dropout: float = Field(default=0.1, ge=0, le=1)
    tied: bool = False
    late: float = Field(default=0.2, ge=0, le=1)
    late_t_max: float = Field(default=0.5, gt=0, le=1)


class VariationalScoreDistillation(Method):
    Params = Params
    presets: ClassVar = {"one_stage": {"late": 1.0}}
    nfe = 4  # without and with the prompt; ε_φ; ε_φ once more, to learn
    recommended: ClassVar = {"guidance.cfg_scale": 7.5, "guidance.weighting": "sds"}

    def timesteps(self, step_R, total_R, draws_R):
        p = self.params
        return self.two_stages(step_R, total_R, draws_R, p.late, p.late_t_max)

    def gradient(self, ctx: GradientContext):
        eps_phi = self._phi(ctx, ctx.x_t_RCHW, ctx.t_R, ctx.c2w_R44)
        self._learn(ctx)
        return self.weight(ctx.t_R)[:, None, None, None] * (ctx.eps_RCHW - eps_phi)

    def _learn(self, ctx: GradientContext) -> None:
        """One update of φ by ‖ε_φ(x_t', t', y, c) − ε'‖²."""
        last = len(self.noise.alphas_cumprod_T) - 1
        t_R = (ctx.uniform("phi t") * (last + 1)).long().clamp(max=last)
        t_R = ctx.t_R if self.params.tied else t_R
        noise = ctx.normal("phi noise")
        seen_R = (ctx.uniform("phi camera") >= self.params.dropout).float()
        x_t = ctx.add_noise(ctx.x_RCHW, noise, t_R)
        error = self._phi(ctx, x_t, t_R, ctx.c2w_R44 * seen_R[:, None, None], grad=True) - noise
        loss_R = error.square().mean((1, 2, 3))
        self.phi.descend(loss_R)
        ctx.log("phi_loss", ctx.each(lambda own: own.square().mean((1, 2, 3)), error.detach()))

    def _phi(self, ctx: GradientContext, x_t, t_R, c2w_R44, grad: bool = False):
        """ε_φ with the prompt without the words of its view, and the camera added to the embedding of t."""
        updates = {name: value for name, value in self.phi.params.items() if not name.startswith("camera.")}
        if self.params.camera:
            layers = [self.phi.params[f"camera.{name}"] for name in ("w1", "b1", "w2", "b2")]
            updates[TIME] = ctx.each(_embedded, c2w_R44.flatten(1), *layers)
        return ctx.predict(x_t, t_R, ctx.plain_RLD, updates=updates, grad=grad)

    def initial_state(self, keys, shapes):
        own = fresh(keys, shapes.linears, self.params.rank)
        if self.params.camera:
            own["camera.w1"], own["camera.b1"] = linear(keys, "camera 1", 16, shapes.time)
            own["camera.w2"], own["camera.b2"] = linear(keys, "camera 2", shapes.time, shapes.time)
        return Learner.begin(own)

    def state(self):
        return self.phi.state()

    def load_state(self, tensors):
        p = self.params
        self.phi = Learner(p.lr, p.betas, p.eps, p.weight_decay)
        self.phi.load_state(tensors)


def _embedded(c_RI, w1_RDI, b1_RD, w2_RDD, b2_RD):
    """Two layers with a SiLU between them, as the embedding of t has."""
    hidden_RD1 = torch.baddbmm(b1_RD[..., None], w1_RDI, c_RI[..., None])
    return torch.baddbmm(b2_RD[..., None], w2_RDD, torch.nn.functional.silu(hidden_RD1))[..., 0]
