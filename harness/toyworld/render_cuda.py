"""The sphere tracing of `harness.toyworld.render` as one Triton kernel, for training on a GPU.

A program draws `BLOCK` pixels of one picture. The reference is the CPU's kernel; the two agree to a level or
two of 255 at edges.
"""

# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportOperatorIssue=false
# Kernels are typed as the functions that they are written as, not as what launches them.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.toyworld.kinds import WIDTH

BLOCK = 128
_WIDTH = tl.constexpr(WIDTH)


@triton.jit
def _distance(row, x, y, z):
    # Signed distance to one primitive; `row` is one pointer, or one for each point.
    px, py, pz = x - tl.load(row + 1), y - tl.load(row + 2), z - tl.load(row + 3)
    qx = tl.load(row + 4) * px + tl.load(row + 5) * py + tl.load(row + 6) * pz
    qy = tl.load(row + 7) * px + tl.load(row + 8) * py + tl.load(row + 9) * pz
    qz = tl.load(row + 10) * px + tl.load(row + 11) * py + tl.load(row + 12) * pz
    shape = tl.load(row)
    s0, s1, s2, s3 = tl.load(row + 13), tl.load(row + 14), tl.load(row + 15), tl.load(row + 16)
    # An ellipsoid's first-order bound. The least sizes keep what is not taken finite.
    e0, e1, e2 = tl.maximum(s0, 1e-6), tl.maximum(s1, 1e-6), tl.maximum(s2, 1e-6)
    ax, ay, az = qx / e0, qy / e1, qz / e2
    k0 = tl.sqrt(ax * ax + ay * ay + az * az)
    bx, by, bz = ax / e0, ay / e1, az / e2
    k1 = tl.sqrt(bx * bx + by * by + bz * bz)
    inner = -tl.minimum(tl.minimum(s0, s1), s2)
    ellipsoid = tl.where(k1 < 1e-6, inner, k0 * (k0 - 1.0) / tl.maximum(k1, 1e-6))
    # a rounded box
    dx, dy, dz = tl.abs(qx) - s0 + s3, tl.abs(qy) - s1 + s3, tl.abs(qz) - s2 + s3
    ox, oy, oz = tl.maximum(dx, 0.0), tl.maximum(dy, 0.0), tl.maximum(dz, 0.0)
    inside = tl.minimum(tl.maximum(dx, tl.maximum(dy, dz)), 0.0)
    box = tl.sqrt(ox * ox + oy * oy + oz * oz) + inside - s3
    # a torus
    radial = tl.sqrt(qx * qx + qy * qy)
    ring = radial - s0
    torus = tl.sqrt(ring * ring + qz * qz) - s1
    # a capped cone of radii s0 and s1 and half-length s2
    cax = radial - tl.minimum(radial, tl.where(qz < 0.0, s0, s1))
    cay = tl.abs(qz) - s2
    kx, ky = s1 - s0, 2.0 * s2
    share = ((s1 - radial) * kx + (s2 - qz) * ky) / tl.maximum(kx * kx + ky * ky, 1e-12)
    share = tl.minimum(tl.maximum(share, 0.0), 1.0)
    cbx, cby = radial - s1 + kx * share, qz - s2 + ky * share
    nearest = tl.sqrt(tl.minimum(cax * cax + cay * cay, cbx * cbx + cby * cby))
    cone = tl.where((cbx < 0.0) & (cay < 0.0), -nearest, nearest)
    found = tl.where(shape < 0.5, ellipsoid, box)
    found = tl.where(shape > 1.5, cone, found)
    return tl.where(shape > 2.5, torus, found)


@triton.jit
def _even(x):
    half = tl.floor(x) * 0.5
    return half - tl.floor(half) == 0.0


@triton.jit
def _offset(x):
    return x - tl.floor(x) - 0.5


