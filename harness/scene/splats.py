"""3D Gaussian splatting (Kerbl et al. 2023, arXiv 2308.04079): projection, and compositing in depth order.

`composite`, in plain torch, has every Gaussian at every pixel; it is the reference, and what CPUs use.
`rasterise` is gsplat's on CUDA (github.com/nerfstudio-project/gsplat), which leaves out what adds less than
1/255 to a pixel. R runs, N Gaussians, P pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from harness.scene.cameras import Cameras

NEAR = 0.01  # world units: what is nearer to the camera, or behind it, is not seen
FAR = -40.0  # exponent of a Gaussian below which it is nothing: CPUs are slow on the smallest numbers
OPAQUE = 0.999  # most of a pixel's light that one Gaussian takes


@dataclass(frozen=True)
class Gaussians:
    """R times N Gaussians: mean, log of the deviations along the axes, quaternion (w, x, y, z) of any length,
    opacity in 0…1 (0: it is not there), latent."""

    mean_RN3: Tensor
    log_scale_RN3: Tensor
    rotation_RN4: Tensor
    opacity_RN: Tensor
    latent_RNC: Tensor


def missing() -> str | None:
    """Why gsplat cannot be used, in a few words, or None where it can; imports it only on CUDA."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    return _import_problem()


@cache
def _import_problem() -> str | None:
    try:
        import gsplat  # type: ignore[import-not-found]  # noqa: F401
    except ModuleNotFoundError:
        return "gsplat is not installed; pip install gsplat"
    except (ImportError, OSError, RuntimeError) as error:  # its extension is compiled at first use
        return f"gsplat does not import: {(str(error) or type(error).__name__).splitlines()[0]}"
    return None


def axes(log_scale_RN3: Tensor, rotation_RN4: Tensor, sign: int = 1) -> Tensor:
    """A Gaussian's axes as columns, [R, N, 3, 3], each as long as its deviation; with sign −1 one over it."""
    w, x, y, z = (rotation_RN4 / (rotation_RN4.square().sum(-1, keepdim=True) + 1e-12).sqrt()).unbind(-1)
    rows = (
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    )
    return torch.stack(rows, -2) * (sign * log_scale_RN3).exp()[..., None, :]


def world_to_camera(cameras: Cameras) -> Tensor:
    """[R, 4, 4], float64 on the CPU: x to the right, y down, z ahead, as in OpenCV."""
    c2w_R44 = cameras.c2w()
    right, up, backward, place = c2w_R44[:, :3].unbind(-1)
    turn_R33 = torch.stack([right, -up, -backward], 1)
    out_R44 = torch.eye(4, dtype=torch.float64).repeat(len(cameras), 1, 1)
    out_R44[:, :3, :3] = turn_R33
    for row in range(3):  # term by term: a product of matrices may round by the size of the pack
        x, y, z = (turn_R33[:, row] * place).unbind(-1)
        out_R44[:, row, 3] = -(x + y + z)
    return out_R44


def focal(cameras: Cameras, side: int) -> Tensor:
    """Focal lengths in pixels, [R], float64 on the CPU."""
    return torch.tensor([0.5 * side / math.tan(math.radians(fov) / 2) for fov in cameras.fov_R.tolist()])


