"""Fused CUDA backend in Triton: the hash grids, networks and rays of all R runs in one launch each.

The grid is encoded level by level, so that a level's table stays in the second-level cache; the network's
activations stay in registers; only the interpolated features are kept for the backward pass. Points outside
the cube and points without a gradient cost nothing there. The table's gradient is summed by atomics in the
order of their arrival, so its last bits differ from call to call; where torch is asked for deterministic
algorithms it is summed in 64-bit integers, which no order changes.

The reference for values and gradients is torch: harness.scene.kinds.field and harness.scene.renderer.
Letters: R runs, N points, K = L·F features, H hidden units, O = 1 + C outputs (density, then latent), P rays
of S samples, G programs that share a run's network gradient. …P and B are padded to powers of two.
"""

# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportOperatorIssue=false
# Kernels are typed as the functions that they are written as, not as what launches them.

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from harness.scene.hashgrid import PRIMES, Grid

POINTS = 128  # of one program of the hash grid
BLOCK = 64  # points of one turn of the network
PROGRAMS = 512  # of the network's backward pass, over all runs
RAYS = 8

_Y, _Z = tl.constexpr(PRIMES[1]), tl.constexpr(PRIMES[2])


@triton.jit
def _inside(x_RN3, r, p, N, bound):
    at = x_RN3 + (r.to(tl.int64) * N + p) * 3
    here = p < N
    x = tl.load(at, mask=here, other=0.0)
    y = tl.load(at + 1, mask=here, other=0.0)
    z = tl.load(at + 2, mask=here, other=0.0)
    return x, y, z, here, here & (tl.abs(x) <= bound) & (tl.abs(y) <= bound) & (tl.abs(z) <= bound)


@triton.jit
def _geometry(levels_L4, level):
    # First entry, number of entries, resolution, and whether every lattice point has an entry of its own.
    at = levels_L4 + level * 4
    return tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3) != 0


@triton.jit
def _scaled(x, y, z, scale, bound):
    # From world units to cells of a level.
    half = 0.5 / bound
    return (x * half + 0.5) * scale + 0.5, (y * half + 0.5) * scale + 0.5, (z * half + 0.5) * scale + 0.5


@triton.jit
def _corner(c: tl.constexpr, px, py, pz, size, resolution, dense):
    # Entry and trilinear weight of corner c of the cell round each point.
    ix, iy, iz = px.to(tl.int32), py.to(tl.int32), pz.to(tl.int32)
    fx, fy, fz = px - ix.to(tl.float32), py - iy.to(tl.float32), pz - iz.to(tl.float32)
    if c & 1:
        ix += 1
    else:
        fx = 1.0 - fx
    if c & 2:
        iy += 1
    else:
        fy = 1.0 - fy
    if c & 4:
        iz += 1
    else:
        fz = 1.0 - fz
    if dense:
        entry = ix + resolution * (iy + resolution * iz)
        # The cube's far faces touch one lattice line beyond the table; the index wraps, less than twice
        # round.
        entry = tl.where(entry >= size, entry - size, entry)
    else:
        y = iy.to(tl.uint32) * tl.full(iy.shape, _Y, tl.uint32)
        z = iz.to(tl.uint32) * tl.full(iz.shape, _Z, tl.uint32)
        entry = ((ix.to(tl.uint32) ^ y ^ z) & (size - 1).to(tl.uint32)).to(tl.int32)
    return entry, fx * fy * fz


@triton.jit
def _features(here, F: tl.constexpr, FP: tl.constexpr, B: tl.constexpr):
    # Columns of one entry, which lie together, and the mask of a tile of B entries; kept so plain that the
    # entry's features are read and added to in one access.
    f = tl.arange(0, FP)
    mask = tl.broadcast_to(here[:, None], (B, FP))
    if F < FP:
        mask = mask & (f < F)[None, :]
    return f, mask


