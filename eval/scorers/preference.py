"""Scorers that learnt what people prefer: their pinned weights, how they load, and the metric they make."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eval.metric import Reference, RunMetric, Values
from eval.sources.load import RunRecord
from harness.config import UserError, first_line
from harness.guidance import hub
from harness.guidance.hub import sha256_named, sha256_once

FOLDERS = "HARNESS_SCORERS"  # a folder of folders by name, which are taken before the Hub's cache
BATCH = 32


@dataclass(frozen=True)
class Weights:
    """Files of a repository of the Hub at one commit, of which `file` has this sha256."""

    name: str
    repo: str
    commit: str
    file: str
    sha256: str
    more: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        """All that is fetched."""
        return [self.file, *self.more]

    def find(self) -> hub.Stored:
        """The weights on this machine: those of `$HARNESS_SCORERS/<name>`, whatever they are, or the pinned
        ones of the Hub's cache. UserError where they are not here, or are not what they should be."""
        own = Path(os.environ.get(FOLDERS, "")).expanduser() / self.name
        if os.environ.get(FOLDERS) and own.is_dir():
            if not (own / self.file).is_file():
                raise UserError(f"{own} has no {self.file}")
            return self._stored(own, sha256_once(own / self.file))
        folder = hub.stored(self.repo, self.commit, self.files)
        if folder is None or not all((folder / file).is_file() for file in self.files):
            raise UserError(f"the weights of {self.name} are not here")
        found = sha256_named(folder / self.file)
        if found != self.sha256:
            raise UserError(
                f"{folder / self.file} is not the file it should be: sha256 {found[:12]}, expected "
                f"{self.sha256[:12]}"
            )
        return self._stored(folder, found)

    def _stored(self, folder: Path, sha256: str) -> hub.Stored:
        return hub.Stored(self.name, folder, tuple(folder / file for file in self.files), sha256)


def pixels(images_VHWC: Sequence[np.ndarray] | np.ndarray, side: int) -> Tensor:
    """CLIP's preprocessing: the shorter side to `side` (bicubic), the square in the middle, OpenAI's mean and
    deviation; [V, 3, side, side]."""
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from open_clip.transform import PreprocessCfg, image_transform_v2

    cfg = PreprocessCfg(size=side, mean=OPENAI_DATASET_MEAN, std=OPENAI_DATASET_STD)
    transform: Any = image_transform_v2(cfg, is_train=False)
    return torch.stack([transform(Image.fromarray(image)) for image in images_VHWC])


def tokens(text: str) -> Tensor:
    """The prompt as CLIP's tokens, [1, 77]; what is beyond is cut."""
    return _tokenizer()([text])


@cache
def _tokenizer() -> Any:
    import open_clip

    return open_clip.get_tokenizer("ViT-H-14")


def refused(name: str, folder: Path, error: Exception) -> UserError:
    """What is told of a folder whose files are not those of the model."""
    return UserError(f"{name}: {folder} does not load: {first_line(error)}")


Scorer = Callable[[str, np.ndarray], np.ndarray]  # prompt, uint8 [V, H, W, 3] → a score of each, [V]


def scorer(side: int, device: torch.device, score: Callable[[Tensor, Tensor], Tensor]) -> Scorer:
    """A scorer from what scores the tokens of a prompt [1, 77] against pictures [V, 3, side, side]: [V]."""

    @torch.inference_mode()
    def scored(prompt: str, images_VHWC: np.ndarray) -> np.ndarray:
        ids = tokens(prompt).to(device)
        parts = pixels(images_VHWC, side).split(BATCH)
        return torch.cat([score(ids, part.to(device)).cpu() for part in parts]).numpy()

    return scored


class Preference(RunMetric):
    """The mean of a scorer over the ring's views at the last step; a metric is a subclass of it.

    Failed runs are left out. Where prompts have ground truth, that has a row.
    """

    weights: ClassVar[Weights]
    slow = True
    on_request = True

    @staticmethod
    def load(folder: Path, device: torch.device) -> Scorer:
        """The scorer in a folder; UserError for one that is broken."""
        raise NotImplementedError

    @cached_property
    def scorer(self) -> Scorer:
        """Loaded once."""
        return self.load(self.weights.find().folder, self.runs.clip.device)

    def _mean(self, prompt: str, images_VHWC: np.ndarray) -> Values:
        return {self.columns[0].key: float(self.scorer(prompt, images_VHWC).mean())}

    def of_run(self, run: RunRecord) -> Values:
        """The mean over the ring."""
        return self._mean(run.prompt, run.views(run.total)[: run.config.views.azimuths])

    def references(self) -> list[Reference]:
        """Ground truth, where there is any."""
        return self.of_truth(self._mean)

    def notes(self) -> list[str]:
        """Which weights they are."""
        found = self.weights.find()
        told = "" if found.sha256 == self.weights.sha256 else f" of {found.folder}, not the published ones"
        return [*self.remarks, f"{self.name}: weights {found.sha256[:12]}{told}."]
