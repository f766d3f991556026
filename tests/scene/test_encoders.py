"""The encoders: which one is taken, and tiny-cuda-nn's against the reference, by a stand-in and for real."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import rng
from harness.config import SceneConfig
from harness.scene import encoders, hashgrid, tcnn
from harness.scene.kinds.field import HashField
from tests.scene import tinycudann_standin
from tests.scene.test_field import parameters

grids = st.builds(
    SceneConfig,
    levels=st.integers(1, 8),
    features=st.sampled_from([1, 2, 4]),
    log2_hashmap=st.integers(5, 12),
    base_resolution=st.integers(2, 9),
    growth=st.floats(1.0, 1.7),
    hidden=st.just(8),
)


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "tinycudann", tinycudann_standin)
    tcnn._encoding.cache_clear()
    yield
    tcnn._encoding.cache_clear()


def compare(cfg: SceneConfig, tolerance: float, device: str = "cpu") -> None:
    """Values, and gradients of every parameter, beside the reference's."""
    keys = [rng.Key("a cup", seed) for seed in (0, 1)]
    x_RN3 = (rng.uniform(keys, [1, 1], "eval", (200, 3)) * 2 - 1).to(device)
    found = []
    for encoder in ("tinycudann", "torch"):
        field = HashField(cfg, 3, encoder)
        params = {name: value.detach().to(device) for name, value in parameters(field, [0, 1]).items()}
        for value in params.values():
            value.requires_grad_()
        density_RN, latent_RNC = field.query(params, x_RN3)
        (density_RN.square().sum() + latent_RNC.square().sum()).backward()
        found.append({"density": density_RN, "latent": latent_RNC} | {n: v.grad for n, v in params.items()})
    ours, reference = found
    for name, value in reference.items():
        if value is not None:
            assert (ours[name] - value).norm() <= tolerance * value.norm() + 1e-6, name


@settings(max_examples=30, deadline=None, derandomize=True)
@given(cfg=grids)
def test_tiny_cuda_nns_layout_is_ours(cfg: SceneConfig) -> None:
    grid = hashgrid.grid(cfg.levels, cfg.features, cfg.log2_hashmap, cfg.base_resolution, cfg.growth)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tinycudann", tinycudann_standin)
        tcnn._encoding.cache_clear()
        compare(cfg, 2e-3)
        encoding = tcnn._encoding(cfg.levels, cfg.features, cfg.log2_hashmap, cfg.base_resolution, cfg.growth)
    if tcnn.agrees(grid, cfg.base_resolution, cfg.growth):
        assert encoding.params.numel() == grid.entries * grid.features


def test_in_half_precision_it_is_near(standin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tinycudann_standin, "DTYPE", torch.float16)
    compare(SceneConfig(), 3e-2)


def test_a_grid_that_it_rounds_otherwise_is_left_to_torch(
    standin: None, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = SceneConfig(base_resolution=25, growth=1.2, levels=2, log2_hashmap=16)  # 30 nodes, in float32 31
    assert not tcnn.agrees(hashgrid.grid(2, 2, 16, 25, 1.2), 25, 1.2)
    compare(cfg, 1e-6)
    assert "using torch" in caplog.text


def test_a_table_of_another_size_is_refused(standin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = tcnn._encoding(4, 2, 10, 4, 1.45)
    encoding.params = torch.nn.Parameter(encoding.params[:-8].detach())
    grid = hashgrid.grid(4, 2, 10, 4, 1.45)
    with pytest.raises(ValueError, match="tiny-cuda-nn's table has"):
        tcnn.encode(grid, (4, 2, 10, 4, 1.45), torch.zeros(1, grid.entries, 2), torch.zeros(1, 5, 3))


@pytest.mark.skipif(tcnn.missing() is not None, reason=str(tcnn.missing()))
def test_tiny_cuda_nn_itself() -> None:
    compare(SceneConfig(), 3e-2, "cuda")


def test_the_fastest_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    both = {name: encoders.measured(name, "cpu", runs=2, rounds=3) for name in ("numba", "torch")}
    assert min(both, key=both.__getitem__) == encoders.fastest(["numba", "torch"], "cpu") == "numba"
    [store] = tmp_path.rglob("encoders.json")
    [key] = json.loads(store.read_text())
    monkeypatch.setattr(encoders, "measured", lambda *_: pytest.fail("it is known"))
    assert encoders.fastest(["numba", "torch"], "cpu") == "numba"
    store.write_text(json.dumps({key: [time.time(), "gone"]}))
    monkeypatch.setattr(encoders, "measured", lambda name, _: {"numba": 2.0, "torch": 1.0}[name])
    assert encoders.fastest(["numba", "torch"], "cpu") == "torch"


def test_auto_takes_what_was_measured_of_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    encoders.choose_encoder.cache_clear()
    asked: list[list[str]] = []
    monkeypatch.setattr(encoders, "fastest", lambda names, _: asked.append(list(names)) or names[-2])
    monkeypatch.setattr(encoders, "unavailable", lambda name: None)
    assert encoders.choose_encoder("cuda") == "tinycudann"
    assert encoders.choose_encoder("cpu") == "numba"
    monkeypatch.setattr(encoders, "unavailable", {"tinycudann": "it is not here"}.get)
    encoders.choose_encoder.cache_clear()
    assert encoders.choose_encoder("cuda") == "triton"
    assert asked == [["triton", "tinycudann", "torch"], ["triton", "torch"]]
    encoders.choose_encoder.cache_clear()