@triton.jit
def _encode_forward(x_RN3, table_REF, features_RKN, levels_L4, scales_L, N, E, bound,
                    L: tl.constexpr, F: tl.constexpr, FP: tl.constexpr, B: tl.constexpr):  # fmt: skip
    level, r = tl.program_id(1), tl.program_id(2)
    p = tl.program_id(0) * B + tl.arange(0, B)
    x, y, z, _, inside = _inside(x_RN3, r, p, N, bound)
    if tl.max(inside.to(tl.int32), 0) > 0:
        first, size, resolution, dense = _geometry(levels_L4, level)
        px, py, pz = _scaled(x, y, z, tl.load(scales_L + level), bound)
        table = table_REF + (r.to(tl.int64) * E + first) * F
        f, mask = _features(inside, F, FP, B)
        value = tl.zeros([B, FP], tl.float32)
        for c in tl.static_range(8):
            entry, weight = _corner(c, px, py, pz, size, resolution, dense)
            at = table + entry[:, None] * F + f[None, :]
            value += weight[:, None] * tl.load(at, mask=mask, other=0.0)
        rows = (r * (L * F) + level * F + f).to(tl.int64) * N
        tl.store(features_RKN + rows[None, :] + p[:, None], value, mask=mask)


@triton.jit
def _encode_backward(x_RN3, grad_RKN, gtable_REF, unit_R, levels_L4, scales_L, N, E, bound,
                     WHOLE: tl.constexpr, L: tl.constexpr, F: tl.constexpr, FP: tl.constexpr,
                     B: tl.constexpr):  # fmt: skip
    level, r = tl.program_id(1), tl.program_id(2)
    p = tl.program_id(0) * B + tl.arange(0, B)
    x, y, z, _, inside = _inside(x_RN3, r, p, N, bound)
    if tl.max(inside.to(tl.int32), 0) > 0:
        first, size, resolution, dense = _geometry(levels_L4, level)
        px, py, pz = _scaled(x, y, z, tl.load(scales_L + level), bound)
        table = gtable_REF + (r.to(tl.int64) * E + first) * F
        f, mask = _features(inside, F, FP, B)
        rows = (r * (L * F) + level * F + f).to(tl.int64) * N
        grad = tl.load(grad_RKN + rows[None, :] + p[:, None], mask=mask, other=0.0)
        felt = tl.max(tl.abs(grad), 1) > 0.0
        f, mask = _features(felt, F, FP, B)
        for c in tl.static_range(8):
            entry, weight = _corner(c, px, py, pz, size, resolution, dense)
            at = table + entry[:, None] * F + f[None, :]
            part = weight[:, None] * grad
            if WHOLE:
                part = (part * tl.load(unit_R + r)).to(tl.int64)
            tl.atomic_add(at, part, mask=mask, sem="relaxed")


@triton.jit
def _tile(at, rows, columns, stride, height, width):
    # A matrix [height, width] padded with zeros to the shape of rows × columns.
    mask = (rows < height)[:, None] & (columns < width)[None, :]
    return tl.load(at + rows[:, None] * stride + columns[None, :], mask=mask, other=0.0)


@triton.jit
def _network_forward(x_RN3, features_RKN, w1_RHK, b1_RH, w2_ROH, b2_RO, out_RNO, N, bound, bias, radius,
                     K: tl.constexpr, H: tl.constexpr, O: tl.constexpr,
                     KP: tl.constexpr, HP: tl.constexpr, B: tl.constexpr):  # fmt: skip
    r = tl.program_id(1)
    p = tl.program_id(0) * B + tl.arange(0, B)
    k, h = tl.arange(0, KP), tl.arange(0, HP)
    x, y, z, here, inside = _inside(x_RN3, r, p, N, bound)
    to = out_RNO + (r.to(tl.int64) * N + p) * O
    if tl.max(inside.to(tl.int32), 0) > 0:
        rows = (r * K + k).to(tl.int64) * N
        features = tl.load(features_RKN + rows[:, None] + p[None, :],
                           mask=(k < K)[:, None] & inside[None, :], other=0.0)  # fmt: skip
        w1 = _tile(w1_RHK + r * (H * K), h, k, K, H, K)
        b1 = tl.load(b1_RH + r * H + h, mask=h < H, other=0.0)
        hidden = tl.maximum(tl.dot(w1, features, input_precision="tf32x3") + b1[:, None], 0.0)
        for o in tl.static_range(O):
            w2 = tl.load(w2_ROH + (r * O + o) * H + h, mask=h < H, other=0.0)
            value = tl.sum(hidden * w2[:, None], 0) + tl.load(b2_RO + r * O + o)
            if o == 0:
                raw = value + bias * (1.0 - tl.sqrt(x * x + y * y + z * z) / radius)
                value = tl.maximum(raw, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(raw)))
            tl.store(to + o, tl.where(inside, value, 0.0), mask=here)
    else:
        for o in tl.static_range(O):
            tl.store(to + o, tl.zeros([B], tl.float32), mask=here)


