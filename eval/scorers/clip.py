"""The scorer: an open_clip model from a local folder or from an allow-list, with the hash of its weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness.config import UserError, first_line, nearest
from harness.device import pick_device
from harness.guidance import hub
from harness.guidance.hub import sha256_file
from harness.guidance.reading import Reader
from harness.home import WEIGHTS
from harness.records.files import read_json
from harness.text import parse_json

MODEL_FILE = "open_clip_model.safetensors"
CONFIG_FILE = "open_clip_config.json"


@dataclass(frozen=True)
class Pin:
    """What a scorer of the allow-list must be: the sha256 of its weights file, and its repository."""

    sha256: str
    repo: str


# (architecture, pretrained tag): the scorers of Dream Fields, DreamFusion and DreamTime. OpenAI's weights
# were trained with QuickGELU; open_clip also loads them without, and numbers drop (open_clip#771). The files
# are the repositories' open_clip_model.safetensors at a6f597a3, 977e3dd0 and 18d05354.
ALLOWED = {
    ("ViT-B-32-quickgelu", "openai"): Pin(
        "e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31",
        "timm/vit_base_patch32_clip_224.openai",
    ),
    ("ViT-B-16-quickgelu", "openai"): Pin(
        "4b8699299b1e8997753c64b052ba32031449d5d853f55a039148560ee02b820f",
        "timm/vit_base_patch16_clip_224.openai",
    ),
    ("ViT-L-14-quickgelu", "openai"): Pin(
        "9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e",
        "timm/vit_large_patch14_clip_224.openai",
    ),
}
BATCH = 128


def normalise(caption: str) -> str:
    """The caption as it is retrieved: lower case, " .," stripped, "." added. Source: Dream Fields."""
    return caption.lower().strip(" .,") + "."


@dataclass(frozen=True, eq=False)
class Clip:
    """An open_clip model that embeds captions and uint8 images into one unit sphere of D dimensions."""

    tag: str
    weights_hash: str  # sha256 of the weights file
    model: Any
    tokenizer: Any
    device: torch.device

    @property
    def reader(self) -> Reader:
        """What of a caption it takes."""
        return _reader(self.tag, self.tokenizer)

    @torch.inference_mode()
    def embed_texts(self, captions: Sequence[str]) -> Tensor:
        """[n, D] unit float32 rows on the CPU; captions are normalised first."""
        tokens_NT = self.tokenizer([normalise(caption) for caption in captions])
        rows = [
            self.model.encode_text(part.to(self.device), normalize=True).float().cpu()
            for part in tokens_NT.split(BATCH)
        ]
        return torch.cat(rows)

    @torch.inference_mode()
    def embed_images(self, images: Sequence[np.ndarray] | np.ndarray) -> Tensor:
        """[n, D] unit float32 rows on the CPU; uint8 HWC images, preprocessed as the model's config says."""
        from open_clip.transform import PreprocessCfg, image_transform_v2

        transform: Any = image_transform_v2(PreprocessCfg(**self.model.visual.preprocess_cfg), is_train=False)
        rows = []
        for start in range(0, len(images), BATCH):
            batch = [transform(Image.fromarray(image)) for image in images[start : start + BATCH]]
            pixels_NCHW = torch.stack(batch).to(self.device)
            rows.append(self.model.encode_image(pixels_NCHW, normalize=True).float().cpu())
        return torch.cat(rows)

    def embed_each(self, images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Name → the features of its images, [n, D]."""
        return {name: self.embed_images(each).numpy() for name, each in images.items()}


def load_clip(name: str, device: str = "auto") -> Clip:
    """The scorer called `name`: a folder of harness/weights, a path to such a folder, or "architecture/tag".

    Runs in float32, so that a number does not depend on the device's half precision. Raises UserError for an
    unknown name, a broken folder, a QuickGELU mismatch, and weights that are not there.
    """
    where = torch.device(pick_device(device))
    found = _resolve(name)
    return _load_folder(found, where) if isinstance(found, Path) else _load_tag(*found, where)


def reader(name: str) -> Reader:
    """What of a caption a scorer takes; loads no weights. UserError for an unknown or broken one."""
    found = _resolve(name)
    return _reader(name, _tokenizer(found) if isinstance(found, Path) else _tokenizer_of(found[0]))


def _reader(name: str, tokenizer: Any) -> Reader:
    marks = (tokenizer.sot_token_id, tokenizer.eot_token_id)
    return Reader(
        name,
        lambda caption: [marks[0], *tokenizer.encode(normalise(caption)), marks[1]],
        tokenizer.context_length,
    )


def _tokenizer_of(architecture: str) -> Any:
    import open_clip

    return open_clip.get_tokenizer(architecture)


def _tokenizer(folder: Path) -> Any:
    """A folder's own tokenizer, for as many tokens as its text tower takes."""
    import open_clip

    text_cfg = _text_cfg(folder)
    # open_clip opens a relative bpe_path from the working directory; the file lies beside the config.
    bpe = text_cfg.get("tokenizer_kwargs", {}).get("bpe_path")
    kwargs: dict[str, Any] = {"bpe_path": str(folder / Path(bpe).name)} if bpe else {}
    return open_clip.get_tokenizer(f"local-dir:{folder}", **kwargs)


def _text_cfg(folder: Path) -> dict[str, Any]:
    return parse_json((folder / CONFIG_FILE).read_bytes())["model_cfg"]["text_cfg"]


def _resolve(name: str) -> Path | tuple[str, str]:
    """A scorer's folder, or its (architecture, tag) in the allow-list."""
    folder = next((p for p in (WEIGHTS / name, Path(name)) if (p / CONFIG_FILE).is_file()), None)
    if folder is not None:
        return folder.resolve()
    architecture, slash, tag = name.rpartition("/")
    if not slash or (architecture, tag) not in ALLOWED:
        raise UserError(f"unknown scorer '{name}'{_hint(architecture, tag, name)}")
    return architecture, tag


def known() -> list[str]:
    """The scorers there are: the embedded ones, then the allow-list's."""
    return [*(path.parent.name for path in WEIGHTS.glob(f"*/{CONFIG_FILE}")), *map("/".join, ALLOWED)]


def repository(name: str) -> str | None:
    """The Hub's repository of a scorer, None where it is a folder; UserError for an unknown name."""
    found = _resolve(name)
    return None if isinstance(found, Path) else ALLOWED[found].repo


def find(name: str) -> hub.Stored:
    """The weights of a scorer, which are the right ones; loads no model and contacts nobody.

    Raises UserError for an unknown name, and for weights that are not here or not what they should be.
    """
    found = _resolve(name)
    if isinstance(found, Path):
        folder, expected = found, _card_hash(found)
    else:
        pin = ALLOWED[found]
        # Where open_clip looks.
        folder, expected = hub.stored(pin.repo, None, [MODEL_FILE]), pin.sha256
    if folder is None or not (folder / MODEL_FILE).is_file():
        raise UserError(f"the weights of {name} are not here; fetch them: {fetch_command(name)}")
    weights = folder / MODEL_FILE
    return hub.Stored(name, folder, (weights,), _checked(weights, expected, hub.sha256_named))


def fetch_command(name: str) -> str:
    """The shell command that brings a scorer of the allow-list here."""
    return f"harness doctor --fetch --clip {name}"


def _hint(architecture: str, tag: str, name: str) -> str:
    if (f"{architecture}-quickgelu", tag) in ALLOWED:
        return (
            f": QuickGELU mismatch, the weights '{tag}' need QuickGELU and {architecture} has none; "
            f"use '{architecture}-quickgelu/{tag}'"
        )
    if (WEIGHTS / name).is_dir() or Path(name).is_dir():
        return f": the folder has no {CONFIG_FILE}"
    return nearest(name, known())


def _load_folder(folder: Path, device: torch.device) -> Clip:
    weights = folder / MODEL_FILE
    if not weights.is_file():
        raise UserError(f"the scorer {folder} has no {MODEL_FILE}")
    import open_clip

    try:
        text_cfg, tokenizer = _text_cfg(folder), _tokenizer(folder)
        model = open_clip.create_model(f"local-dir:{folder}", device=device, require_pretrained=True)
    except Exception as error:  # of a broken folder open_clip, safetensors and json raise kinds of their own
        raise UserError(f"the scorer {folder} does not load: {first_line(error)}") from error
    if tokenizer.vocab_size != text_cfg["vocab_size"]:
        raise UserError(
            f"the scorer {folder}: {tokenizer.vocab_size} tokens in its vocabulary, "
            f"{text_cfg['vocab_size']} in its text tower"
        )
    return Clip(folder.name, _checked(weights, _card_hash(folder)), model.eval(), tokenizer, device)


def _card_hash(folder: Path) -> str | None:
    """The hash of the weights that the folder's card was written for."""
    card = read_json(folder / "card.json") or {}
    return card.get("sha256")


def _checked(weights: Path, expected: str | None, sha256: Callable[[Path], str] = sha256_file) -> str:
    """The sha256 of the weights; UserError where it is not the expected one."""
    found = sha256(weights)
    if expected is not None and found != expected:
        raise UserError(
            f"{weights} is not the file it should be: sha256 {found[:12]}, expected {expected[:12]}; "
            "fetch or train them again"
        )
    return found


def _load_tag(architecture: str, tag: str, device: torch.device) -> Clip:
    import open_clip

    name, pin = f"{architecture}/{tag}", ALLOWED[architecture, tag]
    try:
        # Resolves from the cache where it can.
        weights = Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(architecture, tag)))
    except Exception as error:  # the Hub client's and open_clip's errors share no base class
        raise UserError(
            f"the weights of {name} are not here ({first_line(error)}); fetch them: {fetch_command(name)}"
        ) from error
    digest = _checked(weights, pin.sha256)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="QuickGELU mismatch")
        model = open_clip.create_model(architecture, pretrained=tag, device=device, require_pretrained=True)
    check_activation(model, name)
    return Clip(name, digest, model.eval(), _tokenizer_of(architecture), device)


def check_activation(model: torch.nn.Module, name: str) -> None:
    """Raises UserError unless the model's activation is what the allow-list's weights were trained with."""
    if not any(type(module).__name__ == "QuickGELU" for module in model.modules()):
        raise UserError(f"{name}: QuickGELU mismatch, weights for QuickGELU in a model with GELU")
