"""Built-in kinds of scene against what their papers say, computed otherwise; test_contract has the rest."""

import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from eval.sources.samples import reconstructed
from harness import bench_scenes, fitted, rng
from harness.config import Config, UserError
from harness.console import Console
from harness.distill.assemble import load_guidance
from harness.scene import splats
from harness.scene.cameras import make, rays
from harness.scene.contract import Draws, Params, Scene
from harness.scene.kind import discover, make_scene, settle
from harness.scene.kinds.gaussians import SplatScene
from harness.scene.kinds.sdf import SignedDistance
from harness.scene.regularisers import variation
from harness.scene.volume import VolumeScene
from harness.toyworld.render import ground_truth

KEYS = [rng.Key("a red cup", 0), rng.Key("a blue bus", 1)]
FRONT = make([0.0], [0.0], [2.8], [40.0])
BEHIND_1C = torch.tensor([[0.5, -0.5, 0.25, 0.0]])


def scene_of(kind: str, *items: str, encoder: str = "torch") -> Scene:
    one_view = ["views.azimuths=1", "views.heldout_elevation=none"]
    config = settle(Config(), [f"scene.kind={kind}", *one_view, *(f"scene.{item}" for item in items)])
    return make_scene(config.scene, 4, "cpu", encoder)


def fresh(scene: Scene, runs: int = 1) -> Params:
    return scene.init(KEYS[:runs], BEHIND_1C.expand(runs, -1))


def points(runs: int = 1, count: int = 40) -> Tensor:
    return 1.8 * rng.uniform(KEYS[:runs], [1] * runs, "eval", (count, 3)) - 0.9


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


# ---- fields


def test_voxels_are_trilinear_between_their_corners() -> None:
    scene = scene_of("voxels", "voxels.cells=4", "density_bias=0")
    params = fresh(scene)
    params["grid"] = torch.randn(params["grid"].shape, generator=torch.Generator().manual_seed(0))
    grid_OZYX = params["grid"][0].double().numpy()
    x_1N3 = points()
    density_1N, latent_1NC = scene.query(params, x_1N3)
    for n, at in enumerate((x_1N3[0].double().numpy() + 1) * 2):
        low = np.floor(at).astype(int)
        expected = np.zeros(5)
        for corner in np.ndindex(2, 2, 2):
            share = np.prod(np.where(corner, at - low, 1 - (at - low)))
            x, y, z = low + corner
            expected += share * grid_OZYX[:, z, y, x]
        assert density_1N[0, n] == pytest.approx(softplus(expected[0]), abs=1e-5)
        assert latent_1NC[0, n].numpy() == pytest.approx(expected[1:], abs=1e-5)


def test_variation_is_the_mean_squared_step_along_each_dimension() -> None:
    _, y, x = torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij")
    planes = torch.stack([3 * x + 2 * y, 0 * x])[:, None]
    assert variation(planes, 3).tolist() == [13.0, 0.0] and variation(planes, 2).tolist() == [13.0, 0.0]


def test_a_triplane_sums_what_its_planes_hold_and_each_is_blind_along_its_normal() -> None:
    scene = scene_of("triplane", "triplane.cells=2", "triplane.channels=1")
    params = fresh(scene)
    # One hidden unit that passes its feature on, to the first channel of the latent.
    for name in ("w1", "w2"):
        params[name] = torch.zeros_like(params[name])
    params["w1"][0, 0, 0] = params["w2"][0, 1, 0] = 1.0
    params["planes"] = torch.rand(params["planes"].shape, generator=torch.Generator().manual_seed(0))
    corners_1N3 = torch.tensor([[[-1.0, 0, 1], [1, 1, -1], [0, -1, 0]]])
    _, latent_1NC = scene.query(params, corners_1N3)
    for n, (x, y, z) in enumerate((corners_1N3[0] + 1).long().tolist()):
        xy, xz, yz = params["planes"][0, :, 0]
        assert latent_1NC[0, n, 0] == pytest.approx(float(xy[y, x] + xz[z, x] + yz[z, y]), abs=1e-5)
    assert not latent_1NC[..., 1:].any()