@triton.jit
def _trace(rows_NKW, counts_N, cameras_N4, lights_N4, backgrounds_3, out_NHW3, K, SIDE,
           OVER: tl.constexpr, B: tl.constexpr):  # fmt: skip
    n = tl.program_id(1)
    pixel = tl.program_id(0) * B + tl.arange(0, B)
    here = pixel < SIDE * SIDE
    i, j = (pixel // SIDE).to(tl.float32), (pixel % SIDE).to(tl.float32)
    first, count = rows_NKW + n * K * _WIDTH, tl.load(counts_N + n)
    az, el = tl.load(cameras_N4 + n * 4), tl.load(cameras_N4 + n * 4 + 1)
    distance, scale = tl.load(cameras_N4 + n * 4 + 2), tl.load(cameras_N4 + n * 4 + 3)
    ca, sa, ce, se = tl.cos(az), tl.sin(az), tl.cos(el), tl.sin(el)
    ox, oy, oz = distance * ce * ca, distance * ce * sa, distance * se
    lx, ly = tl.load(lights_N4 + n * 4), tl.load(lights_N4 + n * 4 + 1)
    lz, ambient = tl.load(lights_N4 + n * 4 + 2), tl.load(lights_N4 + n * 4 + 3)
    red = tl.full([B], 0.0, tl.float32)
    green = tl.full([B], 0.0, tl.float32)
    blue = tl.full([B], 0.0, tl.float32)
    for sub in range(OVER * OVER):
        u = (2.0 * (j + (sub % OVER + 0.5) / OVER) / SIDE - 1.0) * scale
        v = (1.0 - 2.0 * (i + (sub // OVER + 0.5) / OVER) / SIDE) * scale
        # forward, right and up of a camera that looks at the origin with z up
        dx, dy, dz = -ce * ca - u * sa - v * se * ca, -ce * sa + u * ca - v * se * sa, -se + v * ce
        norm = tl.sqrt(dx * dx + dy * dy + dz * dz)
        dx, dy, dz = dx / norm, dy / norm, dz / norm
        b = ox * dx + oy * dy + oz * dz
        disc = b * b - (distance * distance - 1.1)
        root = tl.sqrt(tl.maximum(disc, 0.0))
        t, end = -b - root, -b + root
        going = here & (disc > 0.0)
        hit = going & (disc < 0.0)  # nowhere
        which = tl.full([B], 0, tl.int32)
        step = 0
        while (step < 64) & (tl.max(going.to(tl.int32), 0) > 0):
            x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
            best = tl.full([B], 1e9, tl.float32)
            nearest = tl.full([B], 0, tl.int32)
            for k in range(count):
                d = _distance(first + k * _WIDTH, x, y, z)
                nearest = tl.where(d < best, k, nearest)
                best = tl.minimum(best, d)
            arrived = going & (best < 0.003)
            hit = hit | arrived
            which = tl.where(arrived, nearest, which)
            going = going & (best >= 0.003)
            t = tl.where(going, t + 0.9 * best, t)
            going = going & (t <= end)
            step += 1
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        row = first + which * _WIDTH
        nx = _distance(row, x + 0.002, y, z) - _distance(row, x - 0.002, y, z)
        ny = _distance(row, x, y + 0.002, z) - _distance(row, x, y - 0.002, z)
        nz = _distance(row, x, y, z + 0.002) - _distance(row, x, y, z - 0.002)
        length = tl.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
        shade = ambient + (1.0 - ambient) * tl.maximum((nx * lx + ny * ly + nz * lz) / length, 0.0)
        # bands of height, or balls on a lattice, in units of the object's own size
        pattern, s = tl.load(row + 20), 1.0 / tl.load(row + 25)
        banded = (pattern > 0.5) & (pattern < 1.5) & ~_even((z * s + 10.0) / 0.2)
        bu, bv, bw = (
            _offset((x * s + 10.0) / 0.4),
            _offset((y * s + 10.0) / 0.4),
            _offset((z * s + 10.0) / 0.4),
        )
        spotted = (pattern > 1.5) & (bu * bu + bv * bv + bw * bw < 0.13)
        at = row + tl.where(banded | spotted, 21, 17)
        red += tl.where(hit, tl.load(at) * shade, tl.load(backgrounds_3))
        green += tl.where(hit, tl.load(at + 1) * shade, tl.load(backgrounds_3 + 1))
        blue += tl.where(hit, tl.load(at + 2) * shade, tl.load(backgrounds_3 + 2))
    to = out_NHW3 + (n * SIDE * SIDE + pixel) * 3
    level = 255.0 / (OVER * OVER)
    tl.store(to, tl.minimum(red * level + 0.5, 255.0).to(tl.uint8), mask=here)
    tl.store(to + 1, tl.minimum(green * level + 0.5, 255.0).to(tl.uint8), mask=here)
    tl.store(to + 2, tl.minimum(blue * level + 0.5, 255.0).to(tl.uint8), mask=here)


def trace(
    rows_NKW: Tensor, counts_N: Tensor, cameras_N4: Tensor, lights_N4: Tensor, background_3: Tensor,
    side: int, over: int,
) -> Tensor:  # fmt: skip
    """uint8 [N, side, side, 3] on the device of its arguments: float32, counts int32.

    cameras: azimuth and elevation in radians, distance, tangent of half the field of view; lights: a unit
    vector to the light and the share of ambient light.
    """
    n, most, _ = rows_NKW.shape
    out = torch.empty((n, side, side, 3), dtype=torch.uint8, device=rows_NKW.device)
    grid = (triton.cdiv(side * side, BLOCK), n)
    _trace[grid](rows_NKW, counts_N, cameras_N4, lights_N4, background_3, out, most, side, over, BLOCK)
    return out