@triton.jit
def _network_backward(x_RN3, features_RKN, w1_RHK, b1_RH, w2_ROH, out_RNO, grad_RNO, gfeatures_RKN,
                      gw1_RGHK, gb1_RGH, gw2_RGOH, gb2_RGO, N, bound,
                      K: tl.constexpr, H: tl.constexpr, O: tl.constexpr,
                      KP: tl.constexpr, HP: tl.constexpr, OP: tl.constexpr, B: tl.constexpr):  # fmt: skip
    g, r, G = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    k, h, o = tl.arange(0, KP), tl.arange(0, HP), tl.arange(0, OP)
    w1 = _tile(w1_RHK + r * (H * K), h, k, K, H, K)
    w2 = _tile(w2_ROH + r * (O * H), o, h, H, O, H)
    b1 = tl.load(b1_RH + r * H + h, mask=h < H, other=0.0)
    rows = (r * K + k).to(tl.int64) * N
    gw1, gb1 = tl.zeros([HP, KP], tl.float32), tl.zeros([HP], tl.float32)
    gw2, gb2 = tl.zeros([OP, HP], tl.float32), tl.zeros([OP], tl.float32)
    for block in range(g, tl.cdiv(N, B), G):
        p = block * B + tl.arange(0, B)
        _, _, _, _, inside = _inside(x_RN3, r, p, N, bound)
        if tl.max(inside.to(tl.int32), 0) > 0:
            at = (r.to(tl.int64) * N + p) * O
            grad = tl.load(grad_RNO + at[None, :] + o[:, None],
                           mask=(o < O)[:, None] & inside[None, :], other=0.0)  # fmt: skip
            density = tl.load(out_RNO + at, mask=inside, other=0.0)
            # The derivative of softplus is the sigmoid, 1 - exp(-softplus).
            grad = tl.where((o == 0)[:, None], grad * (1.0 - tl.exp(-density))[None, :], grad)
            kept = (k < K)[:, None] & inside[None, :]
            features = tl.load(features_RKN + rows[:, None] + p[None, :], mask=kept, other=0.0)
            hidden = tl.maximum(tl.dot(w1, features, input_precision="tf32x3") + b1[:, None], 0.0)
            ghidden = tl.dot(tl.trans(w2), grad, input_precision="tf32x3")
            ghidden = tl.where(hidden > 0.0, ghidden, 0.0)
            gw2 += tl.dot(grad, tl.trans(hidden), input_precision="tf32x3")
            gb2 += tl.sum(grad, 1)
            gw1 += tl.dot(ghidden, tl.trans(features), input_precision="tf32x3")
            gb1 += tl.sum(ghidden, 1)
            gfeatures = tl.dot(tl.trans(w1), ghidden, input_precision="tf32x3")
            tl.store(gfeatures_RKN + rows[:, None] + p[None, :], gfeatures, mask=kept)
    part = r * G + g
    tl.store(gw1_RGHK + part * (H * K) + h[:, None] * K + k[None, :], gw1,
             mask=(h < H)[:, None] & (k < K)[None, :])  # fmt: skip
    tl.store(gb1_RGH + part * H + h, gb1, mask=h < H)
    tl.store(gw2_RGOH + part * (O * H) + o[:, None] * H + h[None, :], gw2,
             mask=(o < O)[:, None] & (h < H)[None, :])  # fmt: skip
    tl.store(gb2_RGO + part * O + o, gb2, mask=o < O)