def test_the_frequency_network_is_a_network_of_nerfs_encoding() -> None:
    scene = scene_of(
        "frequency_mlp", "frequency_mlp.bands=3", "frequency_mlp.width=7", "frequency_mlp.depth=2"
    )
    params, x_1N3 = fresh(scene), points()
    density_1N, latent_1NC = scene.query(params, x_1N3)
    weights = {name: value[0].double().numpy() for name, value in params.items()}
    for n, at in enumerate(x_1N3[0].double().numpy()):
        phase = np.array([2**k * np.pi * value for value in at for k in range(3)])
        out = np.concatenate([at, np.sin(phase), np.cos(phase)])
        for layer in (1, 2, 3):
            out = weights[f"w{layer}"] @ out + weights[f"b{layer}"]
            out = np.maximum(out, 0) if layer < 3 else out
        blob = 5 * (1 - np.linalg.norm(at) / 0.5)
        assert density_1N[0, n] == pytest.approx(softplus(out[0] + blob), rel=1e-4)
        assert latent_1NC[0, n].numpy() == pytest.approx(out[1:], abs=1e-4)


# ---- signed distances


def trained(scene: Scene, runs: int = 2) -> Params:
    noise = torch.Generator().manual_seed(0)
    return {n: v + 0.2 * torch.randn(v.shape, generator=noise) for n, v in fresh(scene, runs).items()}


def test_a_fresh_distance_is_a_ball_with_volsdfs_density_and_no_eikonal_loss() -> None:
    scene = scene_of("sdf", "sdf.beta_least=0.05", "sdf.beta=0.05")
    assert isinstance(scene, SignedDistance)
    params, x_1N3 = fresh(scene), points()
    distance_1N, _ = scene.query(params, x_1N3)
    ball_1N = x_1N3.norm(dim=-1) - 0.5
    assert torch.allclose(distance_1N, ball_1N, atol=2e-3)
    density_1N = scene.density_latent(params, x_1N3)[..., 0]
    below = np.where(ball_1N > 0, 0.5 * np.exp(-ball_1N / 0.1), 1 - 0.5 * np.exp(ball_1N / 0.1))
    assert density_1N.numpy() == pytest.approx(below / 0.1, rel=0.05)
    assert torch.allclose(
        scene.normals(params, x_1N3), torch.nn.functional.normalize(x_1N3, dim=-1), atol=0.1
    )
    view = scene.view(params, FRONT, BEHIND_1C, lambda shape: torch.full((1, *shape), 0.5))
    assert view.penalties_R["eikonal"].item() < 1e-3
    params["w2"] = params["w2"] * 0
    params["w2"][:, 0], params["b1"] = 1.0, params["b1"] + 0.1  # a constant shift keeps the slope
    shifted = scene.view(params, FRONT, BEHIND_1C, lambda shape: torch.full((1, *shape), 0.5))
    assert shifted.penalties_R["eikonal"].item() < 1e-3


def test_distances_of_the_fused_kernels_are_the_references() -> None:
    pytest.importorskip("numba")
    found = []
    for encoder in ("numba", "torch"):
        scene = scene_of("sdf", "levels=4", "log2_hashmap=8", encoder=encoder)
        params = {name: value.requires_grad_() for name, value in trained(scene).items()}
        value_RN, latent_RNC = scene.query(params, points(2))
        view = scene.view(params, make([0.0, 90], [20.0, 0], [2.8] * 2, [40.0] * 2), BEHIND_1C.expand(2, -1),
                          lambda shape: torch.full((2, *shape), 0.5), side=6)  # fmt: skip
        loss = value_RN.sum() + latent_RNC.square().sum() + view.x_RCHW.square().sum()
        (loss + view.penalties_R["eikonal"].sum()).backward()
        grads = {name: value.grad for name, value in params.items()}
        found.append((value_RN.detach(), latent_RNC.detach(), view.x_RCHW.detach(), grads))
    (*ours, our_grads), (*theirs, their_grads) = found
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)
    for name, grad in our_grads.items():
        expected = their_grads[name]
        assert grad is not None and expected is not None
        assert (grad - expected).norm() <= 3e-3 * expected.norm() + 1e-6, name


