"""View-dependent prompting: the words that tell the denoiser where the camera stands. No torch."""

import math
from typing import NamedTuple

from harness.config import UserError

VIEWS = ("front", "side", "back", "overhead")


def view_name(
    azimuth_deg: float, elevation_deg: float, front_sector: float = 90.0, overhead: float = 30.0
) -> str:
    """Name of the view from a camera at this azimuth and elevation.

    Degrees. Azimuth 0 is the front; `front_sector` is the full width of the front and of the back sector;
    `overhead` is the angle from the pole within which a camera looks from above. Source: DreamFusion §3.2
    with Latent-NeRF's sectors.
    """
    if elevation_deg > 90.0 - overhead:
        return "overhead"
    away_from_front = abs((azimuth_deg + 180.0) % 360.0 - 180.0)
    if away_from_front < front_sector / 2:
        return "front"
    if away_from_front > 180.0 - front_sector / 2:
        return "back"
    return "side"


def view_prompt(template: str, prompt: str, view: str) -> str:
    """`prompt` with its view words, e.g. "{prompt}, {view} view" → "a red mug, side view".

    Raises UserError where the template names anything but {prompt} and {view}.
    """
    try:
        return template.format(prompt=prompt, view=view)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UserError(
            f'guidance.view_prompt: "{template}" does not fit ({error}); use {{prompt}} and {{view}} only'
        ) from None


class PerpNeg(NamedTuple):
    """Perp-Neg's plan for a camera: two views whose embeddings are mixed, with their shares, and two negative
    views with their weights. A view of None is no prompt."""

    positives: tuple[tuple[str | None, float], tuple[str | None, float]]
    negatives: tuple[tuple[str | None, float], tuple[str | None, float]]


def perp_neg(view: str, azimuth_deg: float) -> PerpNeg:
    """The plan at an azimuth, of threestudio, whose f(r) = A·exp(−b·r) + c it keeps.

    From the front to the side r falls from 1 to 0, and again from the side to the back. From overhead nothing
    is mixed and nothing negative. Source: Armandpour et al. 2023 (arXiv 2304.04968);
    threestudio-project/threestudio@28d9d80 prompt_processors/base.py.
    """
    if view == "overhead":
        return PerpNeg((("overhead", 1.0), ("overhead", 0.0)), ((None, 0.0), (None, 0.0)))

    def f(r: float, scale: float, shift: float) -> float:
        return -(scale * math.exp(-0.5 * r) + shift)

    turn = abs((azimuth_deg + 180.0) % 360.0 - 180.0) / 90.0
    if turn < 1:
        r = 1 - turn
        negatives = (("front", f(r, 4, -2.426)), ("side", f(1 - r, 4, -2.426)))
        return PerpNeg((("front", r), ("side", 1 - r)), negatives)
    r = 2 - turn
    negatives = (("side", f(r, 1, -0.606)), ("front", f(r, 1, 0.967)))
    return PerpNeg((("side", r), ("back", 1 - r)), negatives)
