"""A real open_clip model of random weights at toy size, and run folders written through `RunFolder`."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import open_clip
import pytest
import torch
from open_clip.tokenizer import default_bpe
from safetensors.torch import save_file

from eval.scorers.clip import CONFIG_FILE, MODEL_FILE, Clip, load_clip, normalise
from eval.sources.load import load_runs
from harness.config import Config, apply_overrides
from harness.presets import preset
from harness.records.costs import MethodCost, SideBySide, keep_costs
from harness.records.files import write_json
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, SuiteRef
from tests.conftest import made_once

MERGES = 300
COLOURS = {
    "a red cup": (220, 30, 30),
    "a blue car": (30, 30, 220),
    "a green chair": (30, 180, 30),
    "a yellow bus": (230, 220, 30),
    "a white vase": (245, 245, 245),
    "a pink donut": (250, 130, 190),
}
PROMPTS = tuple(COLOURS)
SUITE = SuiteRef(
    name="six", sha256=hashlib.sha256("\n".join(PROMPTS).encode()).hexdigest(), size=len(PROMPTS)
)


def picture(prompt: str, seed: int, views: int = 5, size: int = 16) -> np.ndarray:
    """[V, H, W, 3] uint8: the prompt's colour with some noise, which is all the tiny scorer goes by."""
    noise = np.random.default_rng(seed).normal(0, 12, (views, size, size, 3))
    return (np.array(COLOURS[prompt]) + noise).clip(0, 255).astype(np.uint8)


def write_clip(folder: Path) -> Path:
    """An open_clip folder like harness/weights/toy-clip: config, fp16 weights, a cut vocabulary.

    It is trained on `COLOURS` on the spot, in a second or two, so that a score has a right answer.
    """
    folder.mkdir(parents=True)
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as source:
        lines = source.read().split("\n")[: MERGES + 1]
    with gzip.open(folder / "bpe.txt.gz", "wt", encoding="utf-8") as target:
        target.write("\n".join(lines))
    text = {"context_length": 24, "vocab_size": 512 + MERGES + 2, "width": 32, "heads": 2, "layers": 1}
    model_cfg = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 1},
        "text_cfg": text | {"tokenizer_kwargs": {"bpe_path": "bpe.txt.gz"}},
    }
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bilinear"}
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = open_clip.create_model(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(
        f"local-dir:{folder}", **cast(Any, {"bpe_path": str(folder / "bpe.txt.gz")})
    )
    tokens = tokenizer([normalise(prompt) for prompt in PROMPTS])
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(120):
        pixels = np.concatenate([picture(prompt, step, views=1) for prompt in PROMPTS])
        images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
        logits = 10 * model.encode_image(images, normalize=True) @ model.encode_text(tokens, normalize=True).T
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(PROMPTS)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_file({k: v.half().contiguous() for k, v in model.state_dict().items()}, folder / MODEL_FILE)
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "toy-tiny", write_clip)


@pytest.fixture(scope="session")
def clip(clip_folder: Path) -> Clip:
    return load_clip(str(clip_folder), "cpu")


TOY = apply_overrides(preset("toy"), ["steps=20", "views.azimuths=4", "views.count=2"])


class Sweep:
    """A runs root filled as a sweep would."""

    def __init__(self, root: Path, suite: SuiteRef = SUITE, prompts: tuple[str, ...] = PROMPTS):
        self.root = root
        self.suite = suite
        (root / "suites").mkdir(parents=True, exist_ok=True)
        write_json(
            root / "suites" / f"{suite.sha256[:12]}.json",
            {"name": suite.name, "sha256": suite.sha256, "prompts": list(prompts)},
        )

    def add(
        self,
        method: str,
        prompt: str,
        seed: int,
        end: str = "done",
        shows: str | Sequence[str] | None = None,
        config: Config = TOY,
        weights: str = "f" * 64,
        stamp: str | None = None,
        **spec: Any,
    ) -> RunFolder:
        """A run that ended as `end`: done, failed after the first evaluation step, or new.

        Its views look like `shows`: one prompt, one per evaluation step, or by default the run's own. `stamp`
        is the prior's; None makes a record from before there were any.
        """
        fields: dict[str, Any] = {"suite": self.suite} | spec
        folder = RunFolder.create(
            self.root, RunSpec(method=method, prompt=prompt, seed=seed, config=config, **fields)
        )
        if end == "new":
            return folder
        tag = config.guidance.prior
        prior = {"tag": tag, "weights_hash": weights, "is_toy": tag.startswith("toy-")}
        folder.save_env(
            {"prior": prior if stamp is None else prior | {"stamp": stamp, "is_toy": stamp == "toy"}}
        )
        steps = config.views.steps(config.steps)
        looks = [shows or prompt] * len(steps) if shows is None or isinstance(shows, str) else list(shows)
        for step, look in list(zip(steps, looks, strict=True))[: 1 if end == "failed" else None]:
            folder.append_metrics([{"step": step, "time": step / 10}])
            folder.save_views(step, picture(str(look), seed + step, config.views.tiles))
        if end == "done":
            folder.finish({"steps": config.steps})
        else:
            folder.fail("non-finite gradient", step=13)
        return folder

    def timed(self, nfe: Mapping[str, float] | None = None, **seconds: Sequence[float]) -> None:
        """Keep a measurement of every method's step, as `harness bench methods` would: `seconds` per round,
        and NFE per step, by method; .1 and 2 for those not given."""
        runs, _ = load_runs(self.root)
        rounds = max(map(len, seconds.values()), default=3)
        methods = {
            run.cost_key: MethodCost(
                nfe=(nfe or {}).get(run.method, 2),
                seconds=tuple(seconds.get(run.method, [0.1] * rounds)),
            )
            for run in runs
        }
        keep_costs(
            self.root, SideBySide(machine="a machine", device="cpu", threads=2, pack=4, methods=methods)
        )


@pytest.fixture
def runs(tmp_path: Path) -> Sweep:
    """Two methods on three of the suite's six prompts, two seeds.

    `tp_sds` is right at both steps; `uniform_sds` is right at the last step but for one run.
    """
    made = Sweep(tmp_path / "runs")
    for prompt in PROMPTS[:3]:
        for seed in (0, 1):
            made.add("tp_sds", prompt, seed)
            last = PROMPTS[5] if (prompt, seed) == (PROMPTS[0], 1) else prompt
            made.add("uniform_sds", prompt, seed, shows=[PROMPTS[4], last])
    return made
