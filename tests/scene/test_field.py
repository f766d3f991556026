"""The fused CPU field and renderer against their torch reference, and a run's bits in any pack."""

from collections.abc import Callable, Iterable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness import rng
from harness.config import SceneConfig, UserError
from harness.scene import cameras, encoders, regularisers
from harness.scene.contract import Params
from harness.scene.encoders import choose_encoder
from harness.scene.kinds.field import HashField
from harness.scene.renderer import Render, render
from harness.threads import torch_threads

pytest.importorskip("numba")

scenes = st.builds(
    SceneConfig,
    levels=st.integers(1, 9),
    features=st.sampled_from([1, 2, 3, 4]),
    log2_hashmap=st.integers(6, 13),
    base_resolution=st.integers(1, 9),
    growth=st.floats(1.0, 1.6),
    hidden=st.integers(1, 37),
    bound=st.sampled_from([0.7, 1.0, 2.0]),
    density_radius=st.floats(0.2, 1.0),
    samples=st.integers(2, 20),
    background=st.sampled_from(["constant", "learned"]),
    entropy=st.just(0.1),
    sparsity=st.just(0.1),
    orientation=st.sampled_from([0.0, 0.1]),
)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    with torch_threads(request.param):
        yield request.param


def keys(seeds: Iterable[int]) -> list[rng.Key]:
    return [rng.Key("a cup", seed) for seed in seeds]


def fresh(field: HashField, own: list[rng.Key]) -> Params:
    return field.init(own, torch.zeros(len(own), field.channels))


def parameters(field: HashField, seeds: Iterable[int]) -> Params:
    """Parameters of a field that has been trained a little: nothing is near zero."""
    own = keys(seeds)
    background = rng.normal(own, [0] * len(own), "background", (field.channels,))
    params = field.init(own, background)
    for name, value in params.items():
        draws = rng.normal(own, [len(name)] * len(own), "method", value.shape[1:])
        params[name] = (value + 0.3 * draws).requires_grad_()
    return params


def advance(
    cfg: SceneConfig,
    encoder: str,
    seeds: list[int],
    channels: int = 4,
    H: int = 5,
    W: int = 4,
    device: str = "cpu",
) -> tuple[Render, Params]:
    """One render and its backward pass through the image, the depth and every regulariser."""
    field = HashField(cfg, channels, encoder)
    params = {name: value.detach().to(device) for name, value in parameters(field, seeds).items()}
    for value in params.values():
        value.requires_grad_()
    own, R = keys(seeds), len(seeds)
    view = cameras.Cameras(
        *(rng.uniform(own, [0] * R, "camera", (4,)).double().T * torch.tensor([[360.0], [90], [1.5], [30]])
          + torch.tensor([[0.0], [-45], [1.2], [30]]))
    )  # fmt: skip
    picture = render(
        field,
        params,
        view,
        rng.normal(own, [0] * R, "background", (channels,)),
        rng.uniform(own, [0] * R, "render", (H * W, cfg.samples)),
        H,
        W,
    )
    g_RCHW = rng.normal(own, [0] * R, "noise", picture.x_RCHW.shape[1:]).to(device)
    loss = (picture.x_RCHW * g_RCHW).sum() + 0.3 * picture.depth_RHW.sum()
    loss = loss + sum(term.sum() for term in regularisers.penalties(field, params, picture).values())
    loss.backward()
    return picture, params


def agree(a: Tensor, b: Tensor) -> None:
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * max(1.0, b.abs().max().item()))


def gradients_agree(a: Tensor | None, b: Tensor | None) -> None:
    # In the norm: a unit within rounding of its kink may be on in one encoder and off in the other.
    assert a is not None and b is not None
    assert (a - b).norm() <= 3e-3 * b.norm() + 1e-6


@settings(max_examples=60, deadline=None, derandomize=True)
@given(scenes, st.integers(1, 4), st.integers(1, 5), st.integers(1, 11), st.integers(1, 11))
def test_fused_equals_the_reference_in_value_and_gradient(
    cfg: SceneConfig, R: int, channels: int, H: int, W: int
) -> None:
    # The four differences of a normal amplify rounding; they are compared in a test of their own.
    cfg = cfg.model_copy(update={"orientation": 0.0})
    ours, ours_params = advance(cfg, "numba", list(range(R)), channels, H, W)
    reference, reference_params = advance(cfg, "torch", list(range(R)), channels, H, W)
    for name in ("x_RCHW", "opacity_RHW", "weights_RPS", "depth_RHW"):
        agree(getattr(ours, name), getattr(reference, name))
    for name, value in ours_params.items():
        gradients_agree(value.grad, reference_params[name].grad)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(scenes, st.integers(1, 3), st.integers(0, 2500))
