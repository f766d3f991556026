"""View-dependent prompting: the words that tell the denoiser where the camera stands. No torch."""

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
