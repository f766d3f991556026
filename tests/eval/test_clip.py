from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from eval.scorers.clip import (
    ALLOWED,
    CONFIG_FILE,
    MODEL_FILE,
    Clip,
    check_activation,
    load_clip,
    normalise,
)
from harness.config import UserError
from harness.guidance.hub import sha256_file


@pytest.mark.parametrize("caption", ["A red Cup", "a red cup.", " A red cup , ", "a RED cup.,. "])
def test_captions_are_normalised_as_dream_fields_does(caption: str) -> None:
    assert normalise(caption) == "a red cup."


def test_embeddings_equal_open_clips_own_path(clip: Clip, clip_folder: Path, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(clip_folder)  # open_clip itself finds the vocabulary only from here
    reference: Any = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    model, _, preprocess = reference
    model.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{clip_folder}")(["a red cup.", "a blue car."])
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    with torch.no_grad():
        text = model.encode_text(tokens, normalize=True)
        image = model.encode_image(
            torch.stack([preprocess(Image.fromarray(x)) for x in images]), normalize=True
        )
    monkeypatch.chdir(tmp_path)
    again = load_clip(str(clip_folder), "cpu")
    torch.testing.assert_close(again.embed_texts(["A red cup", "a blue car. "]), text)
    torch.testing.assert_close(again.embed_images(list(images)), image)
    assert again.weights_hash == hashlib.sha256((clip_folder / MODEL_FILE).read_bytes()).hexdigest()


def test_batches_do_not_change_embeddings(clip: Clip, monkeypatch) -> None:
    images = list(np.random.default_rng(1).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8))
    whole = clip.embed_images(images)
    monkeypatch.setattr("eval.scorers.clip.BATCH", 3)
    torch.testing.assert_close(clip.embed_images(images), whole)


@pytest.mark.parametrize("architecture", ["ViT-B-32", "ViT-B-16", "ViT-L-14"])
def test_plain_architecture_with_openai_weights_is_refused(architecture: str) -> None:
    with pytest.raises(UserError, match=f"QuickGELU mismatch.*{architecture}-quickgelu/openai"):
        load_clip(f"{architecture}/openai")


def test_activation_is_checked_on_the_model_itself() -> None:
    for quick_gelu in (True, False):
        tower = {"image_size": 32, "patch_size": 16, "width": 16, "head_width": 8, "layers": 1}
        text = {"context_length": 8, "vocab_size": 600, "width": 16, "heads": 2, "layers": 1}
        model = open_clip.CLIP(8, tower, text, quick_gelu=quick_gelu)  # type: ignore[arg-type]
        with nullcontext() if quick_gelu else pytest.raises(UserError, match="QuickGELU mismatch"):
            check_activation(model, "m")


def test_the_allow_list_agrees_with_open_clips_own_tables() -> None:
    for (architecture, tag), pin in ALLOWED.items():
        config = open_clip.get_model_config(architecture)
        assert config is not None and config.get("quick_gelu", False) is True
        pretrained = open_clip.get_pretrained_cfg(architecture, tag)
        assert pretrained["quick_gelu"] is True and pretrained["hf_hub"] == f"{pin.repo}/"


def test_unknown_scorer_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'ViT-B-32-quickgelu/openai'"):
        load_clip("ViT-B-32-quickgelu/opnai")


def test_broken_folders_are_one_line_errors(clip_folder: Path, tmp_path: Path) -> None:
    for name, damage in {
        "no weights": lambda f: (f / MODEL_FILE).unlink(),
        "torn weights": lambda f: (f / MODEL_FILE).write_bytes((f / MODEL_FILE).read_bytes()[:999]),
        "torn config": lambda f: (f / CONFIG_FILE).write_text("{"),
        "no config": lambda f: (f / CONFIG_FILE).unlink(),
        "no vocabulary": lambda f: (f / "bpe.txt.gz").unlink(),
    }.items():
        folder = tmp_path / name
        shutil.copytree(clip_folder, folder)
        damage(folder)
        with pytest.raises(UserError) as error:
            load_clip(str(folder))
        assert "\n" not in str(error.value)


def test_weights_that_are_not_here_name_the_command_that_fetches_them(monkeypatch, tmp_path: Path) -> None:
    def offline(*_args: object, **_kwargs: object) -> str:
        raise FileNotFoundError("no network")

    monkeypatch.setattr("open_clip.download_pretrained", offline)
    with pytest.raises(UserError, match="harness doctor --fetch --clip ViT-B-32-quickgelu/openai"):
        load_clip("ViT-B-32-quickgelu/openai")


def test_weights_that_are_not_their_cards_are_refused(clip_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clip_folder, tmp_path / "toy-tiny")
    card = folder / "card.json"
    card.write_text(json.dumps({"sha256": sha256_file(folder / MODEL_FILE)}))
    assert load_clip(str(folder), "cpu").tag == "toy-tiny"
    card.write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(UserError, match=r"not the file it should be: sha256 .*, expected 000000000000"):
        load_clip(str(folder), "cpu")


def test_other_weights_under_an_allowed_name_are_refused(monkeypatch, tmp_path: Path) -> None:
    other = tmp_path / "open_clip_model.safetensors"
    other.write_bytes(b"other weights")
    monkeypatch.setattr("open_clip.download_pretrained", lambda *_args, **_kwargs: str(other))
    with pytest.raises(UserError, match=r"not the file it should be: .* expected e6d1bd7789aa"):
        load_clip("ViT-B-32-quickgelu/openai")
