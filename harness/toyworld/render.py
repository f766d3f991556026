"""Sphere tracing of toy scenes: ground truth at any camera, in the harness's own camera convention."""

import math
from collections.abc import Sequence

import numba
import numpy as np
import torch

from harness.config import ViewsConfig
from harness.device import upload
from harness.threads import torch_threads
from harness.toyworld.grammar import parse
from harness.toyworld.kinds import WIDTH, primitives

BACKGROUND = (0.62, 0.68, 0.75)
SIZE = 64
LIGHT = (0.32, 0.22, 0.92)
AMBIENT = 0.58
SUPERSAMPLING = 2


@numba.njit(cache=True, fastmath=True, inline="always")
def _distance(row, x, y, z):  # type: ignore[no-untyped-def]
    """Signed distance from a point to one primitive (exact but for the ellipsoid's first-order bound)."""
    px, py, pz = x - row[1], y - row[2], z - row[3]
    qx = row[4] * px + row[5] * py + row[6] * pz
    qy = row[7] * px + row[8] * py + row[9] * pz
    qz = row[10] * px + row[11] * py + row[12] * pz
    shape = int(row[0])
    if shape == 0:
        ax, ay, az = qx / row[13], qy / row[14], qz / row[15]
        k0 = math.sqrt(ax * ax + ay * ay + az * az)
        bx, by, bz = ax / row[13], ay / row[14], az / row[15]
        k1 = math.sqrt(bx * bx + by * by + bz * bz)
        if k1 < 1e-6:
            return -min(row[13], row[14], row[15])
        return k0 * (k0 - 1.0) / k1
    if shape == 1:
        r = row[16]
        dx, dy, dz = abs(qx) - row[13] + r, abs(qy) - row[14] + r, abs(qz) - row[15] + r
        ox, oy, oz = max(dx, 0.0), max(dy, 0.0), max(dz, 0.0)
        return math.sqrt(ox * ox + oy * oy + oz * oz) + min(max(dx, max(dy, dz)), 0.0) - r
    radial = math.sqrt(qx * qx + qy * qy)
    if shape == 3:
        a = radial - row[13]
        return math.sqrt(a * a + qz * qz) - row[14]
    r1, r2, h = row[13], row[14], row[15]
    cax = radial - min(radial, r1 if qz < 0.0 else r2)
    cay = abs(qz) - h
    k2x, k2y = r2 - r1, 2.0 * h
    t = ((r2 - radial) * k2x + (h - qz) * k2y) / (k2x * k2x + k2y * k2y)
    t = min(max(t, 0.0), 1.0)
    cbx, cby = radial - r2 + k2x * t, qz - h + k2y * t
    sign = -1.0 if (cbx < 0.0 and cay < 0.0) else 1.0
    return sign * math.sqrt(min(cax * cax + cay * cay, cbx * cbx + cby * cby))


@numba.njit(cache=True, fastmath=True)
def _nearest(rows, count, x, y, z):  # type: ignore[no-untyped-def]
    best, which = 1e9, 0
    for k in range(count):
        d = _distance(rows[k], x, y, z)
        if d < best:
            best, which = d, k
    return best, which


@numba.njit(cache=True, fastmath=True)
def _colour(row, x, y, z):  # type: ignore[no-untyped-def]
    """Bands of height, or balls on a lattice, in units of the object's own size."""
    if row[20] > 0.0:
        s = 1.0 / row[25]
        if row[20] == 1.0:
            painted = math.floor((z * s + 10.0) / 0.2) % 2 == 1
        else:
            u = (x * s + 10.0) / 0.4
            v = (y * s + 10.0) / 0.4
            w = (z * s + 10.0) / 0.4
            u, v, w = u - math.floor(u) - 0.5, v - math.floor(v) - 0.5, w - math.floor(w) - 0.5
            painted = u * u + v * v + w * w < 0.13
        if painted:
            return row[21], row[22], row[23]
    return row[17], row[18], row[19]


