"""The camera convention: what azimuth 0 sees, pixel order, unit rays, and independence of the pack."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import CameraConfig, ViewsConfig
from harness.scene import cameras

angles = st.floats(-360, 720), st.floats(-90, 90), st.floats(1.0, 4.0), st.floats(5, 90)


def test_front_camera_sees_the_plus_x_face_with_y_to_the_right_and_z_up() -> None:
    origins, directions = cameras.rays(cameras.make([0.0], [0.0], [3.0], [40.0]), 16, 16)
    assert origins[0, 0].tolist() == [3.0, 0.0, 0.0]
    image = directions.view(16, 16, 3)
    assert torch.all(image[..., 0] < 0)
    assert torch.all(image[:, 1:, 1] > image[:, :-1, 1])
    assert torch.all(image[1:, :, 2] < image[:-1, :, 2])


def test_azimuth_90_stands_on_plus_y_and_overhead_keeps_a_frame() -> None:
    origins, directions = cameras.rays(cameras.make([90.0, 0.0], [0.0, 90.0], [2.0, 2.0], [40.0, 40.0]), 3, 3)
    assert torch.allclose(origins[:, 0], torch.tensor([[0.0, 2, 0], [0, 0, 2]]), atol=1e-6)
    assert torch.allclose(directions[:, 4], torch.tensor([[0.0, -1, 0], [0, 0, -1]]), atol=1e-6)
    # From straight above at azimuth 0 the top of the picture is away from the front, at -x.
    assert directions[1, 1, 0] < 0


@settings(deadline=None)
@given(*angles, st.integers(1, 9), st.integers(1, 9))
def test_rays_are_unit_and_their_mean_meets_the_origin(
    az: float, el: float, d: float, fov: float, H: int, W: int
) -> None:
    origins, directions = cameras.rays(cameras.make([az], [el], [d], [fov]), H, W)
    assert origins.shape == directions.shape == (1, H * W, 3)
    assert torch.allclose(directions.norm(dim=-1), torch.ones(1, H * W), atol=1e-6)
    assert torch.allclose(origins.norm(dim=-1), torch.full((1, H * W), d), rtol=1e-6)
    mean = torch.nn.functional.normalize(directions.double().mean(1), dim=-1)
    assert torch.allclose(mean, -origins[:, 0].double() / d, atol=1e-5)


def test_the_field_of_view_is_vertical() -> None:
    _, directions = cameras.rays(cameras.make([0.0], [0.0], [3.0], [60.0]), 64, 32)
    image = directions.view(64, 32, 3)
    slope = (image[0, 16, 2] / -image[0, 16, 0]).item()
    assert slope == pytest.approx(
        torch.tan(torch.deg2rad(torch.tensor(30.0))).item() * (1 - 1 / 64), rel=1e-5
    )


@settings(deadline=None)
@given(st.integers(2, 9))
def test_a_run_has_the_same_rays_in_any_pack(runs: int) -> None:
    cfg = CameraConfig()
    u = torch.rand(runs, 4, generator=torch.Generator().manual_seed(runs))
    packed = cameras.rays(cameras.sample(cfg, u), 5, 7)
    for r in range(runs):
        solo = cameras.rays(cameras.sample(cfg, u[r : r + 1]), 5, 7)
        assert all(torch.equal(p[r], s[0]) for p, s in zip(packed, solo, strict=True))


def test_samples_stay_in_their_ranges_and_evaluation_has_nine_views() -> None:
    cfg = CameraConfig()
    drawn = cameras.sample(cfg, torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]]))
    assert drawn.elevation_R.tolist() == [-5.0, 35.0] and drawn.azimuth_R.tolist() == [0.0, 180.0]
    assert drawn.distance_R.tolist() == pytest.approx([2.5, 2.8])
    views = cameras.evaluation(ViewsConfig())
    assert len(views) == 9
    assert views.azimuth_R.tolist() == [0.0, 45.0, 90.0, 135.0, 180.0, 225.0, 270.0, 315.0, 0.0]
    assert views.elevation_R.tolist() == [30.0] * 8 + [45.0]
