"""Turntables: what is in the frames, that they can be read back, and the command over many runs."""

import io
import json
import sys
from pathlib import Path

import av
import matplotlib
import numpy as np
import pytest
from PIL import Image

from harness.cli import main
from harness.objects.final import latents, load, load_prior, pictures
from harness.objects.turntable import write_turntable
from harness.objects.video import mp4, webp
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.scene.cameras import make
from tests import solids


def film(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data), "r") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def frames_of(data: bytes) -> tuple[np.ndarray, int]:
    """Frames of a WebP, and how long they take, in milliseconds."""
    images, duration = [], 0
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["loop"] == 0
        for n in range(getattr(image, "n_frames", 1)):
            image.seek(n)
            image.load()
            images.append(np.asarray(image.convert("RGB")))
            duration += int(image.info["duration"])
    return np.stack(images), duration


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47)])
def test_films_can_be_read_back(height: int, width: int) -> None:
    down_HW, right_HW = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    frames = np.stack(
        [np.stack([down_HW, right_HW, np.full_like(down_HW, t)], -1) for t in np.linspace(0, 1, 24)]
    )
    frames_NHWC = (frames * 255).round().astype(np.uint8)
    played = film(mp4(frames_NHWC, 24))
    assert played.shape == (24, height + height % 2, width + width % 2, 3)
    assert np.abs(played[:, :height, :width].astype(int) - frames_NHWC).mean() < 4
    shown, duration = frames_of(webp(frames_NHWC, 24))
    assert shown.shape == frames_NHWC.shape and duration == 1000
    assert np.abs(shown.astype(int) - frames_NHWC).mean() < 6
    assert webp(frames_NHWC, 24) == webp(frames_NHWC, 24)


def test_the_films_show_colour_depth_and_normals(tmp_path: Path) -> None:
    folder = solids.make(tmp_path, solids.fitted())
    final = load(folder)
    out = write_turntable(final, azimuths=4, elevation=0.0)
    about = json.loads((out / "turntable.json").read_text())
    assert {p.name for p in out.iterdir()} == {*about["files"], "turntable.json"} and about["mark"] == "toy"
    films = {
        name: film((out / f"{name}.mp4").read_bytes()).astype(int) for name in ("colour", "depth", "normals")
    }
    prior = load_prior(final)
    cameras = make([0.0, 90.0, 180.0, 270.0], [0.0] * 4, [2.8] * 4, [40.0] * 4)
    decoded = pictures(prior, latents(final, prior, cameras)).numpy()
    assert np.abs(films["colour"] - decoded).mean() < 6

    # From the front the box is .6 nearer than the middle, from the side .45.
    colours = matplotlib.colormaps["viridis_r"]
    for frame, half in ((0, solids.HALF_3[0]), (1, solids.HALF_3[1])):
        wanted = np.array(colours(0.5 - half / 2)[:3]) * 255
        assert np.abs(films["depth"][frame, 32, 32] - wanted).max() < 40
    assert np.abs(films["normals"][:, 28:36, 28:36] - [127, 127, 255]).mean() < 25, "it faces the camera"
    assert np.abs(films["normals"][:, 1, 1] - 0.93 * 255).max() < 6, "nothing is neutral"

    before = {path.name: path.read_bytes() for path in out.glob("*.webp")}
    write_turntable(load(folder), azimuths=4, elevation=0.0)
    assert {path.name: path.read_bytes() for path in out.glob("*.webp")} == before

    write_turntable(final, azimuths=2, size=48)
    assert film((out / "colour.mp4").read_bytes()).shape == (2, 48, 48, 3)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["harness", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command_does_what_can_be_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (solids.make(tmp_path, solids.fitted(), seed=seed) for seed in (1, 2))
    (two.path / "checkpoint.safetensors").write_bytes(b"half a")
    RunFolder.create(tmp_path, RunSpec(method="tp_sds", prompt="a box", seed=3, config=solids.config()))
    options = ("--azimuths", 2, "--size", 16, "--device", "cpu")
    assert call(monkeypatch, "turntable", "--runs", tmp_path, *options) == 1
    said = capsys.readouterr()
    assert f"{one.path / 'turntable'}  2 frames" in said.out and "(toy)" in said.out
    assert "left out: 1 runs that are not done" in said.err and "cannot be read" in said.err
    assert not (two.path / "turntable").exists()
    made = (one.path / "turntable" / "colour.mp4").stat().st_mtime_ns
    assert call(monkeypatch, "turntable", one.path, *options) == 0
    assert "is there already" in capsys.readouterr().out
    assert (one.path / "turntable" / "colour.mp4").stat().st_mtime_ns == made
    assert call(monkeypatch, "turntable", one.id, "--runs", tmp_path, *options[:2], "--size", 32) == 0
    assert film((one.path / "turntable" / "colour.mp4").read_bytes()).shape[1] == 32
    assert call(monkeypatch, "turntable", "seed=3", "--runs", tmp_path) == 2
    assert "no run of these is done" in capsys.readouterr().err


def test_export_of_a_mesh_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = solids.make(tmp_path, solids.fitted())
    assert call(monkeypatch, "export", folder.path, "--format", "glb", "--device", "cpu") == 0
    assert "(toy)" in (said := capsys.readouterr().out) and "watertight" in said and "not " not in said
    assert (folder.path / "mesh" / "object.glb").read_bytes()[:4] == b"glTF"
    out = tmp_path / "box.obj"
    assert call(monkeypatch, "export", folder.id, "--runs", tmp_path, "--out", out, "--components", 1) == 0
    assert out.read_text().startswith("# toy a box")
    assert (
        call(monkeypatch, "export", folder.id, "--runs", tmp_path, "--out", tmp_path / "no" / "box.obj") == 2
    )
    assert "no folder" in capsys.readouterr().err
    for wrong, says in (("--metrics", "loss"), ("--out", "x.glb"), ("--device", "gpu")):
        assert call(monkeypatch, "export", folder.path, "--format", "ply", wrong, says) == 2


def test_a_signed_distance_is_no_density(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    about = {"mark": "", "threshold": 0.0, "threshold_from": "the signed distance", "watertight": True}
    about |= dict.fromkeys(("components", "components_kept", "vertices", "faces"), 1)
    about |= {"grid": {"cells": 32}, "colours": {"seen_share": 1.0, "views": 8}}
    monkeypatch.setattr("harness.sweep.select.find_run", lambda words, runs: RunFolder(Path("a")))
    monkeypatch.setattr("harness.objects.final.load", lambda folder, device: None)
    monkeypatch.setattr("harness.objects.export.export_mesh", lambda *_: ("a.glb", about))
    assert call(monkeypatch, "export", "a", "--format", "glb", "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert "watertight; signed distance 0, 32 cells" in said and "density" not in said