@triton.jit
def _composite_forward(field_RPSO, depth_RPS, delta_RP, background_RC, x_RCP, weights_RPS, rest_RP,
                       mean_depth_RP, P, S, O: tl.constexpr, SP: tl.constexpr, B: tl.constexpr):  # fmt: skip
    r = tl.program_id(1)
    p, s = tl.program_id(0) * B + tl.arange(0, B), tl.arange(0, SP)
    here = p < P
    ray = r.to(tl.int64) * P + p
    at, mask = ray[:, None] * S + s[None, :], here[:, None] & (s < S)[None, :]
    delta = tl.load(delta_RP + ray, mask=here, other=0.0)
    optical = tl.load(field_RPSO + at * O, mask=mask, other=0.0) * delta[:, None]
    past = tl.cumsum(optical, 1)
    weights = tl.exp(optical - past) * (1.0 - tl.exp(-optical))
    rest = tl.exp(-tl.sum(optical, 1))
    tl.store(weights_RPS + at, weights, mask=mask)
    tl.store(rest_RP + ray, rest, mask=here)
    depth = tl.load(depth_RPS + at, mask=mask, other=0.0)
    tl.store(mean_depth_RP + ray, tl.sum(weights * depth, 1), mask=here)
    for c in tl.static_range(O - 1):
        latent = tl.load(field_RPSO + at * O + 1 + c, mask=mask, other=0.0)
        value = tl.sum(weights * latent, 1) + rest * tl.load(background_RC + r * (O - 1) + c)
        tl.store(x_RCP + (r * (O - 1) + c).to(tl.int64) * P + p, value, mask=here)


@triton.jit
def _composite_backward(field_RPSO, depth_RPS, delta_RP, background_RC, weights_RPS, rest_RP, gx_RCP,
                        gweights_RPS, grest_RP, gdepth_RP, gfield_RPSO, P, S,
                        O: tl.constexpr, SP: tl.constexpr, B: tl.constexpr):  # fmt: skip
    # With E_s = gradient at w_s, dσ_s/δ = E_s T_{s+1} - Σ_{k>s} E_k w_k - E_rest T_end.
    r = tl.program_id(1)
    p, s = tl.program_id(0) * B + tl.arange(0, B), tl.arange(0, SP)
    here = p < P
    ray = r.to(tl.int64) * P + p
    at, mask = ray[:, None] * S + s[None, :], here[:, None] & (s < S)[None, :]
    delta = tl.load(delta_RP + ray, mask=here, other=0.0)
    weights = tl.load(weights_RPS + at, mask=mask, other=0.0)
    felt = tl.load(gweights_RPS + at, mask=mask, other=0.0)
    gdepth = tl.load(gdepth_RP + ray, mask=here, other=0.0)
    felt += gdepth[:, None] * tl.load(depth_RPS + at, mask=mask, other=0.0)
    behind = tl.load(grest_RP + ray, mask=here, other=0.0)
    for c in tl.static_range(O - 1):
        gx = tl.load(gx_RCP + (r * (O - 1) + c).to(tl.int64) * P + p, mask=here, other=0.0)
        behind += gx * tl.load(background_RC + r * (O - 1) + c)
        felt += gx[:, None] * tl.load(field_RPSO + at * O + 1 + c, mask=mask, other=0.0)
        tl.store(gfield_RPSO + at * O + 1 + c, gx[:, None] * weights, mask=mask)
    behind *= tl.load(rest_RP + ray, mask=here, other=0.0)
    past = tl.cumsum(tl.load(field_RPSO + at * O, mask=mask, other=0.0) * delta[:, None], 1)
    carried = felt * weights
    later = tl.cumsum(carried, 1, reverse=True) - carried
    gdensity = delta[:, None] * (felt * tl.exp(-past) - later - behind[:, None])
    tl.store(gfield_RPSO + at * O, gdensity, mask=mask)


def _padded(size: int) -> int:
    return max(16, triton.next_power_of_2(size))  # what a matrix product's sides must be


def _sizes(grid: Grid) -> dict[str, int]:
    features = triton.next_power_of_2(grid.features)
    return {"L": grid.levels, "F": grid.features, "FP": features, "B": POINTS}


