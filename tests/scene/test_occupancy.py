"""The occupancy grid: what it calls empty, and that nothing else changes."""

import torch

from harness import rng
from harness.config import SceneConfig
from harness.scene import cameras, occupancy
from harness.scene.kinds.field import HashField

CFG = SceneConfig(occupancy=24, density_bias=10.0, density_radius=0.3, samples=24)
TOTAL = torch.tensor([99, 99])
KEYS = [rng.Key("a cup", 3), rng.Key("a car", 4)]


def looked(cfg: SceneConfig, encoder: str = "torch") -> tuple[HashField, dict, dict]:
    scene = HashField(cfg, 4, encoder)
    params, state = scene.init(KEYS, torch.zeros(2, 4)), scene.state(2)
    draws = lambda shape: rng.uniform(KEYS, [1, 1], "occupancy", shape)  # noqa: E731
    scene.before_step(params, state, torch.tensor([1, 1]), TOTAL, draws)
    return scene, params, state


def test_a_cell_is_occupied_where_the_density_is() -> None:
    scene, params, state = looked(CFG)
    x_RN3 = rng.uniform(KEYS, [0, 0], "eval", (500, 3)) * 2 - 1
    kept_RN = occupancy.kept(CFG, state, x_RN3)
    density_RN, _ = scene.query(params, x_RN3)
    cell = 2 * 2 / CFG.occupancy * 3**0.5  # two cells' diagonal
    radius_RN = x_RN3.norm(dim=-1)
    edge = radius_RN[density_RN >= CFG.occupancy_density].max()
    assert kept_RN[radius_RN < edge - cell].all() and not kept_RN[radius_RN > edge + cell].any()
    assert 0.02 < kept_RN.float().mean() < 0.7


def test_only_runs_that_are_due_look_and_a_cell_forgets_slowly() -> None:
    scene, params, state = looked(CFG)
    before = state["density"].clone()
    thin = {name: value * 0 for name, value in params.items()} | {"b2": params["b2"] - 20}
    step_R = torch.tensor([1 + CFG.occupancy_every, CFG.occupancy_every])
    scene.before_step(thin, state, step_R, TOTAL, lambda shape: rng.uniform(KEYS, [2, 2], "occupancy", shape))
    assert torch.equal(state["density"][1], before[1])
    assert torch.allclose(state["density"][0], occupancy.DECAY * before[0], atol=1e-3)


def test_what_is_left_out_is_hardly_seen_and_evaluation_leaves_nothing_out() -> None:
    scene, params, state = looked(CFG)
    seen = cameras.make([10.0, 200.0], [20.0, 40.0], [2.8, 2.8], [40.0, 40.0])
    draws = lambda shape: rng.uniform(KEYS, [1, 1], "render", shape)  # noqa: E731
    behind = torch.ones(2, 4)
    full = scene.view(params, seen, behind, draws).x_RCHW
    pruned = scene.view(params, seen, behind, draws, state).x_RCHW
    assert 0 < (full - pruned).abs().max() < 0.3 * CFG.occupancy_density
    assert torch.equal(
        scene.view(params, seen, behind, None).x_RCHW, scene.view(params, seen, behind, None).x_RCHW
    )


def test_both_encoders_leave_out_the_same() -> None:
    found = []
    for encoder in ("numba", "torch"):
        scene, params, state = looked(CFG, encoder)
        seen = cameras.make([10.0, 200.0], [20.0, 40.0], [2.8, 2.8], [40.0, 40.0])
        draws = lambda shape: rng.uniform(KEYS, [1, 1], "render", shape)  # noqa: E731
        found.append(scene.view(params, seen, torch.ones(2, 4), draws, state).x_RCHW)
    assert torch.allclose(*found, atol=1e-4)