# ---- Gaussians


def cloud(mean: list[list[float]], deviation: float, opacity: float, latent: list[list[float]]) -> Params:
    N = len(mean)
    return {
        "mean": torch.tensor([mean]),
        "scale": torch.full((1, N, 3), math.log(deviation)),
        "rotation": torch.tensor([1.0, 0, 0, 0]).repeat(1, N, 1),
        "opacity": torch.full((1, N), math.log(opacity / (1 - opacity))),
        "latent": torch.tensor([latent]),
        "alive": torch.ones(1, N),
    }


def test_a_gaussian_is_seen_where_it_is_as_deep_as_it_is_and_the_nearer_hides_the_farther() -> None:
    scene = scene_of("gaussians", "gaussians.most=2", "gaussians.first=2")
    at = torch.tensor([0.1, 0.35, -0.2])
    params = cloud([at.tolist()], 0.03, 0.9, [[1.0, 2, 3, 4]])
    side = 65
    view = scene.view(params, FRONT, BEHIND_1C, side=side)
    assert view.opacity_RHW is not None and view.depth_RHW is not None
    origins_1P3, directions_1P3 = rays(FRONT, side, side)
    away_P = torch.linalg.cross(directions_1P3[0], at - origins_1P3[0]).norm(dim=-1)
    pixel = int(view.opacity_RHW.flatten().argmax())
    assert away_P[pixel] < 0.03 and away_P[pixel] <= away_P.min() + 0.02
    depth = view.depth_RHW.flatten()[pixel] / view.opacity_RHW.flatten()[pixel]
    assert depth == pytest.approx(float((at - origins_1P3[0, 0]).norm()), abs=0.02)
    params = cloud([[-0.4, 0, 0], [0.4, 0, 0]], 0.2, 0.9999, [[9.0] * 4, [1.0, 2, 3, 4]])
    seen_C = scene.view(params, FRONT, BEHIND_1C, side=side).x_RCHW[0, :, 32, 32]
    assert seen_C.tolist() == pytest.approx([1, 2, 3, 4], abs=0.02)
    params["alive"][0] = 0
    assert torch.equal(
        scene.view(params, FRONT, BEHIND_1C, side=2).x_RCHW, BEHIND_1C[..., None, None].expand(1, 4, 2, 2)
    )


