"""A scene that volume rendering shows: a kind says density and latent at points, the rest follows here."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import softplus

from harness.scene import occupancy
from harness.scene.cameras import Cameras
from harness.scene.contract import Draws, Params, Scene, Surface, View, by_run
from harness.scene.encoders import fused
from harness.scene.regularisers import penalties
from harness.scene.renderer import Render, render

if TYPE_CHECKING:
    from harness.config import SceneConfig

FAINT = 0.01  # share of a ray's light that a sample must take for its normal to count


class VolumeScene(Scene):
    """R fields over the cube of half side `bound`, each seen from its own camera by volume rendering.

    A kind defines `init` and `field`, and may add to `penalties`. One whose `query` tells a signed distance
    overrides it and sets `quantity`; `field` is the density that this distance makes. A parameter
    "background" [R, C] takes the flat background's place.
    """

    quantity = "density"
    reads = (
        *("resolution", "samples", "bound", "density_bias", "density_radius"),
        *("background", "background_spread", "background_rgb", "entropy", "sparsity", "orientation"),
        *("occupancy", "occupancy_every", "occupancy_density"),
    )

    def __init__(self, cfg: SceneConfig, channels: int, encoder: str = "torch"):
        super().__init__(cfg, channels, encoder)
        self.fused = fused(encoder)

    @abstractmethod
    def field(self, params: Params, x_RN3: Tensor) -> Tensor:
        """Density, then latent, [R, N, 1 + C] at points in world units, differentiable in the parameters.

        On a CPU it is given one run at a time; what it says of points outside the cube does not count.
        """

    def density_latent(self, params: Params, x_RN3: Tensor) -> Tensor:
        """`field`, zero outside the cube."""

        def inside(x_RN3: Tensor, *values: Tensor) -> tuple[Tensor]:
            inside_RN1 = (x_RN3.abs() <= self.bound).all(-1, keepdim=True)
            return (self.field(dict(zip(params, values, strict=True)), x_RN3) * inside_RN1,)

        return by_run(inside, x_RN3, *params.values())[0]

    def query(self, params: Params, x_RN3: Tensor) -> tuple[Tensor, Tensor]:
        """Density [R, N] and latent [R, N, C] at points in world units."""
        field_RNO = self.density_latent(params, x_RN3)
        return field_RNO[..., 0], field_RNO[..., 1:]

    def blob(self, x_RN3: Tensor) -> Tensor:
        """DreamFusion's initial blob λ(1 - |x|/σ), [R, N, 1], which a density's softplus is taken with."""
        x, y, z = x_RN3.unbind(-1)
        return (self.cfg.density_bias * (1 - (x * x + y * y + z * z).sqrt() / self.cfg.density_radius))[
            ..., None
        ]

    def blobbed(self, x_RN3: Tensor, out_RNO: Tensor) -> Tensor:
        """What a network or a grid says at points, [R, N, 1 + C], with the first as a density: the softplus
        of it and the blob."""
        return torch.cat([softplus(out_RNO[..., :1] + self.blob(x_RN3)), out_RNO[..., 1:]], -1)

    def state(self, runs: int) -> Params:
        """The grids of `harness.scene.occupancy`, where the scene keeps them."""
        return occupancy.fresh(self.cfg, runs) if self.cfg.occupancy else {}

    def before_step(
        self, params: Params, state: Params, step_R: Tensor, total_R: Tensor, draws: Draws
    ) -> None:
        """See `harness.scene.occupancy`."""
        if self.cfg.occupancy and (due_R := occupancy.due(self.cfg, step_R)).any():
            occupancy.update(self, params, state, due_R.nonzero()[:, 0], draws)

    def view(
        self,
        params: Params,
        cameras: Cameras,
        background_RC: Tensor,
        draws: Draws | None = None,
        state: Params | None = None,
        side: int | None = None,
    ) -> View:
        """A render; `draws` place the samples along the rays."""
        side = side or self.cfg.resolution
        jitter_RPS = draws((side * side, self.cfg.samples)) if draws else None
        kept = partial(occupancy.kept, self.cfg, state) if state and "kept" in state else None
        background_RC = self.backdrop(params, background_RC, draws)
        out = render(self, params, cameras, background_RC, jitter_RPS, side, side, kept)
        # An evaluation view is only looked at: its regularisers are nobody's loss.
        return View(out.x_RCHW, out.opacity_RHW, out.depth_RHW, self.penalties(params, out) if draws else {})

    def penalties(self, params: Params, out: Render) -> dict[str, Tensor]:
        """The weighted regularisers of a training view, by name, each [R]; a kind adds its own."""
        return penalties(self, params, out)

    @torch.no_grad()
    def surface(self, params: Params, camera: Cameras, side: int, normals: bool = False) -> Surface:
        """The surface that one camera sees, with the mean of each ray's samples by the light they take.

        A ray's normal is the mean over its samples, too (Ref-NeRF, arXiv 2112.03907, section 4): in a field
        like fog, one normal at the mean depth is mostly chance.
        """
        out = render(self, params, camera, torch.zeros(1, self.channels), None, side, side)
        weights_PS, opacity_P = out.weights_RPS[0], out.opacity_RHW[0].flatten()
        share_PS = weights_PS / weights_PS.sum(-1, keepdim=True).clamp(min=1e-6)
        points_PS3 = torch.where(weights_PS[..., None] > 0, out.points_RPS3[0], 0.0)
        return Surface(
            opacity_P=opacity_P,
            depth_P=out.depth_RHW[0].flatten() / opacity_P.clamp(min=1e-6),
            points_P3=(share_PS[..., None] * points_PS3).sum(1),
            normals_P3=self._mean_normals(params, out) if normals else None,
        )

    def _mean_normals(self, params: Params, out: Render) -> Tensor:
        weights_PS, points_PS3 = out.weights_RPS[0], out.points_RPS3[0]
        counts_PS = weights_PS > FAINT
        sum_P3 = torch.zeros_like(points_PS3[:, 0])
        if counts_PS.any():
            normals_n3 = self.normals(params, points_PS3[counts_PS][None])[0]
            sum_P3.index_add_(0, counts_PS.nonzero()[:, 0], weights_PS[counts_PS][:, None] * normals_n3)
        return sum_P3 / sum_P3.norm(dim=-1, keepdim=True).clamp(min=1e-6)
