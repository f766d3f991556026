"""The Triton field and renderer against their torch reference; without a GPU in its interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.config import SceneConfig
from tests.scene.test_field import advance, agree, gradients_agree

pytest.importorskip("triton")


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(
    "cfg",
    [
        SceneConfig(samples=7),
        SceneConfig(
            levels=3, features=3, hidden=37, samples=5, background="learned", entropy=0.1, sparsity=0.1
        ),
        SceneConfig(levels=5, features=1, hidden=3, samples=9, bound=0.7, base_resolution=1),
    ],
    ids=["toy", "odd sizes", "small"],
)
def test_fused_equals_the_reference_in_value_and_gradient(cfg: SceneConfig) -> None:
    ours, ours_params = advance(cfg, "triton", [0, 1, 2], H=7, W=3, device=DEVICE)
    reference, reference_params = advance(cfg, "torch", [0, 1, 2], H=7, W=3)
    for name in ("x_RCHW", "opacity_RHW", "weights_RPS", "depth_RHW"):
        agree(getattr(ours, name).cpu(), getattr(reference, name))
    for name, value in ours_params.items():
        assert value.grad is not None
        gradients_agree(value.grad.cpu(), reference_params[name].grad)


def test_deterministic_is_the_same_gradient() -> None:
    cfg = SceneConfig(levels=3, samples=6)
    _, loose = advance(cfg, "triton", [0, 1], H=5, W=3, device=DEVICE)
    torch.use_deterministic_algorithms(True)
    try:
        _, params = advance(cfg, "triton", [0, 1], H=5, W=3, device=DEVICE)
        _, again = advance(cfg, "triton", [1, 0], H=5, W=3, device=DEVICE)
    finally:
        torch.use_deterministic_algorithms(False)
    for name, value in params.items():
        gradients_agree(value.grad, loose[name].grad)
        assert value.grad is not None and torch.equal(value.grad.flip(0), again[name].grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_a_gpu_where_there_is_none(capability: int, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.scene.compile_kernels", str(capability)],
        capture_output=True,
        text=True,
        env=env | {"TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    sizes = dict(line.split() for line in done.stdout.splitlines())
    assert len(sizes) == 7 and all(int(size) > 1000 for size in sizes.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_at_the_papers_size_on_a_gpu() -> None:
    cfg = SceneConfig(
        levels=16,
        log2_hashmap=19,
        base_resolution=16,
        growth=1.3819,
        hidden=64,
        density_radius=0.2,
        samples=64,
    )
    ours, ours_params = advance(cfg, "triton", [0, 1], H=64, W=64, device="cuda")
    reference, reference_params = advance(cfg, "torch", [0, 1], H=64, W=64, device="cuda")
    agree(ours.x_RCHW, reference.x_RCHW)
    for name, value in ours_params.items():
        gradients_agree(value.grad, reference_params[name].grad)
