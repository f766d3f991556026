"""PickScore: how people's choices among pictures of a prompt would rank the views.

exp(logit scale)·cos between the prompt and a view, in a CLIP ViT-H/14 that was trained on choices of users;
mean over the ring. Source: Kirstain et al., Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image
Generation, NeurIPS 2023. The prompt is read as it stands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from eval.metric import VIEWS, Column, pinned
from eval.scorers.preference import Preference, Scorer, Weights, refused, scorer

WEIGHTS = Weights(
    "pick_score",
    "yuvalkirstain/PickScore_v1",
    "a4e4367c6dfa7288a00c550414478f865b875800",
    "model.safetensors",
    "ef31ef6fc5ff4d9bb90dd232df4e145887ba62c5a03aa2841415f8c25f18d52e",
    ("config.json",),
)


class PickScore(Preference):
    """A folder holds transformers' CLIPModel: config.json and model.safetensors."""

    title = "PickScore"
    columns = (Column("pick_score", "PickScore", better="higher"),)
    needs = (VIEWS, pinned(WEIGHTS))
    weights = WEIGHTS

    @staticmethod
    def load(folder: Path, device: torch.device) -> Scorer:
        """See `Preference.load`."""
        from transformers import CLIPModel

        try:
            loaded: Any = CLIPModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        except Exception as error:  # transformers and safetensors raise kinds of their own
            raise refused(WEIGHTS.name, folder, error) from error
        model = loaded.to(device).eval()

        def score(ids_1D: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
            # The text ends at its end token, whatever follows: the text tower is causal.
            return model(input_ids=ids_1D, pixel_values=pixels).logits_per_image[:, 0]

        return scorer(model.config.vision_config.image_size, device, score)
