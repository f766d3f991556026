"""Learned scorers on folders of their own formats with small random weights."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from shutil import copy
from typing import Any, cast

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from eval.command import open_runs, write_tables
from eval.metrics import clip_score, hps, pick_score
from eval.scorers.clip import CONFIG_FILE, Clip
from eval.scorers.preference import FOLDERS
from eval.tables.made import make_tables
from eval.tables.table import Number
from harness.config import UserError
from tests.eval.conftest import PROMPTS, Sweep, picture

SMALL = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 2, "num_hidden_layers": 2}
VISION: Any = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1}
TEXT: Any = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
MEAN, DEVIATION = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pick_score` as transformers keeps a CLIPModel, `hps` as the checkpoint of open_clip's model."""
    root = tmp_path_factory.mktemp("scorers")
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=SMALL | {"bos_token_id": 49406, "eos_token_id": 49407},
        vision_config=SMALL | {"image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(root / "pick_score")
    (root / "hps").mkdir()
    shape = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    model = open_clip.CLIP(**cast(Any, shape))
    torch.save({"state_dict": model.state_dict(), "epoch": 1}, root / "hps" / hps.WEIGHTS.file)
    (root / "hps" / CONFIG_FILE).write_text(json.dumps({"model_cfg": shape}))
    return root


def by_hand(images: np.ndarray) -> torch.Tensor:
    """CLIP's preprocessing to 32 pixels, without its library."""
    small = [Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC) for image in images]
    rows = torch.from_numpy(np.stack([np.asarray(each) for each in small]) / 255.0)
    return ((rows - torch.tensor(MEAN)) / torch.tensor(DEVIATION)).movedim(-1, 1).float()


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


def test_pick_score_is_the_scaled_cosine_of_its_towers(folders: Path) -> None:
    score = pick_score.PickScore.load(folders / "pick_score", CPU)
    model = CLIPModel.from_pretrained(folders / "pick_score")
    words = ["<start_of_text>", *open_clip.tokenizer.SimpleTokenizer().encode("a red cup"), "<end_of_text>"]
    ids = torch.tensor([[49406, *words[1:-1], 49407]])
    with torch.no_grad():
        text = model.text_model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0, -1]
        seen = model.vision_model(pixel_values=by_hand(IMAGES)).pooler_output
        text, seen = text @ model.text_projection.weight.T, seen @ model.visual_projection.weight.T
        cosines = torch.nn.functional.cosine_similarity(seen, text[None])
        expected = math.exp(float(model.logit_scale)) * cosines.numpy()
    assert score("a red cup", IMAGES) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_hps_is_a_hundred_cosines_of_its_checkpoint(folders: Path) -> None:
    score = hps.HPS.load(folders / "hps", CPU)
    model = open_clip.CLIP(16, VISION, TEXT).eval()
    model.load_state_dict(torch.load(folders / "hps" / hps.WEIGHTS.file)["state_dict"])
    with torch.no_grad():
        seen, text, _ = model(by_hand(IMAGES), open_clip.tokenize(["a red cup"]))
    assert score("a red cup", IMAGES) == pytest.approx(100 * (seen @ text[0]).numpy(), rel=1e-4, abs=1e-4)
    assert score("a red cup", IMAGES)[0] == pytest.approx(score("a red cup", IMAGES[:1])[0], rel=1e-5)


@pytest.mark.parametrize("metric", [pick_score.PickScore, hps.HPS])
def test_a_table_names_the_weights_and_values_are_kept(
    metric, folders: Path, runs: Sweep, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = [path.name for path in sorted(runs.root.glob("tp_sds*s0*"))]

    def opened():
        return open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0, only=only)

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv(FOLDERS, raising=False)
    with pytest.raises(UserError) as told:
        make_tables(opened(), [metric.name])
    assert f"weights of {metric.name} are not here; fetch them: harness doctor --fetch --metrics" in str(
        told.value
    )
    monkeypatch.setenv(FOLDERS, str(folders))
    [table], _ = make_tables(opened(), [metric.name])
    assert "not the published ones" in table.notes[-1] and str(folders / metric.name) in table.notes[-1]
    assert math.isfinite(cast(Number, table.rows[0][2]).value)
    assert len(list(runs.root.glob(f"*/eval/{metric.name}-v1.json"))) == 3
    broken = tmp_path / "broken" / metric.name
    broken.mkdir(parents=True)
    monkeypatch.setenv(FOLDERS, str(broken.parent))
    with pytest.raises(UserError, match=f"has no {metric.weights.file}"):
        make_tables(opened(), [metric.name])
    (broken / metric.weights.file).write_bytes(b"nothing")
    if (folders / metric.name / CONFIG_FILE).exists():  # or a whole ViT-H would be made first
        copy(folders / metric.name / CONFIG_FILE, broken)
    found = opened()
    with pytest.raises(UserError, match="does not load"):
        make_tables(found, [metric.name])


def test_clip_score_is_the_cosine_and_falls_when_captions_are_shuffled(
    runs: Sweep, clip_folder: Path, clip: Clip, tmp_path: Path
) -> None:
    for prompt, other in zip(PROMPTS[:3], (*PROMPTS[1:3], PROMPTS[0]), strict=True):
        runs.add("shuffled", prompt, 0, shows=other)
    found = open_runs(
        runs.root,
        clip=str(clip_folder),
        device="cpu",
        samples=0,
        ground_truth=lambda prompt, views: picture(prompt, 7, views.tiles),
    )
    write_tables(found, ["clip_score"], tmp_path)
    lines = {line["method"]: line for line in csv.DictReader((tmp_path / "clip_score.csv").open())}
    scores = {method: float(line["CLIPScore"]) for method, line in lines.items()}
    assert list(scores) == [
        "uniform_sds", "shuffled", "tp_sds", "ground truth (ceiling)", "other captions (floor)",
    ]  # fmt: skip
    assert scores["tp_sds"] > 2 * max(scores["shuffled"], scores["other captions (floor)"])
    run = next(run for run in found if run.method == "tp_sds")
    views = clip.embed_images(run.views(20)[:4])
    cosines = torch.nn.functional.cosine_similarity(views, clip.embed_texts([run.prompt]))
    frame = found.of(clip_score.CLIPScore).frame
    value = float(frame.loc[frame["run"] == run.run_id, "clip_score"].iloc[0])
    assert value == pytest.approx(100 * float(cosines.clamp(min=0).mean()), rel=1e-4)
