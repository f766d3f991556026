"""A sweep at the paper's size from end to end, with random weights: `python -m tests.sweep.check_full_size`.

On a GPU: Stable Diffusion v1.4's and ViT-B/32's architectures, two prompts × three methods × 300 steps,
killed once and continued, evaluated, reported; a seed's rerun beside itself; the engine's ratios. On a CPU
the same way at toy width and a few steps, so that the way itself can be tried anywhere. Seconds of each part
are printed and written to build/full-size/seconds.json.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from harness.records.folder import run_folders
from tests.sweep.check_sweep import go_on, harness, kill_on_its_way

ROOT = Path("build/full-size")
PRIOR, CLIP, RUNS = ROOT / "prior", ROOT / "clip", ROOT / "runs"
ON_GPU = torch.cuda.is_available()
STEPS = 300 if ON_GPU else 12
METHODS = "uniform_sds,linear_decay,tp_sds"
SMALL = {
    "guidance.dtype": "float32",
    "scene.resolution": 8,
    "scene.samples": 8,
    "scene.levels": 4,
    "scene.log2_hashmap": 8,
    "scene.hidden": 8,
}
SETTINGS = [f"--set={key}={value}" for key, value in ({} if ON_GPU else SMALL).items()]
SWEEP = [
    *("sweep", "prompts/smoke.txt", "--limit", "2", "--seeds", "0", "--methods", METHODS),
    *("--steps", str(STEPS), "--checkpoint-every", str(STEPS // 6), "--out", str(RUNS)),
    *("--preset", "paper", "--set", f"guidance.prior={PRIOR}", *SETTINGS),
]


def make_clip() -> None:
    """ViT-B/32 of random weights, or of toy width, as an open_clip folder."""
    config = open_clip.get_model_config("ViT-B-32-quickgelu")
    assert config is not None
    if not ON_GPU:
        config["vision_cfg"] |= {"image_size": 32, "width": 32, "head_width": 8, "layers": 1}
        config["text_cfg"] |= {"width": 32, "heads": 4, "layers": 1}
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    CLIP.mkdir(parents=True)
    save_file(model.state_dict(), CLIP / "open_clip_model.safetensors")
    preprocess = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    (CLIP / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    )


def ended(*arguments: str) -> Callable[[], None]:
    """A part that runs a command, which must end well."""

    def part() -> None:
        assert harness(*arguments).returncode == 0

    return part


def check_runs() -> None:
    """Continued by the same command, and every run whole."""
    go_on(SWEEP)
    folders = run_folders(RUNS)
    assert len(folders) == 6 and all(folder.status() == "done" for folder in folders)
    for folder in folders:
        views = folder.views(STEPS)
        assert views.shape[0] == folder.spec().config.views.azimuths + 1 and views.std() > 1


def main() -> None:
    """Every part in turn; an AssertionError says which went wrong."""
    shutil.rmtree(ROOT, ignore_errors=True)
    size = "full" if ON_GPU else "tiny"
    bench = ["--preset", "paper", "--prior", str(PRIOR), *SETTINGS]
    parts: dict[str, Callable[[], None]] = {
        "prior": ended("make-prior", "--like", "sd14", "--random", "--size", size, "--out", str(PRIOR)),
        "scorer": make_clip,
        "sweep, until it is killed": lambda: kill_on_its_way(SWEEP, RUNS),
        "sweep, continued": check_runs,
        "eval": ended("eval", str(RUNS), "--clip", str(CLIP)),
        "report": ended("report", str(RUNS), "--clip", str(CLIP)),
        "bench spread": ended("bench", "spread", *bench, "--set", f"steps={STEPS // 3}"),
    }
    if ON_GPU:
        parts["bench engine"] = ended("bench", "engine", *bench)
    seconds = {}
    for name, part in parts.items():
        started = time.monotonic()
        part()
        seconds[name] = round(time.monotonic() - started, 1)
        print(f"{name}: {seconds[name]} s", flush=True)
        (ROOT / "seconds.json").write_text(json.dumps(seconds, indent=2) + "\n")
    print(f"as it should be, at {size} size on {'a GPU' if ON_GPU else 'a CPU'}")


if __name__ == "__main__":
    sys.exit(main())
