"""How renders look, without any model of what they show: the signs of over-saturation and of flicker.

- Saturation: S of the HSV hexcone, (max − min) / max over R, G, B, and 0 for black. Source: Smith,
  Color gamut transform pairs, SIGGRAPH 1978.
- Contrast: RMS contrast, the standard deviation of an image's luma in [0, 1]. Source: Peli, Contrast in
  complex images, JOSA A 1990.
- Adjacent: mean 1 − cos of image features between neighbouring azimuths of the ring. Low is consistent; a
  symmetric object is lower than one that is not, so compare within a prompt, or with ground truth.

Luma weighs the stored (gamma-encoded) values by ITU-R BT.709. All are means over views, background included.
"""

from __future__ import annotations

import math

import numpy as np

from eval.metric import FEATURES, Column, RunMetric, Values
from eval.sources.load import RunRecord

LUMA = np.array([0.2126, 0.7152, 0.0722])  # ITU-R BT.709


def luma(images_VHWC: np.ndarray) -> np.ndarray:
    """[V, H, W] in 0…1; ValueError unless uint8 RGB [V, H, W, 3]."""
    return _checked(images_VHWC) @ LUMA / 255


def saturation(images_VHWC: np.ndarray) -> float:
    """Mean HSV saturation, 0…1, of uint8 RGB images."""
    pixels = _checked(images_VHWC).astype(np.float64)
    high, low = pixels.max(axis=-1), pixels.min(axis=-1)
    return float(np.divide(high - low, high, out=np.zeros_like(high), where=high > 0).mean())


def contrast(images_VHWC: np.ndarray) -> float:
    """RMS contrast, 0…0.5, of uint8 RGB images: per image, then the mean."""
    return float(luma(images_VHWC).std(axis=(1, 2)).mean())


def adjacent_consistency(features_VD: np.ndarray) -> float:
    """Mean 1 − cos, 0…2, between neighbours of a closed ring of V views; ValueError below two views."""
    rows_VD = np.asarray(features_VD, dtype=np.float64)
    if rows_VD.ndim != 2 or len(rows_VD) < 2:
        raise ValueError(f"neighbours need at least two views, got the shape {rows_VD.shape}")
    rows_VD = rows_VD / np.linalg.norm(rows_VD, axis=1, keepdims=True)
    return float(1 - (rows_VD * np.roll(rows_VD, 1, axis=0)).sum(axis=1).mean())


def _checked(images_VHWC: np.ndarray) -> np.ndarray:
    if images_VHWC.ndim != 4 or images_VHWC.shape[-1] != 3 or images_VHWC.dtype != np.uint8:
        raise ValueError(f"expected uint8 [V, H, W, 3], got {images_VHWC.dtype} {images_VHWC.shape}")
    return images_VHWC


class Appearance(RunMetric):
    """Of the ring's views at the last step; a picture has no neighbours, and an `adjacent` of nan."""

    columns = (
        Column("saturation", "saturation", digits=3),
        Column("contrast", "contrast", digits=3),
        Column("adjacent", "adjacent 1 − cos", better="lower", digits=3),
    )
    needs = (FEATURES,)
    table = "signatures"

    def of_run(self, run: RunRecord) -> Values:
        """Means over the ring."""
        ring = run.config.views.azimuths
        images_VHWC = run.views(run.total)[: ring if ring > 2 else None]
        adjacent = math.nan
        if ring > 2:
            adjacent = adjacent_consistency(self.runs.features[run.run_id][0][run.total][:ring])
        return {
            "saturation": saturation(images_VHWC),
            "contrast": contrast(images_VHWC),
            "adjacent": adjacent,
        }
