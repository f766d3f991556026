"""A finished run's scene, and the prior that turns what it shows into colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from harness.config import UserError
from harness.guidance.prior import Guidance, held
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.records.reader import RecordError
from harness.records.stamp import mark, prior_hash, same_prior
from harness.scene.cameras import Cameras
from harness.scene.contract import Params, Scene
from harness.scene.kind import channels_of, load_kind, make_scene


class NoSides(UserError):
    """A run that has nothing to be seen from all sides."""


@dataclass(frozen=True)
class Final:
    """A run at its last step: `params` [1, …] of `scene`, on `device`."""

    folder: RunFolder
    spec: RunSpec
    scene: Scene
    params: Params
    device: torch.device

    @property
    def about(self) -> dict[str, Any]:
        """What every file made from the run says of it."""
        prior = self.folder.prior()
        asked = self.spec.config.guidance.prior
        return {
            "run": self.folder.id,
            "method": self.spec.label,
            "prompt": self.spec.prompt,
            "seed": self.spec.seed,
            "step": self.spec.config.steps,
            "prior": prior.get("tag", asked),
            "mark": mark(prior, asked),
        }


def load(folder: RunFolder, device: str = "cpu") -> Final:
    """The scene of a run that is done; NoSides where the run has none to show, UserError where its parameters
    cannot be read."""
    look = folder.look()
    if look.damage:
        raise NoSides(f"{folder.id} is damaged: {look.damage}")
    spec = look.spec or folder.spec()
    if not load_kind(spec.config.scene.kind).has_sides:
        raise NoSides(
            f"{folder.id} made a picture (scene.kind={spec.config.scene.kind}): it has no other side"
        )
    if look.status != "done":
        raise NoSides(f"{folder.id} is not done: it is {look.status}")
    try:
        params = folder.load_params(spec.config.steps)
    except RecordError as error:
        raise UserError(f"{folder.id}: {error}") from error
    if not params:
        raise NoSides(
            f"{folder.id} has no parameters of its last step, {spec.config.steps}: only its views are kept"
        )
    where = torch.device(device)
    stacked = {name: value[None].to(where) for name, value in params.items()}
    channels = channels_of(spec.config.scene, stacked)
    if channels is None:
        raise UserError(f"{folder.id} has parameters of another kind of scene")
    scene = make_scene(spec.config.scene, channels, device)
    return Final(folder, spec, scene, stacked, where)


def load_prior(final: Final) -> Guidance:
    """The prior that the run was made with, from this machine.

    UserError where it is missing, or where its weights are not those of the run.
    """
    guidance = held(final.spec.config.guidance, final.device, local_files_only=True)
    made_with = final.folder.prior()
    if not same_prior(made_with, guidance.record):
        raise UserError(
            f"{final.folder.id} was made with weights {prior_hash(made_with)[:12]} of {guidance.tag}, and "
            f"here are {prior_hash(guidance.record)[:12]}: its colours cannot be decoded"
        )
    return guidance


@torch.no_grad()
def latents(final: Final, prior: Guidance, cameras: Cameras) -> Tensor:
    """What the cameras see at the scene's resolution, [V, C, H, W], as the run's own evaluation views."""
    background_1C = prior.flat_code(final.spec.config.scene.background_rgb)[None]
    views = [
        final.scene.view(final.params, cameras[v : v + 1], background_1C, None).x_RCHW
        for v in range(len(cameras))
    ]
    return torch.cat(views)


def encoded(prior: Guidance, images_NHWC: np.ndarray) -> Tensor:
    """Pictures, uint8 [N, H, W, 3], encoded at the prior's own size: what `pictures` decodes."""
    images = torch.from_numpy(images_NHWC.copy()).movedim(-1, 1) / 255
    side = prior.image_size
    if images.shape[-1] != side:
        images = interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    return prior.encode(images.to(prior.device))


def pictures(prior: Guidance, x_VCHW: Tensor) -> Tensor:
    """Latents decoded, uint8 [V, H, W, 3] on the CPU."""
    return prior.decode(x_VCHW).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
