"""The generator g(θ): a hash grid and a small network give density and latent colour, R fields at once."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from harness import rng
from harness.config import UserError, nearest
from harness.device import has_c_compiler
from harness.scene import hashgrid, tcnn

if TYPE_CHECKING:
    from harness.config import SceneConfig

BACKENDS = ("numba", "torch", "triton", "tinycudann")
Params = dict[str, Tensor]


@cache
def unavailable(backend: str) -> str | None:
    """Why a backend cannot be used on this machine, in a few words, or None where it can."""
    if backend == "tinycudann":
        return tcnn.missing()
    if backend == "triton":
        if not torch.cuda.is_available():
            return "there is no CUDA device"
        if not has_c_compiler():
            return "there is no C compiler"
    try:
        fused(backend)
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: nowhere to cache compiled code
        return str(error).splitlines()[0]
    return None


@cache
def choose_backend(device: str, requested: str = "auto") -> str:
    """The encoder to use on a device: `requested`, or for "auto" the fastest there is.

    Falls back to "torch" with one line of notice when the fastest is missing. A backend asked for by name
    that cannot be used is a UserError, and so is an unknown name.
    """
    kind = torch.device(device).type
    if requested not in ("auto", *BACKENDS):
        raise UserError(f"unknown encoder '{requested}'{nearest(requested, ('auto', *BACKENDS))}")
    wanted = requested if requested != "auto" else {"cpu": "numba", "cuda": "triton"}.get(kind, "torch")
    reason = unavailable(wanted)
    if wanted != "torch" and reason is None and (wanted == "numba") != (kind == "cpu"):
        reason = f"it does not run on {kind}"
    if reason is None:
        return wanted
    if requested != "auto":
        raise UserError(f"encoder '{requested}' cannot be used: {reason}; choose auto or torch")
    logging.getLogger(__name__).warning("encoder %s is not available (%s); using torch", wanted, reason)
    return "torch"


def by_run(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """function(*tensors), on the CPU one run at a time: torch's kernels round by the size of the whole pack.

    tensors: [R, ...] each, and so are the results.
    """
    R = tensors[0].shape[0]
    if R == 1 or tensors[0].device.type != "cpu":
        return function(*tensors)
    # A clone has the alignment of a pack of one.
    runs = [function(*(tensor[r : r + 1].clone() for tensor in tensors)) for r in range(R)]
    return tuple(torch.cat(parts) for parts in zip(*runs, strict=True))


def fused(backend: str) -> Any:
    """The backend's module with `query` and `composite`; None where torch does both."""
    name = {"numba": "fused_cpu", "triton": "fused_cuda"}.get(backend)
    return importlib.import_module(f"harness.scene.{name}") if name else None


class HashField:
    """R fields of one shape; their numbers live in a dict of tensors [R, ...], float32, that the caller owns.

    Keys: "table" [R, E, F], "w1" [R, H, L·F], "b1" [R, H], "w2" [R, 1 + C, H], "b2" [R, 1 + C] and, where the
    background is learned, "background" [R, C]. `backend` is one that choose_backend returned.
    """

    def __init__(self, cfg: SceneConfig, channels: int, backend: str) -> None:
        self.cfg, self.channels, self.backend = cfg, channels, backend
        self._settings = (cfg.levels, cfg.features, cfg.log2_hashmap, cfg.base_resolution, cfg.growth)
        self.grid = hashgrid.grid(*self._settings)
        self.fused = fused(backend)

    def init(self, keys: Sequence[rng.Key], background_RC: Tensor | None = None) -> Params:
        """Fresh parameters on the CPU, a run's from its key alone.

        Table uniform in ±1e-4 (Instant-NGP §3), weights uniform in ±sqrt(6 / inputs) and ±sqrt(3 / inputs)
        (He), biases zero. background_RC: where a learned background starts; ValueError where it is needed and
        missing.
        """
        inputs, hidden, outputs = self.cfg.levels * self.cfg.features, self.cfg.hidden, 1 + self.channels
        shapes = {
            "table": ((self.grid.entries, self.cfg.features), 1e-4),
            "w1": ((hidden, inputs), (6 / inputs) ** 0.5),
            "w2": ((outputs, hidden), (3 / hidden) ** 0.5),
        }
        sizes = {name: shape[0] * shape[1] for name, (shape, _) in shapes.items()}
        u_RG = rng.uniform(keys, [0] * len(keys), "init", (sum(sizes.values()),))
        draws = u_RG.split(list(sizes.values()), 1)
        params = {
            name: ((2 * u - 1) * width).reshape(-1, *shape)
            for (name, (shape, width)), u in zip(shapes.items(), draws, strict=True)
        }
        params["b1"] = torch.zeros(len(keys), hidden)
        params["b2"] = torch.zeros(len(keys), outputs)
        if self.cfg.background == "learned":
            if background_RC is None:
                raise ValueError("a learned background needs the colour it starts from")
            params["background"] = background_RC.detach().float().clone(memory_format=torch.contiguous_format)
        return params

    def query(self, params: Params, x_RN3: Tensor) -> tuple[Tensor, Tensor]:
        """Density [R, N] and latent [R, N, C] at points in world units.

        Density is softplus(network + λ(1 - |x|/σ)), DreamFusion's blob; both are zero outside the cube
        |x|, |y|, |z| ≤ bound. Differentiable in the parameters.
        """
        field_RNO = self.density_latent(params, x_RN3)
        return field_RNO[..., 0], field_RNO[..., 1:]

    def density_latent(self, params: Params, x_RN3: Tensor) -> Tensor:
        """`query` in one tensor [R, N, 1 + C], density first."""
        cfg = self.cfg
        table, w1, b1, w2, b2 = (params[name] for name in ("table", "w1", "b1", "w2", "b2"))
        if self.fused:
            blob = (cfg.bound, cfg.density_bias, cfg.density_radius)
            return self.fused.query(self.grid, blob, x_RN3, table, w1, b1, w2, b2)
        (field_RNO,) = by_run(lambda *tensors: (self._reference(*tensors),), x_RN3, table, w1, b1, w2, b2)
        return field_RNO

    def _reference(
        self, x_RN3: Tensor, table: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
    ) -> Tensor:
        cfg = self.cfg
        inside_RN1 = (x_RN3.abs() <= cfg.bound).all(-1, keepdim=True)
        unit_RN3 = (x_RN3 * (0.5 / cfg.bound) + 0.5).clamp(0, 1)
        if self.backend == "tinycudann":
            features = tcnn.encode(self.grid, self._settings, table, unit_RN3)
        else:
            features = hashgrid.encode(self.grid, table, unit_RN3)
        hidden = torch.baddbmm(b1[:, None], features, w1.transpose(1, 2)).relu()
        out_RNO = torch.baddbmm(b2[:, None], hidden, w2.transpose(1, 2))
        x, y, z = x_RN3.unbind(-1)
        blob_RN = cfg.density_bias * (1 - (x * x + y * y + z * z).sqrt() / cfg.density_radius)
        density_RN1 = functional.softplus(out_RNO[..., :1] + blob_RN[..., None])
        return torch.cat([density_RN1, out_RNO[..., 1:]], -1) * inside_RN1