@numba.njit(cache=True, fastmath=True, parallel=True)
def _trace(scenes, counts, cameras, lights, size, over, background, out):  # type: ignore[no-untyped-def]
    for n in numba.prange(scenes.shape[0]):
        rows, count, light, ambient = scenes[n], counts[n], lights[n, :3], lights[n, 3]
        az, el, dist, scale = cameras[n, 0], cameras[n, 1], cameras[n, 2], cameras[n, 3]
        ca, sa, ce, se = math.cos(az), math.sin(az), math.cos(el), math.sin(el)
        ox, oy, oz = dist * ce * ca, dist * ce * sa, dist * se
        for i in range(size):
            for j in range(size):
                r_sum, g_sum, b_sum = 0.0, 0.0, 0.0
                for sub in range(over * over):
                    u = (2.0 * (j + (sub % over + 0.5) / over) / size - 1.0) * scale
                    v = (1.0 - 2.0 * (i + (sub // over + 0.5) / over) / size) * scale
                    # forward, right and up of a camera that looks at the origin with z up
                    dx = -ce * ca - u * sa - v * se * ca
                    dy = -ce * sa + u * ca - v * se * sa
                    dz = -se + v * ce
                    norm = math.sqrt(dx * dx + dy * dy + dz * dz)
                    dx, dy, dz = dx / norm, dy / norm, dz / norm
                    b = ox * dx + oy * dy + oz * dz
                    disc = b * b - (dist * dist - 1.1)
                    hit = False
                    which = 0
                    x, y, z = 0.0, 0.0, 0.0
                    if disc > 0.0:
                        t = -b - math.sqrt(disc)
                        end = -b + math.sqrt(disc)
                        for _ in range(64):
                            x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
                            d, which = _nearest(rows, count, x, y, z)
                            if d < 0.003:
                                hit = True
                                break
                            t += 0.9 * d
                            if t > end:
                                break
                    if hit:
                        row, e = rows[which], 0.002
                        nx = _distance(row, x + e, y, z) - _distance(row, x - e, y, z)
                        ny = _distance(row, x, y + e, z) - _distance(row, x, y - e, z)
                        nz = _distance(row, x, y, z + e) - _distance(row, x, y, z - e)
                        length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
                        dot = (nx * light[0] + ny * light[1] + nz * light[2]) / length
                        shade = ambient + (1.0 - ambient) * max(dot, 0.0)
                        r, g, bl = _colour(row, x, y, z)
                        r_sum += r * shade
                        g_sum += g * shade
                        b_sum += bl * shade
                    else:
                        r_sum += background[0]
                        g_sum += background[1]
                        b_sum += background[2]
                k = 255.0 / (over * over)
                out[n, i, j, 0] = np.uint8(min(r_sum * k + 0.5, 255.0))
                out[n, i, j, 1] = np.uint8(min(g_sum * k + 0.5, 255.0))
                out[n, i, j, 2] = np.uint8(min(b_sum * k + 0.5, 255.0))


def render(scenes: Sequence[np.ndarray], cameras: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Trace scene n from camera n.

    scenes: N arrays [K_n, 26] of `objects.primitives`; cameras [N, 4]: azimuth, elevation, distance, field of
    view, in degrees and world units. Returns uint8 [N, size, size, 3].
    """
    return trace(scenes, cameras, world_lights(len(scenes)), torch.device("cpu"), size).numpy()


def trace(
    scenes: Sequence[np.ndarray],
    cameras: np.ndarray,
    lights: np.ndarray,
    device: torch.device,
    size: int = SIZE,
) -> torch.Tensor:
    """`render` on any device, with a light for each picture: [N, 4], a unit vector and what is ambient."""
    most = max(len(rows) for rows in scenes)
    packed = np.zeros((len(scenes), most, WIDTH), dtype=np.float32)
    for n, rows in enumerate(scenes):
        packed[n, : len(rows)] = rows
    counts = np.array([len(rows) for rows in scenes], dtype=np.int32)
    azimuth, elevation, distance, fov = np.array(cameras, dtype=np.float64).T
    seen_from = np.stack(
        [np.deg2rad(azimuth), np.deg2rad(elevation), distance, np.tan(np.deg2rad(fov) / 2)], axis=1
    )
    if device.type == "cuda":
        from harness.toyworld import render_cuda

        floats = [torch.from_numpy(a.astype(np.float32)) for a in (packed, seen_from, lights)]
        rows, seen, lit = (upload(a, device) for a in floats)
        return render_cuda.trace(
            rows, upload(torch.from_numpy(counts), device), seen, lit,
            torch.tensor(BACKGROUND, device=device), size, SUPERSAMPLING,
        )  # fmt: skip
    out = np.empty((len(scenes), size, size, 3), dtype=np.uint8)
    with torch_threads():
        _trace(packed, counts, seen_from, lights, size, SUPERSAMPLING, np.array(BACKGROUND), out)
    return torch.from_numpy(out)


def world_lights(count: int) -> np.ndarray:
    """The world's own light for `trace`, [count, 4]."""
    light = np.array(LIGHT) / np.linalg.norm(LIGHT)
    return np.tile([*light, AMBIENT], (count, 1))


def textureless(
    scenes: Sequence[np.ndarray], cameras: np.ndarray, device: torch.device, size: int = SIZE
) -> torch.Tensor:
    """The shapes alone: white, lit from over the camera by DreamFusion's .1 + .9·max(0, n·l)."""
    white = [rows.copy() for rows in scenes]
    for rows in white:
        rows[:, 17:20], rows[:, 20] = 1.0, 0.0
    azimuth, elevation = np.deg2rad(cameras[:, 0]), np.deg2rad(cameras[:, 1])
    flat = np.cos(elevation)
    lights = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation) + 1.0], axis=1)
    lights /= np.linalg.norm(lights, axis=1, keepdims=True)
    return trace(white, cameras, np.column_stack([lights, np.full(len(lights), 0.1)]), device, size)


def ground_truth(prompt: str, views: ViewsConfig) -> np.ndarray:
    """The prompt's own scene from the evaluation cameras, uint8 [V, 64, 64, 3]."""
    from harness.scene.cameras import evaluation

    columns = evaluation(views).columns()
    return render([primitives(parse(prompt))] * len(columns), columns)


@numba.njit(cache=True, fastmath=True)
def distances(rows, points, out):  # type: ignore[no-untyped-def]
    """Signed distances from points to a scene's solid, negative inside; a bound beside ellipsoids."""
    for n in range(points.shape[0]):
        out[n], _ = _nearest(rows, rows.shape[0], points[n, 0], points[n, 1], points[n, 2])
