"""Ground truth: the harness's own cameras, the caption's colours, fronts that differ from backs."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import ViewsConfig
from harness.scene.cameras import make, rays
from harness.toyworld.grammar import KINDS, Scene, Thing, parse, sample
from harness.toyworld.kinds import RGB, ball, primitives
from harness.toyworld.render import BACKGROUND, ground_truth, render


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 360), st.floats(-20, 80), st.tuples(*[st.floats(-0.5, 0.5)] * 3))
def test_a_point_is_drawn_where_the_harness_rays_see_it(azimuth, elevation, point):
    rows = np.array([ball(point, 0.08, "black")], dtype=np.float32)
    image = render([rows], np.array([[azimuth, elevation, 2.8, 40.0]]))[0]
    dark = np.argwhere(image.max(-1) < 60)
    origins, directions = rays(make([azimuth], [elevation], [2.8], [40.0]), 64, 64)
    to_point = np.array(point) - origins[0, 0].numpy()
    along = directions[0].numpy() @ (to_point / np.linalg.norm(to_point))
    row, column = divmod(int(along.argmax()), 64)
    if 3 < row < 60 and 3 < column < 60:
        assert np.abs(dark.mean(0) - [row, column]).max() < 1.5


def test_every_kind_fits_the_frame_and_shows_its_colour():
    views = ViewsConfig()
    for noun in KINDS:
        images = ground_truth(f"a purple {noun}", views)
        assert images.shape == (9, 64, 64, 3) and images.dtype == np.uint8
        object_share = (np.abs(images / 255 - np.array(BACKGROUND)).max(-1) > 0.06).mean((1, 2))
        assert object_share.min() > 0.02, noun
        edge = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1)
        on_edge = (np.abs(edge / 255 - np.array(BACKGROUND)).max(-1) > 0.06).mean()
        assert on_edge < 0.1, noun
        hue = np.array(RGB["purple"]) / np.linalg.norm(RGB["purple"])
        lit = images / np.maximum(np.linalg.norm(images, axis=-1, keepdims=True), 1)
        assert ((lit @ hue) > 0.97).mean() > 0.01, noun


@pytest.mark.parametrize(
    "noun", ["car", "bus", "tv", "clock", "cat", "teddy bear", "elephant", "traffic light"]
)
def test_a_front_differs_from_its_back(noun):
    images = ground_truth(f"a green {noun}", ViewsConfig()).astype(float)
    assert np.abs(images[0] - images[4][:, ::-1]).mean() > 1.0


def test_a_named_part_and_a_pattern_change_the_picture():
    views = ViewsConfig()
    plain = ground_truth("a white cup", views).astype(int)
    for prompt in ("a white cup with a red handle", "a striped white cup", "a spotted white cup"):
        assert np.abs(ground_truth(prompt, views).astype(int) - plain).max() > 100
    alone, carried = ground_truth("a red apple", views), ground_truth("a red apple on a white plate", views)
    assert (carried.min(-1) > 200).sum() > (alone.min(-1) > 200).sum() + 100


def test_a_gpu_draws_what_a_cpu_draws(monkeypatch):
    """The kernel, interpreted where there is no GPU, on every kind of primitive and both patterns."""
    pytest.importorskip("triton")
    from harness.toyworld import render, render_cuda

    monkeypatch.setattr(render, "SUPERSAMPLING", 1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    captions = ("a striped red cup", "a spotted blue car", "a white donut")
    scenes = [primitives(parse(caption)) for caption in captions]
    assert {int(row[0]) for rows in scenes for row in rows} == {0, 1, 2, 3}
    cameras = np.array([[30.0, 20.0, 2.8, 40.0], [200.0, 60.0, 2.6, 40.0], [90.0, 5.0, 3.0, 38.0]])
    lights = render.world_lights(3)
    ours = render.trace(scenes, cameras, lights, torch.device("cpu"), 10).numpy().astype(int)
    packed = np.zeros((3, max(map(len, scenes)), scenes[0].shape[1]), dtype=np.float32)
    for n, rows in enumerate(scenes):
        packed[n, : len(rows)] = rows
    seen = np.column_stack([np.deg2rad(cameras[:, :2]), cameras[:, 2], np.tan(np.deg2rad(cameras[:, 3]) / 2)])
    theirs = render_cuda.trace(
        torch.from_numpy(packed).to(device),
        torch.tensor([len(rows) for rows in scenes], dtype=torch.int32, device=device),
        torch.from_numpy(seen).float().to(device),
        torch.from_numpy(lights).float().to(device),
        torch.tensor(render.BACKGROUND, device=device),
        10,
        1,
    )
    assert (np.abs(ours - theirs.cpu().numpy().astype(int)).max(-1) > 3).mean() < 0.02


@given(st.integers(0, 2**32))
@settings(deadline=None)
def test_scenes_lie_in_the_unit_ball(seed):
    rng = random.Random(seed)
    rows = primitives(sample(rng), rng)
    assert np.isfinite(rows).all()
    assert np.linalg.norm(rows[:, 1:4], axis=1).max() <= 1.0
    again = primitives(Scene(Thing("cup", "red")))
    assert np.array_equal(again, primitives(Scene(Thing("cup", "red"))))
