"""HPSv2.1: how people's preferences among pictures of a prompt would rank the views.

100·cos between the prompt and a view, in a CLIP ViT-H/14 that was trained on ranked pictures; mean over the
ring. Source: Wu et al., Human Preference Score v2, arXiv 2306.09341, with the weights of version 2.1, which
are loaded through open_clip. The prompt is read as it stands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from eval.metric import VIEWS, Column, pinned
from eval.scorers.clip import CONFIG_FILE
from eval.scorers.preference import Preference, Scorer, Weights, refused, scorer
from harness.text import parse_json

WEIGHTS = Weights(
    "hps",
    "xswu/HPSv2",
    "697403c78157020a1ae59d23f111aa58ced35b0a",
    "HPS_v2.1_compressed.pt",
    "c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837",
)


class HPS(Preference):
    """A folder holds the checkpoint, and an open_clip_config.json where it is not of a ViT-H-14."""

    title = "Human preference score"
    columns = (Column("hps", "HPSv2.1", better="higher"),)
    needs = (VIEWS, pinned(WEIGHTS))
    weights = WEIGHTS

    @staticmethod
    def load(folder: Path, device: torch.device) -> Scorer:
        """See `Preference.load`."""
        import open_clip

        try:
            if (folder / CONFIG_FILE).is_file():
                shape = parse_json((folder / CONFIG_FILE).read_bytes())["model_cfg"]
                made: Any = open_clip.CLIP(**shape)
            else:
                made = open_clip.create_model("ViT-H-14", pretrained=None)
            # The published file is a pickle, of which only tensors are read.
            open_clip.load_checkpoint(made, str(folder / WEIGHTS.file), strict=True, weights_only=True)
        except Exception as error:  # torch, open_clip and json raise kinds of their own
            raise refused(WEIGHTS.name, folder, error) from error
        model = made.to(device, torch.float32).eval()

        def score(ids_1D: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
            text_1D = model.encode_text(ids_1D, normalize=True)
            return 100 * (model.encode_image(pixels, normalize=True) @ text_1D.T)[:, 0]

        return scorer(model.visual.image_size[0], device, score)
