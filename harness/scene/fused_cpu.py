"""Fused CPU backend: hash grid, network and activations in one pass, and compositing in another (numba).

Work is cut into tasks of consecutive points of one run, a task into blocks. Tasks do not share results, and
their partial sums are added in their order, so a run's bits depend neither on the other runs of a pack nor on
the number of threads. Activations of a block stay in the first-level cache; only the interpolated features
are kept for the backward pass. Points without a gradient cost nothing there.

Kernels release the GIL and run on plain threads, as many as `torch.get_num_threads()`: numba's own pools
would compete with torch's for the cores. Compiled code is cached beside this file; where that folder is
read-only numba takes the user's cache folder, and `NUMBA_CACHE_DIR` names another.

The reference for values and gradients is torch: harness.scene.kinds.field and harness.scene.renderer.
Letters: R runs, N points, Q tasks of a run, B points of a block, K = L·F features, H hidden units, O = 1 + C
outputs (density, then latent), G the numbers of the network of one run.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from harness.scene.hashgrid import PRIMES, Grid

BLOCK = 128
BLOCKS_PER_TASK = 8
RAYS_PER_TASK = 64

_kernel = njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
_Y, _Z = PRIMES[1:]
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)


@_kernel
def _matmul(a_JK, b_Kn, out_Jn, n):
    # out += a b on the first n columns, two rows and four products at a time so that operands are reused.
    J, K = a_JK.shape
    for j in range(0, J - 1, 2):
        for k in range(0, K - 3, 4):
            a0, a1, a2, a3 = a_JK[j, k], a_JK[j, k + 1], a_JK[j, k + 2], a_JK[j, k + 3]
            c0, c1, c2, c3 = a_JK[j + 1, k], a_JK[j + 1, k + 1], a_JK[j + 1, k + 2], a_JK[j + 1, k + 3]
            for i in range(n):
                x0, x1, x2, x3 = b_Kn[k, i], b_Kn[k + 1, i], b_Kn[k + 2, i], b_Kn[k + 3, i]
                out_Jn[j, i] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
                out_Jn[j + 1, i] += c0 * x0 + c1 * x1 + c2 * x2 + c3 * x3
        for k in range(K - K % 4, K):
            a0, c0 = a_JK[j, k], a_JK[j + 1, k]
            for i in range(n):
                out_Jn[j, i] += a0 * b_Kn[k, i]
                out_Jn[j + 1, i] += c0 * b_Kn[k, i]
    if J % 2:
        for k in range(K):
            a0 = a_JK[J - 1, k]
            for i in range(n):
                out_Jn[J - 1, i] += a0 * b_Kn[k, i]


@_kernel
def _outer(a_Jn, b_Kn, out_JK, n):
    # out += a bᵀ over the first n columns.
    J, K = out_JK.shape
    for j in range(0, J - 1, 2):
        for k in range(0, K - 1, 2):
            s00, s01, s10, s11 = _ZERO, _ZERO, _ZERO, _ZERO
            for i in range(n):
                a0, a1, b0, b1 = a_Jn[j, i], a_Jn[j + 1, i], b_Kn[k, i], b_Kn[k + 1, i]
                s00 += a0 * b0
                s01 += a0 * b1
                s10 += a1 * b0
                s11 += a1 * b1
            out_JK[j, k] += s00
            out_JK[j, k + 1] += s01
            out_JK[j + 1, k] += s10
            out_JK[j + 1, k + 1] += s11
    for j in range(J):
        for k in range(K):
            if (K % 2 and k == K - 1) or (J % 2 and j == J - 1):
                s00 = _ZERO
                for i in range(n):
                    s00 += a_Jn[j, i] * b_Kn[k, i]
                out_JK[j, k] += s00


@_kernel
def _locate(p_3b, n, scale, size, resolution, dense, index_8b, weight_8b):
    # The eight entries round each point on one level, and their trilinear weights. Rows of the scratch arrays
    # lie a constant apart in one dimension: only then does the compiler prove them distinct and vectorise.
    for i in range(n):
        px = p_3b[i] * scale + _HALF
        py = p_3b[BLOCK + i] * scale + _HALF
        pz = p_3b[2 * BLOCK + i] * scale + _HALF
        ix, iy, iz = np.int32(px), np.int32(py), np.int32(pz)
        fx, fy, fz = px - np.float32(ix), py - np.float32(iy), pz - np.float32(iz)
        gx, gy, gz = _ONE - fx, _ONE - fy, _ONE - fz
        x0, y0, z0 = np.int64(ix), np.int64(iy), np.int64(iz)
        x1 = x0 + 1
        if dense:
            y0 *= resolution
            z0 *= resolution * resolution
            y1 = y0 + resolution
            z1 = z0 + resolution * resolution
            a0, a1, a2, a3 = x0 + y0 + z0, x1 + y0 + z0, x0 + y1 + z0, x1 + y1 + z0
            a4, a5, a6, a7 = x0 + y0 + z1, x1 + y0 + z1, x0 + y1 + z1, x1 + y1 + z1
            # The cube's far faces touch one lattice line beyond the table; the index wraps, less than twice
            # round.
            a0 = a0 - size if a0 >= size else a0
            a1 = a1 - size if a1 >= size else a1
            a2 = a2 - size if a2 >= size else a2
            a3 = a3 - size if a3 >= size else a3
            a4 = a4 - size if a4 >= size else a4
            a5 = a5 - size if a5 >= size else a5
            a6 = a6 - size if a6 >= size else a6
            a7 = a7 - size if a7 >= size else a7
        else:
            mask = size - 1
            y0 *= _Y
            z0 *= _Z
            y1 = y0 + _Y
            z1 = z0 + _Z
            a0, a1, a2, a3 = (x0 ^ y0 ^ z0), (x1 ^ y0 ^ z0), (x0 ^ y1 ^ z0), (x1 ^ y1 ^ z0)
            a4, a5, a6, a7 = (x0 ^ y0 ^ z1), (x1 ^ y0 ^ z1), (x0 ^ y1 ^ z1), (x1 ^ y1 ^ z1)
            a0, a1, a2, a3 = a0 & mask, a1 & mask, a2 & mask, a3 & mask
            a4, a5, a6, a7 = a4 & mask, a5 & mask, a6 & mask, a7 & mask
        index_8b[i] = a0
        index_8b[BLOCK + i] = a1
        index_8b[2 * BLOCK + i] = a2
        index_8b[3 * BLOCK + i] = a3
        index_8b[4 * BLOCK + i] = a4
        index_8b[5 * BLOCK + i] = a5
        index_8b[6 * BLOCK + i] = a6
        index_8b[7 * BLOCK + i] = a7
        weight_8b[i] = gx * gy * gz
        weight_8b[BLOCK + i] = fx * gy * gz
        weight_8b[2 * BLOCK + i] = gx * fy * gz
        weight_8b[3 * BLOCK + i] = fx * fy * gz
        weight_8b[4 * BLOCK + i] = gx * gy * fz
        weight_8b[5 * BLOCK + i] = fx * gy * fz
        weight_8b[6 * BLOCK + i] = gx * fy * fz
        weight_8b[7 * BLOCK + i] = fx * fy * fz


@_kernel
def _gather(n, index_8b, weight_8b, table_EF, out_FB):
    if table_EF.shape[1] == 2:
        for i in range(n):
            s0, s1 = _ZERO, _ZERO
            for c in range(8):
                e, w = index_8b[c * BLOCK + i], weight_8b[c * BLOCK + i]
                s0 += w * table_EF[e, 0]
                s1 += w * table_EF[e, 1]
            out_FB[0, i] = s0
            out_FB[1, i] = s1
    else:
        for f in range(table_EF.shape[1]):
            for i in range(n):
                s0 = _ZERO
                for c in range(8):
                    s0 += weight_8b[c * BLOCK + i] * table_EF[index_8b[c * BLOCK + i], f]
                out_FB[f, i] = s0


@_kernel
def _scatter(n, index_8b, weight_8b, grad_FB, table_EF):
    if table_EF.shape[1] == 2:
        for i in range(n):
            g0, g1 = grad_FB[0, i], grad_FB[1, i]
            for c in range(8):
                e, w = index_8b[c * BLOCK + i], weight_8b[c * BLOCK + i]
                table_EF[e, 0] += w * g0
                table_EF[e, 1] += w * g1
    else:
        for f in range(table_EF.shape[1]):
            for i in range(n):
                for c in range(8):
                    table_EF[index_8b[c * BLOCK + i], f] += weight_8b[c * BLOCK + i] * grad_FB[f, i]


@_kernel
def _unit_points(x_N3, pick_B, start, n, half_over_bound, p_3b):
    for i in range(n):
        p = start + pick_B[i]
        for d in range(3):
            p_3b[d * BLOCK + i] = x_N3[p, d] * half_over_bound + _HALF


@_kernel
def _query_forward(task, end, x_RN3, table_REF, w1_RHK, b1_RH, w2_ROH, b2_RO, levels_L4, scales_L, blob,
                   out_RNO, features_RMKB, pick_RMB, count_RM):  # fmt: skip
    N, outputs = out_RNO.shape[1:]
    H, K = w1_RHK.shape[1:]
    F = table_REF.shape[2]
    M = features_RMKB.shape[1]
    bound, bias, radius = blob
    tasks = -(-N // (BLOCK * BLOCKS_PER_TASK))
    p_3b = np.empty(3 * BLOCK, np.float32)
    index_8b = np.empty(8 * BLOCK, np.int32)
    weight_8b = np.empty(8 * BLOCK, np.float32)
    pick_B = np.empty(BLOCK, np.int32)
    features_KB = np.empty((K, BLOCK), np.float32)
    hidden_HB = np.empty((H, BLOCK), np.float32)
    out_OB = np.empty((outputs, BLOCK), np.float32)
    while task < end:
        r, q = task // tasks, task % tasks
        task += 1
        x_N3 = x_RN3[r]
        for block in range(q * BLOCKS_PER_TASK, (q + 1) * BLOCKS_PER_TASK):
            start = block * BLOCK
            n = 0
            for i in range(min(BLOCK, N - start)):
                x, y, z = x_N3[start + i]
                for o in range(outputs):
                    out_RNO[r, start + i, o] = 0
                if abs(x) <= bound and abs(y) <= bound and abs(z) <= bound:
                    pick_B[n] = i
                    n += 1
            if n:
                _unit_points(x_N3, pick_B, start, n, _HALF / bound, p_3b)
                for level in range(len(scales_L)):
                    first, size, resolution, dense = levels_L4[level]
                    _locate(p_3b, n, scales_L[level], size, resolution, dense != 0, index_8b, weight_8b)
                    _gather(n, index_8b, weight_8b, table_REF[r, first : first + size],
                            features_KB[level * F : (level + 1) * F])  # fmt: skip
                for j in range(H):
                    hidden_HB[j, :n] = b1_RH[r, j]
                _matmul(w1_RHK[r], features_KB, hidden_HB, n)
                for j in range(H):
                    for i in range(n):
                        hidden_HB[j, i] = max(hidden_HB[j, i], _ZERO)
                for o in range(outputs):
                    out_OB[o, :n] = b2_RO[r, o]
                _matmul(w2_ROH[r], hidden_HB, out_OB, n)
                for i in range(n):
                    p = start + pick_B[i]
                    x, y, z = x_N3[p]
                    raw = out_OB[0, i] + bias * (_ONE - math.sqrt(x * x + y * y + z * z) / radius)
                    out_RNO[r, p, 0] = max(raw, _ZERO) + math.log1p(math.exp(-abs(raw)))
                    for o in range(1, outputs):
                        out_RNO[r, p, o] = out_OB[o, i]
            if block < M:
                count_RM[r, block] = n
                pick_RMB[r, block, :n] = pick_B[:n]
                features_RMKB[r, block, :, :n] = features_KB[:, :n]


@_kernel
def _query_backward(task, end, out_RNO, grad_RNO, w1_RHK, b1_RH, w2_ROH, features_RMKB, pick_RMB, count_RM,
                    grads_RQG):  # fmt: skip
    # Gradients of the network as one partial sum per task; kept features are replaced by their gradients.
    outputs = out_RNO.shape[2]
    H, K = w1_RHK.shape[1:]
    tasks = grads_RQG.shape[1]
    features_KB = np.empty((K, BLOCK), np.float32)
    hidden_HB = np.empty((H, BLOCK), np.float32)
    grad_HB = np.empty((H, BLOCK), np.float32)
    grad_OB = np.empty((outputs, BLOCK), np.float32)
    while task < end:
        r, q = task // tasks, task % tasks
        task += 1
        grads_G = grads_RQG[r, q]
        grads_G[:] = 0
        gw1_HK = grads_G[: H * K].reshape(H, K)
        gb1_H = grads_G[H * K : H * K + H]
        gw2_OH = grads_G[H * K + H : H * K + H + outputs * H].reshape(outputs, H)
        gb2_O = grads_G[H * K + H + outputs * H :]
        for block in range(q * BLOCKS_PER_TASK, min((q + 1) * BLOCKS_PER_TASK, features_RMKB.shape[1])):
            start = block * BLOCK
            n = 0
            for i in range(count_RM[r, block]):
                p = start + pick_RMB[r, block, i]
                live = False
                for o in range(outputs):
                    live |= grad_RNO[r, p, o] != 0
                if live:
                    # softplus'(raw) = 1 - exp(-softplus(raw))
                    grad_OB[0, n] = -grad_RNO[r, p, 0] * math.expm1(-out_RNO[r, p, 0])
                    for o in range(1, outputs):
                        grad_OB[o, n] = grad_RNO[r, p, o]
                    for k in range(K):
                        features_KB[k, n] = features_RMKB[r, block, k, i]
                    pick_RMB[r, block, n] = pick_RMB[r, block, i]
                    n += 1
            count_RM[r, block] = n
            if n == 0:
                continue
            for j in range(H):
                hidden_HB[j, :n] = b1_RH[r, j]
            _matmul(w1_RHK[r], features_KB, hidden_HB, n)
            grad_HB[:, :n] = 0
            _matmul(w2_ROH[r].T, grad_OB, grad_HB, n)
            for j in range(H):
                for i in range(n):
                    on = hidden_HB[j, i] > 0
                    hidden_HB[j, i] = hidden_HB[j, i] if on else _ZERO
                    grad_HB[j, i] = grad_HB[j, i] if on else _ZERO
            _outer(grad_OB, hidden_HB, gw2_OH, n)
            _outer(grad_HB, features_KB, gw1_HK, n)
            for o in range(outputs):
                gb2_O[o] += grad_OB[o, :n].sum()
            for j in range(H):
                gb1_H[j] += grad_HB[j, :n].sum()
            features_RMKB[r, block, :, :n] = 0
            _matmul(w1_RHK[r].T, grad_HB, features_RMKB[r, block], n)


@_kernel
def _table_backward(task, end, x_RN3, grad_RMKB, pick_RMB, count_RM, levels_L4, scales_L, bound, grad_REF):
    # One task is one level of one run: it alone writes that part of the table, point by point in order.
    L = len(scales_L)
    F = grad_REF.shape[2]
    p_3b = np.empty(3 * BLOCK, np.float32)
    index_8b = np.empty(8 * BLOCK, np.int32)
    weight_8b = np.empty(8 * BLOCK, np.float32)
    while task < end:
        r, level = task // L, task % L
        task += 1
        first, size, resolution, dense = levels_L4[level]
        grad_EF = grad_REF[r, first : first + size]
        grad_EF[:] = 0
        for block in range(count_RM.shape[1]):
            n = count_RM[r, block]
            _unit_points(x_RN3[r], pick_RMB[r, block], block * BLOCK, n, _HALF / bound, p_3b)
            _locate(p_3b, n, scales_L[level], size, resolution, dense != 0, index_8b, weight_8b)
            _scatter(n, index_8b, weight_8b, grad_RMKB[r, block, level * F : (level + 1) * F], grad_EF)


@_kernel
def _composite_forward(task, end, field_RPSO, depth_RPS, delta_RP, background_RC, x_RCP, weights_RPS,
                       rest_RP, mean_depth_RP):  # fmt: skip
    P, S, outputs = field_RPSO.shape[1:]
    C = outputs - 1
    tasks = -(-P // RAYS_PER_TASK)
    colour_C = np.empty(C, np.float32)
    while task < end:
        r, q = task // tasks, task % tasks
        task += 1
        for p in range(q * RAYS_PER_TASK, min(P, (q + 1) * RAYS_PER_TASK)):
            colour_C[:] = 0
            depth = _ZERO
            rest = _ONE
            for s in range(S):
                density = field_RPSO[r, p, s, 0]
                weight = _ZERO
                if density > 0:
                    through = np.float32(math.exp(-density * delta_RP[r, p]))
                    weight = rest * (_ONE - through)
                    rest *= through
                    for c in range(C):
                        colour_C[c] += weight * field_RPSO[r, p, s, 1 + c]
                    depth += weight * depth_RPS[r, p, s]
                weights_RPS[r, p, s] = weight
            for c in range(C):
                x_RCP[r, c, p] = colour_C[c] + rest * background_RC[r, c]
            rest_RP[r, p] = rest
            mean_depth_RP[r, p] = depth


@_kernel
def _composite_backward(task, end, field_RPSO, depth_RPS, delta_RP, background_RC, weights_RPS, rest_RP,
                        gx_RCP, gweights_RPS, grest_RP, gdepth_RP, gfield_RPSO, gbackground_RQC):  # fmt: skip
    # With E_s = gradient at w_s, dσ_s/δ = E_s T_{s+1} - Σ_{k>s} E_k w_k - E_rest T_end, from the last sample
    # back.
    P, S, outputs = field_RPSO.shape[1:]
    C = outputs - 1
    tasks = gbackground_RQC.shape[1]
    g_C = np.empty(C, np.float32)
    while task < end:
        r, q = task // tasks, task % tasks
        task += 1
        gbackground_RQC[r, q] = 0
        for p in range(q * RAYS_PER_TASK, min(P, (q + 1) * RAYS_PER_TASK)):
            rest = rest_RP[r, p]
            behind = grest_RP[r, p]
            for c in range(C):
                g_C[c] = gx_RCP[r, c, p]
                behind += g_C[c] * background_RC[r, c]
                gbackground_RQC[r, q, c] += g_C[c] * rest
            behind *= rest
            ahead = rest
            delta = delta_RP[r, p]
            for s in range(S - 1, -1, -1):
                density, weight = field_RPSO[r, p, s, 0], weights_RPS[r, p, s]
                if density > 0:
                    at = gweights_RPS[r, p, s] + gdepth_RP[r, p] * depth_RPS[r, p, s]
                    for c in range(C):
                        at += g_C[c] * field_RPSO[r, p, s, 1 + c]
                        gfield_RPSO[r, p, s, 1 + c] = g_C[c] * weight
                    gfield_RPSO[r, p, s, 0] = delta * (at * ahead - behind)
                    behind += at * weight
                    ahead += weight
                else:
                    for o in range(outputs):
                        gfield_RPSO[r, p, s, o] = 0


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # Keyed by process: threads do not survive a fork.
    return ThreadPoolExecutor(threads, "fused_cpu")


def _launch(kernel: Callable[..., None], tasks: int, *arguments: Any) -> None:
    """Run kernel(first, end, *arguments) over all tasks on torch's number of threads, this one included."""
    threads = min(torch.get_num_threads(), tasks)
    if threads <= 1 or threading.current_thread().name.startswith("fused_cpu"):
        kernel(0, tasks, *arguments)
        return
    pieces = min(tasks, 4 * threads)
    counter = itertools.count()

    def work() -> None:
        while (piece := next(counter)) < pieces:
            kernel(piece * tasks // pieces, (piece + 1) * tasks // pieces, *arguments)

    futures = [_pool(os.getpid(), threads - 1).submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        for future in futures:
            future.result()


def _numpy(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _ordered_sum(parts_RQG: Tensor) -> Tensor:
    # One addition after the other: a library's reduction may choose its order by the number of runs.
    total_RG = parts_RQG[:, 0].clone()
    for part_RG in parts_RQG.unbind(1)[1:]:
        total_RG += part_RG
    return total_RG


@cache
def _levels(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    return np.array(grid.geometry, np.int64), np.array(grid.scales_L, np.float32)


class _Query(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Grid, blob: np.ndarray, keep: bool, x: Tensor, *params: Tensor) -> Tensor:
        (R, N, _), outputs = x.shape, params[4].shape[1]
        blocks = -(-N // BLOCK)
        tasks = -(-blocks // BLOCKS_PER_TASK)
        M = blocks if keep else 0
        features = np.empty((R, M, params[1].shape[2], BLOCK), np.float32)
        pick, count = np.empty((R, M, BLOCK), np.int32), np.empty((R, M), np.int32)
        out = torch.empty(R, N, outputs)
        _launch(_query_forward, R * tasks, *_numpy(x, *params), *_levels(grid), blob, out.numpy(), features,
                pick, count)  # fmt: skip
        if keep:
            ctx.save_for_backward(x, out, *params)
            ctx.grid, ctx.blob, ctx.tasks, ctx.kept = grid, blob, tasks, (features, pick, count)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, out, table, w1, b1, w2, b2 = ctx.saved_tensors
        if ctx.kept is None:
            raise RuntimeError("the fused field keeps its features for one backward pass; render again")
        (features, pick, count), ctx.kept = ctx.kept, None
        R = x.shape[0]
        sizes = [w1[0].numel(), b1.shape[1], w2[0].numel(), b2.shape[1]]
        parts = torch.empty(R, ctx.tasks, sum(sizes))
        _launch(_query_backward, R * ctx.tasks, *_numpy(out, grad, w1, b1, w2), features, pick, count,
                parts.numpy())  # fmt: skip
        gtable = torch.empty_like(table)
        levels, scales = _levels(ctx.grid)
        _launch(_table_backward, R * len(scales), *_numpy(x), features, pick, count, levels, scales,
                ctx.blob[0], gtable.numpy())  # fmt: skip
        gw1, gb1, gw2, gb2 = _ordered_sum(parts).split(sizes, 1)
        return None, None, None, None, gtable, gw1.view_as(w1), gb1, gw2.view_as(w2), gb2


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, field: Tensor, depth: Tensor, delta: Tensor, background: Tensor
    ) -> tuple[Tensor, ...]:
        R, P, S, outputs = field.shape
        x, weights = torch.empty(R, outputs - 1, P), torch.empty(R, P, S)
        rest, mean_depth = torch.empty(R, P), torch.empty(R, P)
        results = (x, weights, rest, mean_depth)
        _launch(_composite_forward, R * -(-P // RAYS_PER_TASK), *_numpy(field, depth, delta, background),
                *(result.numpy() for result in results))  # fmt: skip
        ctx.save_for_backward(field, depth, delta, background, weights, rest)
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        R, P, _, outputs = saved[0].shape
        tasks = -(-P // RAYS_PER_TASK)
        gfield, gbackground = torch.empty_like(saved[0]), torch.empty(R, tasks, outputs - 1)
        _launch(_composite_backward, R * tasks, *_numpy(*saved, *grads), gfield.numpy(), gbackground.numpy())
        return gfield, None, None, _ordered_sum(gbackground)


def query(grid: Grid, blob: tuple[float, float, float], x_RN3: Tensor, *params: Tensor) -> Tensor:
    """Density and latent [R, N, 1 + C] of a field; zero outside the cube of half side `bound`.

    blob: (bound, density_bias, density_radius). params: table_REF, w1_RHK, b1_RH, w2_ROH, b2_RO.
    Differentiable once in params, for one backward pass; raises RuntimeError at a second one.
    """
    keep = torch.is_grad_enabled() and any(param.requires_grad for param in params)
    return _Query.apply(grid, np.array(blob, np.float32), keep, x_RN3, *params)  # type: ignore[no-any-return]


def composite(
    field_RPSO: Tensor, depth_RPS: Tensor, delta_RP: Tensor, background_RC: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`harness.scene.renderer.composite`, differentiable once in the field and in the background."""
    return _Composite.apply(field_RPSO, depth_RPS, delta_RP, background_RC)  # type: ignore[no-any-return]