def test_fused_query_equals_the_reference_anywhere_in_space(cfg: SceneConfig, R: int, N: int) -> None:
    x_RN3 = (rng.uniform(keys(range(R)), [1] * R, "eval", (N, 3)) * 2 - 1) * 1.2 * cfg.bound
    corner = torch.tensor([[1.0, 1, 1], [-1, -1, -1], [1, -1, 1]]) * cfg.bound
    x_RN3 = torch.cat([x_RN3, corner.expand(R, 3, 3)], 1)
    found = []
    for encoder in ("numba", "torch"):
        field = HashField(cfg, 4, encoder)
        params = parameters(field, list(range(R)))
        density, latent = field.query(params, x_RN3)
        assert torch.all(density >= 0) and torch.all(density[(x_RN3.abs() > cfg.bound).any(-1)] == 0)
        (density.sum() + latent.square().sum()).backward()
        found.append((density, latent, params))
    (density, latent, params), (reference_density, reference_latent, reference_params) = found
    agree(density, reference_density)
    agree(latent, reference_latent)
    for name in ("table", "w1", "b1", "w2", "b2"):
        gradients_agree(params[name].grad, reference_params[name].grad)


@pytest.mark.parametrize("encoder", ["numba", "torch"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(cfg=scenes, R=st.integers(2, 6), H=st.integers(1, 11), W=st.integers(1, 11))
def test_a_run_has_the_same_bits_in_any_pack(encoder: str, cfg: SceneConfig, R: int, H: int, W: int) -> None:
    seeds = list(range(R))
    packed, packed_params = advance(cfg, encoder, seeds, H=H, W=W)
    regrouped, regrouped_params = advance(cfg, encoder, seeds[::-1], H=H, W=W)
    for r in {0, R - 1}:
        solo, solo_params = advance(cfg, encoder, [r], H=H, W=W)
        for name in ("x_RCHW", "opacity_RHW", "weights_RPS", "depth_RHW"):
            assert torch.equal(getattr(packed, name)[r], getattr(solo, name)[0])
            assert torch.equal(getattr(regrouped, name)[R - 1 - r], getattr(solo, name)[0])
        for name, value in solo_params.items():
            gradients = value.grad, packed_params[name].grad, regrouped_params[name].grad
            assert all(gradient is not None for gradient in gradients)
            assert torch.equal(gradients[0][0], gradients[1][r])  # type: ignore[index]
            assert torch.equal(gradients[0][0], gradients[2][R - 1 - r])  # type: ignore[index]


def test_the_toy_scene_has_the_same_bits_in_any_pack_on_any_number_of_threads(threads: int) -> None:
    cfg = SceneConfig(sparsity=0.1, orientation=0.1)
    torch.set_num_threads(1)
    solo, solo_params = advance(cfg, "numba", [5], H=16, W=16)
    torch.set_num_threads(threads)
    packed, packed_params = advance(cfg, "numba", [3, 4, 5], H=16, W=16)
    assert torch.equal(packed.x_RCHW[2], solo.x_RCHW[0])
    for name, value in solo_params.items():
        gradient, expected = packed_params[name].grad, value.grad
        assert gradient is not None and expected is not None and torch.equal(gradient[2], expected[0]), name


def test_a_second_backward_pass_is_refused() -> None:
    field = HashField(SceneConfig(), 4, "numba")
    params = parameters(field, [0])
    density, _ = field.query(params, torch.zeros(1, 3, 3))
    density.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="render again"):
        density.sum().backward()


def test_fresh_fields_are_a_blob_and_depend_on_their_own_key() -> None:
    field = HashField(SceneConfig(), 4, "torch")
    params = fresh(field, keys([7, 8]))
    alone = fresh(field, keys([8]))
    assert all(torch.equal(params[name][1], alone[name][0]) for name in params)
    assert not torch.equal(params["table"][0], params["table"][1])
    x_RN3 = torch.tensor([[0.0, 0, 0], [0, 0, 0.5], [0.9, 0, 0]]).expand(2, 3, 3)
    density, _ = field.query(params, x_RN3)
    assert torch.allclose(density[:, 0], torch.tensor(5.0), atol=0.02)
    assert torch.all(density[:, 0] > density[:, 1]) and torch.all(density[:, 1] > density[:, 2])


def test_an_empty_field_shows_the_background_and_a_solid_one_hides_it() -> None:
    background = torch.tensor([[1.0, -2, 3, 4]])
    for bias, opacity in ((-60.0, 0.0), (60.0, 1.0)):
        field = HashField(SceneConfig(density_bias=bias, density_radius=1e6), 4, "torch")
        picture = render(
            field, fresh(field, keys([0])), cameras.make([0], [0], [2.8], [40]), background, None, 16, 16
        )
        assert torch.allclose(picture.opacity_RHW[0, 8, 8], torch.tensor(opacity), atol=1e-4)
        if opacity == 0:
            assert torch.allclose(picture.x_RCHW, background[..., None, None].expand(1, 4, 16, 16), atol=1e-4)


def test_depth_and_left_right_of_a_picture() -> None:
    # A blob seen from the front: its surface is nearer than its centre, and it is symmetric.
    field = HashField(SceneConfig(density_bias=40.0, samples=128), 4, "torch")
    picture = render(
        field, fresh(field, keys([0])), cameras.make([0], [0], [2.8], [40]), torch.zeros(1, 4), None, 17, 17
    )
    assert picture.depth_RHW[0, 8, 8] == pytest.approx(2.44, abs=0.05)
    assert torch.allclose(picture.opacity_RHW, picture.opacity_RHW.flip(-1), atol=2e-3)


def test_fused_normals_follow_the_reference_and_point_out_of_the_blob() -> None:
    cfg = SceneConfig(density_radius=0.5)
    x_RN3 = torch.nn.functional.normalize(
        torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    found = []
    for encoder in ("numba", "torch"):
        field = HashField(cfg, 4, encoder)
        found.append(field.normals(fresh(field, keys([0, 1])), x_RN3 * 0.4, 0.01))
        assert (found[-1] * x_RN3).sum(-1).min() > 0.99
    assert torch.allclose(*found, atol=1e-3)


@pytest.mark.parametrize(
    ("cfg", "terms"),
    [
        (SceneConfig(entropy=0), []),
        (SceneConfig(entropy=1, sparsity=1, orientation=1), ["entropy", "sparsity", "orientation"]),
    ],
)
def test_only_the_regularisers_asked_for_are_computed(cfg: SceneConfig, terms: list[str]) -> None:
    field = HashField(cfg, 4, "torch")
    params = fresh(field, keys([0, 1]))
    picture = render(
        field, params, cameras.make([0, 9], [0, 9], [2.8] * 2, [40.0] * 2), torch.zeros(2, 4), None, 4, 4
    )
    found = regularisers.penalties(field, params, picture)
    assert list(found) == terms
    assert all(term.shape == (2,) and torch.all(term >= 0) for term in found.values())


def test_encoders_are_chosen_by_device_and_a_bad_name_is_told() -> None:
    assert choose_encoder("cpu") == "numba"
    assert choose_encoder("cpu", "torch") == "torch"
    with pytest.raises(UserError, match="did you mean 'numba'"):
        choose_encoder("cpu", "nubma")
    with pytest.raises(UserError, match="'tinycudann' cannot be used"):
        choose_encoder("cpu", "tinycudann")


def test_a_missing_fused_encoder_falls_back_to_torch_with_one_notice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reset: Callable[[], None] = encoders.unavailable.cache_clear
    for clear in (reset, encoders.choose_encoder.cache_clear):
        clear()
    monkeypatch.setitem(__import__("sys").modules, "harness.scene.fused_cpu", None)
    monkeypatch.delattr("harness.scene.fused_cpu", raising=False)
    try:
        assert choose_encoder("cpu") == choose_encoder("cpu") == "torch"
        assert len(caplog.records) == 1 and "using torch" in caplog.text
    finally:
        for clear in (reset, encoders.choose_encoder.cache_clear):
            clear()