def pixels(side: int, focal_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Columns and rows [P] of the pixels' centres, row-major, and how much longer than its depth a pixel's
    ray is, [R, P]."""
    centre_S = torch.arange(side, device=focal_R.device, dtype=focal_R.dtype) + 0.5
    column_P, row_P = centre_S.repeat(side), centre_S.repeat_interleave(side)
    across_P = (column_P - side / 2).square() + (row_P - side / 2).square()
    return column_P, row_P, (1 + across_P / focal_R[:, None].square()).sqrt()


def composite(
    splats: Gaussians, view_R44: Tensor, focal_R: Tensor, blur: float, side: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Latent [R, P, C] over nothing, the light left over [R, P], and depth [R, P], the sum of weight times
    distance; side × side pixels.

    Each is projected by the camera's first derivatives at its mean, and all of a view are sorted by their
    depth (section 4, eq. 5, and section 5). `blur` in square pixels.
    """
    dtype = splats.mean_RN3.dtype
    view_R44, focal_R = view_R44.to(dtype), focal_R.to(dtype)
    turn_R33, shift_R13 = view_R44[:, :3, :3], view_R44[:, None, :3, 3]
    x, y, z = (splats.mean_RN3 @ turn_R33.transpose(1, 2) + shift_R13).unbind(-1)
    order_RN = z.detach().argsort(dim=-1, stable=True)
    is_ahead_RN, z = z > NEAR, z.clamp(min=NEAR)
    f_R1, none_RN = focal_R[:, None], torch.zeros_like(z)
    jacobian_RN23 = torch.stack(
        [
            torch.stack([f_R1 / z, none_RN, -f_R1 * x / z.square()], -1),
            torch.stack([none_RN, f_R1 / z, -f_R1 * y / z.square()], -1),
        ],
        -2,
    )
    spread_RN23 = jacobian_RN23 @ (turn_R33[:, None] @ axes(splats.log_scale_RN3, splats.rotation_RN4))
    across_RN3, down_RN3 = spread_RN23.unbind(-2)
    xx = across_RN3.square().sum(-1) + blur
    yy = down_RN3.square().sum(-1) + blur
    xy = (across_RN3 * down_RN3).sum(-1)
    area = xx * yy - xy.square()

    def sorted_R1N(values_RN: Tensor) -> Tensor:
        return values_RN.gather(1, order_RN)[:, None]

    column_P, row_P, longer_RP = pixels(side, focal_R)
    dx_RPN = column_P[:, None] - sorted_R1N(f_R1 * x / z + side / 2)
    dy_RPN = row_P[:, None] - sorted_R1N(f_R1 * y / z + side / 2)
    power_RPN = (
        sorted_R1N(yy / area) * dx_RPN.square() + sorted_R1N(xx / area) * dy_RPN.square()
    ) * -0.5 + sorted_R1N(xy / area) * dx_RPN * dy_RPN
    alpha_RPN = sorted_R1N(splats.opacity_RN * is_ahead_RN) * power_RPN.clamp(min=FAR).exp()
    alpha_RPN = alpha_RPN.clamp(max=OPAQUE)
    left_RPN = torch.log1p(-alpha_RPN).cumsum(-1)  # log of the light behind each
    weight_RPN = alpha_RPN * torch.cat([torch.zeros_like(left_RPN[..., :1]), left_RPN[..., :-1]], -1).exp()
    latent_RNC = splats.latent_RNC.gather(1, order_RN[..., None].expand_as(splats.latent_RNC))
    depth_RP = (weight_RPN @ z.gather(1, order_RN)[..., None])[..., 0] * longer_RP
    return weight_RPN @ latent_RNC, left_RPN[..., -1].exp(), depth_RP


def rasterise(
    splats: Gaussians, view_R44: Tensor, focal_R: Tensor, blur: float, side: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`composite` by gsplat, for float32 on CUDA."""
    from gsplat import rasterization  # type: ignore[import-not-found]

    runs, device = len(focal_R), splats.mean_RN3.device
    view_R44, focal_R = view_R44.float(), focal_R.float()
    intrinsics_R33 = torch.zeros(runs, 3, 3, device=device)
    intrinsics_R33[:, 0, 0] = intrinsics_R33[:, 1, 1] = focal_R
    intrinsics_R33[:, :2, 2] = side / 2
    intrinsics_R33[:, 2, 2] = 1
    seen, alpha, _ = rasterization(
        splats.mean_RN3,
        splats.rotation_RN4,
        splats.log_scale_RN3.exp(),
        splats.opacity_RN,
        splats.latent_RNC,
        view_R44[:, None],
        intrinsics_R33[:, None],
        width=side,
        height=side,
        near_plane=NEAR,
        eps2d=blur,
        packed=False,
        render_mode="RGB+D",
    )
    seen_RPO, alpha_RP = seen[:, 0].flatten(1, 2), alpha[:, 0].flatten(1)
    _, _, longer_RP = pixels(side, focal_R)
    return seen_RPO[..., :-1], 1 - alpha_RP, seen_RPO[..., -1] * longer_RP
