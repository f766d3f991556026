"""The compiled denoiser: the same prediction, the same bits for any pack and any number of threads."""

import shutil
from pathlib import Path

import pytest
import torch

from harness.config import GuidanceConfig
from harness.guidance.prior import Guidance
from harness.threads import torch_threads

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler"),
]


def test_compiled_code_predicts_the_same_noise_for_any_pack(tiny_prior: Path) -> None:
    guidance = Guidance.load(GuidanceConfig(prior=str(tiny_prior), dtype="float32", microbatch=4))
    x = torch.randn(6, *guidance.latent_shape, generator=torch.Generator().manual_seed(0))
    t_R, cond = torch.arange(40, 940, 150), guidance.embed(["a red cup", "a bus"] * 3)
    eager = torch.stack(guidance.predict_noise(x, t_R, cond))
    guidance.compile()
    compiled = torch.stack(guidance.predict_noise(x, t_R, cond))
    assert not torch.equal(eager, compiled)  # else nothing was compiled
    assert (eager - compiled).norm() <= 1e-5 * eager.norm()
    some = torch.tensor([4, 0, 5])
    for threads in (1, 2):
        with torch_threads(threads):
            fewer = torch.stack(guidance.predict_noise(x[some], t_R[some], cond[some]))
        assert torch.equal(fewer, compiled[:, some])