def composited(params: Mapping[str, np.ndarray], side: int, blur: float) -> np.ndarray:
    """3DGS's equations by loops over pixels and Gaussians, for a camera at (2.8, 0, 0): latent [P, C] over
    nothing."""
    focal = 0.5 * side / math.tan(math.radians(20))
    turn = np.array([[0.0, 1, 0], [0, 0, -1], [-1, 0, 0]])
    seen = []
    for mean, scale, rotation, opacity, latent in zip(
        *(params[n] for n in ("mean", "scale", "rotation", "opacity", "latent")), strict=True
    ):
        w, x, y, z = rotation / np.linalg.norm(rotation)
        axis, angle = np.array([x, y, z]), 2 * math.acos(w)
        cross = np.cross(np.eye(3), axis / np.linalg.norm(axis))
        own = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross  # Rodrigues
        a, b, c = turn @ (mean - [2.8, 0, 0])
        slope = focal * np.array([[1 / c, 0, -a / c**2], [0, 1 / c, -b / c**2]])
        covariance = own @ np.diag(np.exp(2 * scale)) @ own.T
        flat = slope @ turn @ covariance @ turn.T @ slope.T + blur * np.eye(2)
        middle = focal * np.array([a, b]) / c + side / 2
        seen.append((c, middle, np.linalg.inv(flat), 1 / (1 + np.exp(-opacity)), latent))
    seen.sort(key=lambda each: each[0])
    out = np.zeros((side * side, 4))
    for p in range(side * side):
        left, pixel = 1.0, np.array([p % side + 0.5, p // side + 0.5])
        for _, middle, inverse, opacity, latent in seen:
            alpha = min(opacity * math.exp(-0.5 * (pixel - middle) @ inverse @ (pixel - middle)), 0.999)
            out[p] += left * alpha * latent
            left *= 1 - alpha
    return out


def random_cloud(runs: int = 1, count: int = 12) -> Params:
    draws = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(runs, count, *shape, generator=draws)

    return {
        "mean": 0.35 * normal(3).clamp(-2, 2),
        "scale": 0.4 * normal(3) - 2,
        "rotation": normal(4),
        "opacity": normal(),
        "latent": normal(4),
        "alive": torch.ones(runs, count),
    }


def test_compositing_is_3dgs_by_loops() -> None:
    scene, params, side = scene_of("gaussians"), random_cloud(), 9
    found = scene.view(params, FRONT, torch.zeros(1, 4), side=side).x_RCHW[0].flatten(1).T
    blur = 0.1 * (side / 16) ** 2
    expected = composited({n: v[0].double().numpy() for n, v in params.items()}, side, blur)
    assert found.numpy() == pytest.approx(expected, abs=2e-4)


def test_density_at_a_point_is_the_sum_of_the_gaussians() -> None:
    scene, params, x_1N3 = scene_of("gaussians"), random_cloud(), points(count=20)
    density_1N, latent_1NC = scene.query(params, x_1N3)
    inverse_N33 = splats.axes(params["scale"], params["rotation"])[0].double().inverse()
    for n, at in enumerate(x_1N3[0]):
        own_N3 = (inverse_N33 @ (at - params["mean"][0]).double()[..., None])[..., 0]
        weight_N = params["opacity"][0].sigmoid() * torch.exp(-0.5 * own_N3.square().sum(-1))
        assert density_1N[0, n] == pytest.approx(float(weight_N.sum()), rel=1e-3, abs=1e-6)
        mean_C = (weight_N[:, None] * params["latent"][0]).sum(0) / weight_N.sum().clamp(min=1e-6)
        assert latent_1NC[0, n].numpy() == pytest.approx(mean_C.numpy(), rel=1e-2, abs=1e-3)


def test_the_faint_go_and_those_that_pull_most_split_on_schedule() -> None:
    scene = scene_of("gaussians", "gaussians.most=8", "gaussians.first=5", "gaussians.every=2",
                     "gaussians.grow=0.5", "gaussians.until=0.5")  # fmt: skip
    assert isinstance(scene, SplatScene)
    params, state = fresh(scene, 2), scene.state(2)
    params["opacity"][0, 1] = -9.0  # faint
    params["mean"][0, 2] = 1.5  # outside
    before = {name: value.clone() for name, value in params.items()}
    moments = [{name: torch.ones_like(value) for name, value in params.items()} for _ in range(2)]
    grads = {name: torch.zeros_like(value) for name, value in params.items()}
    grads["mean"][0, :, 0] = torch.tensor([1.0, 9, 9, 3, 2, 0, 0, 0])

    def after(step: list[int], total: int = 8) -> None:
        draws: Draws = lambda shape: torch.full((2, *shape), 0.75)  # noqa: E731
        scene.after_step(params, state, grads, moments, torch.tensor(step), torch.tensor([total] * 2), draws)

    after([1, 1])
    assert all(torch.equal(params[name], value) for name, value in before.items())
    after([2, 1])
    assert all(torch.equal(params[name][1], value[1]) for name, value in before.items())  # not due
    # 0, 3 and 4 are left, and two of them split: 3, then 4, into the first free places.
    assert params["alive"][0].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert not state["pull"][0].any() and state["pull"][1].shape == (8,)
    for parent, child in ((3, 1), (4, 2)):
        assert torch.allclose(params["scale"][0, parent], before["scale"][0, parent] - math.log(1.6))
        assert torch.equal(params["scale"][0, child], params["scale"][0, parent])
        middle_3 = (params["mean"][0, parent] + params["mean"][0, child]) / 2
        assert torch.allclose(middle_3, before["mean"][0, parent], atol=1e-6)
        assert (params["mean"][0, parent] - params["mean"][0, child]).norm() > 0.05
        assert all(not moment["mean"][0, [parent, child]].any() for moment in moments)
    assert moments[0]["mean"][0, 0].all() and torch.equal(params["mean"][0, 0], before["mean"][0, 0])
    kept = {name: value.clone() for name, value in params.items()}
    after([6, 6])  # past the half
    assert all(torch.equal(params[name], value) for name, value in kept.items())


def test_what_gsplat_lacks_is_told() -> None:
    reason = splats.missing()
    assert reason is None or "CUDA" in reason or "gsplat" in reason


@pytest.mark.skipif(splats.missing() is not None, reason=f"{splats.missing()}")
def test_gsplat_agrees_with_the_reference() -> None:
    seen = []
    for encoder in ("torch", "triton"):
        scene = scene_of("gaussians")
        scene.encoder = encoder
        params = {name: value.cuda().requires_grad_() for name, value in random_cloud(2).items()}
        view = scene.view(params, make([0.0, 70], [10.0, 40], [2.8] * 2, [40.0] * 2), torch.ones(2, 4).cuda())
        assert view.opacity_RHW is not None and view.depth_RHW is not None
        (view.x_RCHW.square().sum() + view.depth_RHW.sum()).backward()
        grads = [params[name].grad for name in ("mean", "scale", "rotation", "opacity", "latent")]
        seen.append((view.x_RCHW, view.opacity_RHW, view.depth_RHW, grads))
    (*reference, expected), (*ours, found) = seen
    for a, b in zip(ours, reference, strict=True):  # what adds less than 1/255 is left out
        assert (a - b).abs().max() < 0.05 * b.abs().max() + 0.02
    for a, b in zip(found, expected, strict=True):
        assert a is not None and b is not None and (a - b).norm() < 0.1 * b.norm()


def test_a_picture_of_gaussians_is_their_sum_over_the_background() -> None:
    scene = scene_of("gaussians_2d", "gaussians_2d.count=5", "resolution=6")
    params = fresh(scene)
    params["scale"] = params["scale"] + torch.tensor([0.9, 0.2])
    found_CHW = scene.view(params, FRONT, BEHIND_1C).x_RCHW[0]
    mean, scale, angle, latent = (params[n][0].double().numpy() for n in ("mean", "scale", "angle", "latent"))
    for row, column in ((0, 0), (2, 5), (4, 1)):
        at, expected = np.array([(column + 0.5) / 3 - 1, (row + 0.5) / 3 - 1]), BEHIND_1C[0].double().numpy()
        for n in range(5):
            c, s = math.cos(angle[n]), math.sin(angle[n])
            own = np.array([[c, s], [-s, c]]) @ (at - mean[n]) / np.exp(scale[n])
            expected = expected + latent[n] * math.exp(-0.5 * own @ own)
        assert found_CHW[:, row, column].numpy() == pytest.approx(expected, abs=1e-5)


# ---- packs, backgrounds, and what a scene can show


@pytest.mark.parametrize("kind", sorted({*discover()} - {"field", "image"}))
def test_a_pack_at_once_as_on_a_gpu_is_its_runs_to_rounding(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, cameras = scene_of(kind, "samples=8"), make([0.0, 80], [20.0, 40], [2.8] * 2, [40.0] * 2)
    params = trained(scene)

    def seen() -> list[Tensor]:
        draws: Draws = lambda shape: torch.full((2, *shape), 0.3)  # noqa: E731
        view = scene.view(params, cameras, BEHIND_1C.expand(2, -1), draws, side=6)
        asked = scene.query(params, points(2)) if scene.quantity else ()
        return [view.x_RCHW, *view.penalties_R.values(), *asked]

    by_themselves = seen()
    for module in ("volume", "renderer", "kinds.sdf", "kinds.gaussians", "kinds.gaussians_2d"):
        monkeypatch.setattr(f"harness.scene.{module}.by_run", lambda call, *tensors: call(*tensors))
    for a, b in zip(seen(), by_themselves, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["voxels", "gaussians"])
def test_a_random_background_is_another_in_each_training_view_alone(kind: str) -> None:
    scene = scene_of(kind, "background=random", "background_spread=0.5")
    params = fresh(scene)
    empty = {"grid": params["grid"] - 99} if kind == "voxels" else {"alive": 0 * params["alive"]}
    params |= empty
    first, second, looked_at = (
        scene.view(params, FRONT, BEHIND_1C, draws, side=2).x_RCHW[0, :, 0, 0]
        for draws in (lambda s: torch.full((1, *s), 0.9), lambda s: torch.full((1, *s), 0.1), None)
    )
    assert torch.allclose(first, BEHIND_1C[0] + 0.4, atol=1e-5)
    assert torch.allclose(second, BEHIND_1C[0] - 0.4, atol=1e-5)
    assert torch.allclose(looked_at, BEHIND_1C[0], atol=1e-5)


def test_every_kind_that_reads_a_background_can_learn_it() -> None:
    for kind in ("voxels", "triplane", "frequency_mlp", "sdf", "gaussians"):
        scene = scene_of(kind, "background=learned")
        assert torch.equal(fresh(scene)["background"], BEHIND_1C) and "background" in type(scene).reads
        if isinstance(scene, VolumeScene):
            assert "background_spread" in type(scene).reads


def test_a_scene_that_is_shown_its_object_comes_to_show_it() -> None:
    config = settle(Config(steps=2), ["views.azimuths=1", "views.heldout_elevation=none"])
    out = io.StringIO()
    assert bench_scenes.run(config, 1, ("voxels", "gaussians_2d"), Console(file=out, width=160)) == 0
    assert "voxels" in out.getvalue() and "gaussians_2d" in out.getvalue()
    guidance = load_guidance(config, torch.device("cpu"))
    picture = bench_scenes._of_kind(config, "gaussians_2d")
    packs = [
        fitted.fitted(picture.model_copy(update={"steps": steps}), guidance, KEYS[:1]) for steps in (1, 40)
    ]
    first, last = (fitted.view_errors(pack, fitted.seen(pack))[KEYS[0].prompt] for pack in packs)
    assert last < 0.5 * first


def test_fitted_objects_are_made_once_for_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settle(
        Config(steps=2), ["views.azimuths=3", "views.heldout_elevation=none", "scene.kind=voxels"]
    )
    prompts = ["a red car", "a white cup with a red handle"]
    own = load_guidance(config, torch.device("cpu")).content_hash
    made = fitted.fitted_views(tmp_path, config, own, prompts, "cpu")
    assert [each.views_VHWC.shape for each in made.values()] == [(3, 64, 64, 3)] * 2
    assert all(0 <= (each.iou or 0) <= (each.aligned_iou or 0) <= 1 for each in made.values())
    with pytest.raises(UserError, match="other files of"):
        fitted.fitted_views(tmp_path, config, "0" * 64, prompts, "cpu")
    monkeypatch.setattr(fitted, "load_guidance", lambda *_: pytest.fail("it is there already"))
    again = fitted.fitted_views(tmp_path, config, own, prompts[::-1], "cpu")
    for prompt in prompts:
        assert (again[prompt].views_VHWC == made[prompt].views_VHWC).all()
        assert (again[prompt].iou, again[prompt].aligned_iou) == (made[prompt].iou, made[prompt].aligned_iou)
    with pytest.raises(pytest.fail.Exception, match="it is there already"):
        fitted.fitted_views(tmp_path, config, "another prior's", prompts, "cpu")
    [damaged, *_] = sorted(tmp_path.rglob("*.json"))
    damaged.write_text("[]")
    with pytest.raises(pytest.fail.Exception, match="it is there already"):
        fitted.fitted_views(tmp_path, config, own, prompts, "cpu")
    with pytest.raises(UserError):
        fitted.fitted_views(tmp_path, config, own, ["a thing that is no toy"], "cpu")


def test_the_autoencoder_keeps_what_is_shown_to_it() -> None:
    config = settle(Config(), ["views.azimuths=3", "views.heldout_elevation=none"])
    images = {"a red car": ground_truth("a red car", config.views)}
    [worn] = reconstructed(config.guidance, images, "cpu").values()
    [own] = images.values()
    assert worn.shape == own.shape and worn.dtype == np.uint8
    error = np.sqrt(np.square((worn.astype(float) - own) / 255).mean())
    assert 0 < error < 0.06  # 30 dB are .03
