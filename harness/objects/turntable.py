"""Turntables: a run's object seen once round, as colour, depth and normals."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch

from harness.objects.final import Final, latents, load_prior, pictures
from harness.objects.video import mp4, webp
from harness.records.files import disk_errors, resized, write_bytes, write_json
from harness.records.folder import RunFolder
from harness.scene.cameras import Cameras, make

VERSION = 1
ABOUT = "turntable.json"
FPS = 30
NEUTRAL = 0.93  # grey behind depth and normals
DEPTH_COLOURS = "viridis"  # even steps of depth look like even steps, also to the colour-blind


def is_there(folder: RunFolder, azimuths: int, elevation: float, size: int | None) -> bool:
    """Whether the run has this turntable already, made after it was done."""
    made = str((folder.turntable / ABOUT).relative_to(folder.path))
    about = folder.json(made)
    if not isinstance(about, dict) or not isinstance(about.get("files"), list):
        return False
    asked = {"version": VERSION, "azimuths": azimuths, "elevation": elevation, "asked_size": size}
    return (
        all(about.get(name) == value for name, value in asked.items())
        and all(folder.has(f"{folder.turntable.name}/{name}") for name in about["files"])
        and folder.made_after_result(made)
    )


def write_turntable(
    final: Final, azimuths: int = 120, elevation: float = 15.0, size: int | None = None
) -> Path:
    """Write `<run>/turntable/{colour,depth,normals}.{mp4,webp}` and turntable.json; the folder.

    One turn from the front at `elevation` degrees, at the distance and with the field of view of the run's
    evaluation views. Frames are `size` pixels wide, by default as the prior decodes them.
    """
    prior, views = load_prior(final), final.spec.config.views
    side = size or prior.image_size
    shown = films(final, azimuths, elevation, side)
    near, far = _depths(final)
    out = final.folder.turntable
    out.mkdir(exist_ok=True)
    with disk_errors(out / ABOUT):
        (out / ABOUT).unlink(missing_ok=True)  # it says that the films are whole: it is written last
    for name, frames_VHWC in shown.items():
        write_bytes(out / f"{name}.mp4", mp4(frames_VHWC, FPS))
        write_bytes(out / f"{name}.webp", webp(frames_VHWC, FPS))
    about = final.about | {
        "version": VERSION,
        "azimuths": azimuths,
        "elevation": elevation,
        "distance": views.distance,
        "fov": views.fov,
        "asked_size": size,
        "size": side,
        "decoded_size": prior.image_size,
        "fps": FPS,
        "depth": {"near": near, "far": far, "colours": f"{DEPTH_COLOURS}, reversed: near is bright"},
        "normals": "(n + 1) / 2 in the camera's frame: red right, green up, blue towards the camera",
        "files": [f"{name}.{kind}" for name in shown for kind in ("mp4", "webp")],
    }
    write_json(out / ABOUT, about)
    return out


def films(final: Final, azimuths: int, elevation: float, size: int) -> dict[str, np.ndarray]:
    """Frames of one turn from the front on, by name: colour, depth and normals, each uint8 [V, size, size,
    3]."""
    prior, views = load_prior(final), final.spec.config.views
    turn = [360.0 * n / azimuths for n in range(azimuths)]
    cameras = make(turn, elevation, views.distance, views.fov)
    colour_VHWC = pictures(prior, latents(final, prior, cameras)).numpy()
    depth_VHWC, normals_VHWC = _shape(final, cameras, size, *_depths(final))
    return {"colour": resized(colour_VHWC, size, "BICUBIC"), "depth": depth_VHWC, "normals": normals_VHWC}


def _depths(final: Final) -> tuple[float, float]:
    distance = final.spec.config.views.distance
    return distance - final.scene.bound, distance + final.scene.bound


def _shape(
    final: Final, cameras: Cameras, side: int, near: float, far: float
) -> tuple[np.ndarray, np.ndarray]:
    """Depth and normals straight from the density, each uint8 [V, side, side, 3]."""
    colours = torch.from_numpy(matplotlib.colormaps[DEPTH_COLOURS + "_r"](np.arange(256))[:, :3]).float()
    depth, facing = [], []
    for v in range(len(cameras)):
        seen = final.scene.surface(final.params, cameras[v : v + 1], side, normals=True)
        opacity_P1 = seen.opacity_P[:, None].cpu()
        level_P = ((seen.depth_P - near) / (far - near)).clamp(0, 1).mul(255).round().long().cpu()
        assert seen.normals_P3 is not None
        towards_P3 = in_camera(cameras[v : v + 1], seen.normals_P3.cpu())
        for frames, image_P3 in ((depth, colours[level_P]), (facing, towards_P3 / 2 + 0.5)):
            shown_P3 = opacity_P1 * image_P3 + (1 - opacity_P1) * NEUTRAL
            frames.append((shown_P3.clamp(0, 1) * 255).round().to(torch.uint8).reshape(side, side, 3).numpy())
    return np.stack(depth), np.stack(facing)


def in_camera(camera: Cameras, vectors_P3: torch.Tensor) -> torch.Tensor:
    """World vectors in the frame of one camera: right, up, towards the camera."""
    azimuth, elevation = torch.deg2rad(camera.azimuth_R[0]), torch.deg2rad(camera.elevation_R[0])
    ca, sa, ce, se = azimuth.cos(), azimuth.sin(), elevation.cos(), elevation.sin()
    zero = torch.zeros_like(ca)
    rows = ((-sa, ca, zero), (-se * ca, -se * sa, ce), (ce * ca, ce * sa, se))
    return vectors_P3 @ torch.stack([torch.stack(row) for row in rows]).to(vectors_P3).T
