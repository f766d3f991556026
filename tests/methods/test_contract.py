"""What `harness check-method` demands, of every method folder and preset: none is left out."""

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.check.method import CHECKS, Trial
from harness.distill.method import discover, load_method, new_method
from harness.records.folder import RunFolder
from tests import tinyruns

FOUND = [
    name if preset is None else f"{name}:{preset}"
    for name in discover()
    for preset in (None, *load_method(name).presets)
]
SCAFFOLD, SCHEDULE = "made_by_new_method", "made_by_new_method_schedule"
LEARNS = '''"""A small VSD: low-rank updates and an embedding of the camera learn the score of the renders."""

import torch

from harness.distill.learning import Learner
from harness.distill.method import GradientContext, Method
from harness.guidance import lora


class Learns(Method):
    nfe = 4

    def initial_state(self, keys, shapes):
        own = lora.fresh(keys, shapes.linears, 2, r"attn2.to_(k|v)$")
        return Learner.begin(own | {"camera": torch.zeros(len(keys), shapes.time, 16)})

    def state(self):
        return self.phi.state()

    def load_state(self, tensors):
        self.phi = Learner(lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)
        self.phi.load_state(tensors)

    def predict(self, ctx: GradientContext, x_t, t, grad):
        own = dict(self.phi.params)
        embedded = ctx.each(lambda w, c2w: (w @ c2w.view(1, 16, 1))[..., 0], own.pop("camera"), ctx.c2w_R44)
        return ctx.predict(x_t, t, ctx.plain_RLD, updates=own | {lora.TIME: embedded}, grad=grad)

    def gradient(self, ctx: GradientContext):
        g = self.weight(ctx.t_R)[:, None, None, None] * (
            ctx.eps_RCHW - self.predict(ctx, ctx.x_t_RCHW, ctx.t_R, grad=False)
        )
        t, noise = (ctx.uniform("t") * 1000).long(), ctx.normal("noise")
        learned = self.predict(ctx, ctx.add_noise(ctx.x_RCHW, noise, t), t, grad=True)
        loss = (learned - noise).square()
        self.phi.descend(loss.mean((1, 2, 3)))
        ctx.log("phi", ctx.each(lambda own: own.mean((1, 2, 3)), loss.detach()))
        ctx.log("moved", self.phi.params["camera"].detach().abs().amax((1, 2)))
        return g
'''


@pytest.fixture(scope="module")
def methods_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    new_method(SCAFFOLD, folder)
    new_method(SCHEDULE, folder, schedule=True)
    (folder / "learns").mkdir()
    (folder / "learns" / "method.py").write_text(LEARNS)
    return folder


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize(
    "method", [*FOUND, SCAFFOLD, SCHEDULE, f"{SCAFFOLD}@{SCHEDULE}", "learns", "learns@tp_sds"]
)
def test_contract(
    method: str, check: Callable[[Trial], None], methods_dir: Path, tiny_prior: Path, tmp_path: Path
) -> None:
    check(Trial(method, tmp_path, (methods_dir,), tiny_prior))


def test_a_run_logs_what_its_method_learned(methods_dir: Path, tiny_prior: Path, tmp_path: Path) -> None:
    [run] = tinyruns.create(tmp_path, tiny_prior, "learns", runs=1, methods_dirs=[methods_dir])
    tinyruns.run(tmp_path, [run], methods_dirs=(str(methods_dir),))
    rows = list(RunFolder(tmp_path / run).metrics())
    assert [row["step"] for row in rows] == [1, 2, 4, 5, 6, 7]
    assert all(row["moved"] > 0 for row in rows)