@cache
def _levels(grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
    return (
        torch.tensor(grid.geometry, dtype=torch.int32, device=device),
        torch.tensor(grid.scales_L, dtype=torch.float32, device=device),
    )


def _units(gfeatures_RKN: Tensor) -> Tensor:
    """Per run a power of two [R] by which its gradients become whole numbers whose sums fit into 63 bits."""
    most_R = gfeatures_RKN.abs().amax((1, 2)).clamp(min=1e-30).double()
    room = 62 - math.ceil(math.log2(8 * gfeatures_RKN.shape[2]))
    return torch.exp2(room - most_R.log2().ceil()).clamp(max=2.0**120).float()


class _Query(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Grid, blob: tuple[float, float, float], x: Tensor, *params: Tensor) -> Tensor:
        table, w1, b1, w2, b2 = params = tuple(param.contiguous() for param in params)
        x = x.contiguous()
        (R, N, _), (H, K), O = x.shape, w1.shape[1:], w2.shape[1]
        features = x.new_empty(R, K, N)
        out = x.new_empty(R, N, O)
        _encode_forward[triton.cdiv(N, POINTS), grid.levels, R](
            x, table, features, *_levels(grid, x.device), N, grid.entries, blob[0], **_sizes(grid)
        )
        _network_forward[triton.cdiv(N, BLOCK), R](
            x, features, w1, b1, w2, b2, out, N, *blob,
            K=K, H=H, O=O, KP=_padded(K), HP=_padded(H), B=BLOCK,
        )  # fmt: skip
        ctx.save_for_backward(x, features, out, *params)
        ctx.grid, ctx.bound = grid, blob[0]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, features, out, table, w1, b1, w2, b2 = ctx.saved_tensors
        grid = ctx.grid
        (R, N, _), (H, K), O = x.shape, w1.shape[1:], w2.shape[1]
        G = min(triton.cdiv(PROGRAMS, R), triton.cdiv(N, BLOCK))
        parts = [x.new_empty(R, G, *param.shape[1:]) for param in (w1, b1, w2, b2)]
        whole = torch.are_deterministic_algorithms_enabled()
        gfeatures = torch.zeros_like(features) if whole else torch.empty_like(features)
        _network_backward[G, R](
            x, features, w1, b1, w2, out, grad.contiguous(), gfeatures, *parts, N, ctx.bound,
            K=K, H=H, O=O, KP=_padded(K), HP=_padded(H), OP=_padded(O), B=BLOCK,
        )  # fmt: skip
        gtable = torch.zeros_like(table, dtype=torch.int64 if whole else None)
        unit_R = _units(gfeatures) if whole else b1
        _encode_backward[triton.cdiv(N, POINTS), grid.levels, R](
            x,
            gfeatures,
            gtable,
            unit_R,
            *_levels(grid, x.device),
            N,
            grid.entries,
            ctx.bound,
            whole,
            **_sizes(grid),
        )
        if whole:
            gtable = (gtable / unit_R.double()[:, None, None]).float()
        return None, None, None, gtable, *(part.sum(1) for part in parts)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, field: Tensor, depth: Tensor, delta: Tensor, background: Tensor
    ) -> tuple[Tensor, ...]:
        field, depth, delta, background = (part.contiguous() for part in (field, depth, delta, background))
        R, P, S, O = field.shape
        results = tuple(field.new_empty(R, *shape) for shape in ((O - 1, P), (P, S), (P,), (P,)))
        _composite_forward[triton.cdiv(P, RAYS), R](
            field, depth, delta, background, *results, P, S, O=O, SP=triton.next_power_of_2(S), B=RAYS
        )
        ctx.save_for_backward(field, depth, delta, background, results[1], results[2])
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        R, P, S, O = saved[0].shape
        gx, *others = (grad.contiguous() for grad in grads)
        gfield = torch.empty_like(saved[0])
        _composite_backward[triton.cdiv(P, RAYS), R](
            *saved, gx, *others, gfield, P, S, O=O, SP=triton.next_power_of_2(S), B=RAYS
        )
        return gfield, None, None, (saved[5][:, None] * gx).sum(-1)


def query(grid: Grid, blob: tuple[float, float, float], x_RN3: Tensor, *params: Tensor) -> Tensor:
    """Density and latent [R, N, 1 + C] of a field; zero outside the cube of half side `bound`.

    blob: (bound, density_bias, density_radius). params: table_REF, w1_RHK, b1_RH, w2_ROH, b2_RO, float32.
    Differentiable once in params.
    """
    return _Query.apply(grid, blob, x_RN3, *params)  # type: ignore[no-any-return]


def composite(
    field_RPSO: Tensor, depth_RPS: Tensor, delta_RP: Tensor, background_RC: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`harness.scene.renderer.composite`, differentiable once in the field and in the background."""
    return _Composite.apply(field_RPSO, depth_RPS, delta_RP, background_RC)  # type: ignore[no-any-return]
