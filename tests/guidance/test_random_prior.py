"""Priors with random weights: published sizes, the same bytes for the same seed, and stamped."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.config import GuidanceConfig, UserError
from harness.guidance import tokens
from harness.guidance.family import architecture, architectures
from harness.guidance.prior import Guidance
from harness.guidance.random_prior import build, make_prior

# Parameters, as published with each model.
PUBLISHED = {
    "sd14": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd21": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
    "if-i": {"unet": 4_304_695_110, "text_encoder": 4_762_310_656},
    "sd3": {
        "transformer": 2_028_328_000,
        "vae": 83_819_683,
        "text_encoder": 123_650_304,
        "text_encoder_2": 694_659_840,
        "text_encoder_3": 4_762_310_656,
    },
}


@pytest.mark.parametrize("like", architectures())
def test_full_sizes_are_the_published_ones(like: str) -> None:
    found = {}
    for name, part in architecture(like)[1].parts.items():
        if name != "scheduler":
            with torch.device("meta"):
                found[name] = sum(weights.numel() for weights in build(part, "full").parameters())
    assert found == PUBLISHED[like]


@pytest.mark.parametrize("like", architectures())
def test_a_folder_is_a_pipeline_of_its_class(like: str, tmp_path: Path) -> None:
    import diffusers

    folder = make_prior(tmp_path / like, like, size="tiny")
    index = json.loads((folder / "model_index.json").read_text())
    pipe = getattr(diffusers, index["_class_name"]).from_pretrained(folder)
    assert {name for name, part in pipe.components.items() if part is not None} == {
        *architecture(like)[1].parts,
        *architecture(like)[1].tokenizers,
    }
    card = json.loads((folder / "card.json").read_text())
    assert (card["random"], card["like"], card["size"], card["seed"]) == (True, like, "tiny", 0)
    assert "nothing made with them is a result" in card["note"]
    assert ("T5's vocabulary is a stand-in" in card["note"]) == (
        "t5" in architecture(like)[1].tokenizers.values()
    )
    denoiser = "transformer" if like == "sd3" else "unet"
    weights = load_file(folder / denoiser / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for name, tensor in weights.items() if name != "pos_embed.pos_embed"} == {
        torch.float16
    }


def test_the_same_seed_gives_the_same_bytes_and_leaves_the_generator_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, same, other = (
        make_prior(tmp_path / name, "sd14", size="tiny", seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert torch.equal(torch.rand(1), expected) and torch.get_default_dtype() == torch.float32
    weights = [
        (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
        for folder in (one, same, other)
    ]
    assert weights[0] == weights[1] != weights[2]


def test_clips_vocabulary_is_open_clips() -> None:
    from open_clip.tokenizer import SimpleTokenizer

    ours, theirs = tokens.clip_tokenizer(tokens.clip_merges(), 77), SimpleTokenizer()
    assert len(ours) == 49408
    for text in ("a red mug, side view", "Zwölf Boxkämpfer's 123 ☕!"):
        assert ours(text).input_ids == [49406, *theirs.encode(text), 49407]


def test_the_card_stamps_the_prior(tmp_path: Path) -> None:
    folder = make_prior(tmp_path / "random", "sd14", size="tiny")
    stamps = {}
    for name in ("random", "toy-sd", "real"):
        if name == "real":
            (folder / "card.json").unlink()
        prior = "toy-sd" if name == "toy-sd" else str(folder)
        guidance = Guidance.load(GuidanceConfig(prior=prior), local_files_only=True)
        stamps[name] = (guidance.record["stamp"], guidance.record["is_toy"])
    assert stamps == {"random": ("random", False), "toy-sd": ("toy", True), "real": ("", False)}
    (folder / "card.json").write_text("[]")
    with pytest.raises(UserError, match=r"card\.json is no card"):
        Guidance.load(GuidanceConfig(prior=str(folder)), local_files_only=True)


def test_bad_requests_are_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        make_prior(tmp_path / "kept", "sd14", size="tiny")
    with pytest.raises(UserError, match="did you mean 'sd14'"):
        make_prior(tmp_path / "new", "sd144", size="tiny")
    with pytest.raises(UserError, match="no dtype 'float8'"):
        make_prior(tmp_path / "new", "sd14", size="tiny", dtype="float8")
    (tmp_path / "empty").mkdir()
    make_prior(tmp_path / "empty", "sd14", size="tiny").rename(tmp_path / "kept" / "prior")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match="--tokenizer bytes"):
        make_prior(tmp_path / "new", "sd14")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
