"""`harness toyworld show|train|check`."""

import hashlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

from harness.config import UserError, ViewsConfig, nearest
from harness.records.files import make_folder, write_bytes
from harness.toyworld.training import Outcome, Say

STAGES = ("clip", "vae", "denoiser", "all")
WEIGHTS = Path(__file__).parents[1] / "weights"
SEED = 0


def show(text: str, out: Path) -> Path:
    """Write a sheet of the caption's scene from the evaluation cameras; returns its path."""
    import numpy as np
    from PIL import Image

    from harness.toyworld.render import ground_truth

    views = ground_truth(text, ViewsConfig())
    strip = np.concatenate(list(views), axis=1)
    sheet = Image.fromarray(strip).resize((strip.shape[1] * 2, strip.shape[0] * 2), Image.Resampling.NEAREST)
    data = io.BytesIO()
    try:
        sheet.save(data, Image.registered_extensions()[out.suffix.lower()])
    except (KeyError, OSError):  # OSError: a format that cannot hold it
        raise UserError(f"--out {out}: no picture can be written under that ending; take .png") from None
    make_folder(out.parent)
    write_bytes(out, data.getvalue())
    return out


def train(stage: str, work: Path, say: Say, seed: int = SEED, out: Path = WEIGHTS) -> None:
    """Train one stage or all, with their state under `work`, and write the weights to `out`."""
    if stage not in STAGES:
        raise UserError(f"toyworld train: unknown stage '{stage}'{nearest(stage, STAGES)}")
    from harness.toyworld import clip, data, denoiser, vae

    started = time.monotonic()
    images = data.build(work, seed, say)
    say(f"{len(images)} images ready after {time.monotonic() - started:.0f} s")
    facts = {"world": f"{data.SCENES} scenes × {data.VIEWS_EACH} views, 64×64", "seed": seed}
    if stage in ("clip", "all"):
        model, outcome = clip.train_clip(work, images, seed, say)
        clip.save_clip(model, out / "toy-clip")
        _card(out / "toy-clip", "open_clip scorer of the toy world", facts, {"clip": outcome})
    if stage == "clip":
        return
    autoencoder, vae_outcome = vae.train_vae(work, images, seed, say)
    if stage == "vae":
        return
    latents = vae.encode_all(autoencoder, images, work / "latents.safetensors")
    prior, outcome = denoiser.train_denoiser(work, images, latents, seed, say)
    denoiser.save_prior(autoencoder, prior, out / "toy-sd")
    _card(
        out / "toy-sd",
        "latent diffusion prior of the toy world",
        facts,
        {"vae": vae_outcome, "denoiser": outcome},
    )


def _card(folder: Path, what: str, facts: dict, outcomes: dict[str, Outcome]) -> None:
    card = {"what": what, "data": facts["world"], "seed": facts["seed"], "license": "Apache-2.0"}
    card["training"] = {
        k: {"steps": o.steps, "seconds": o.seconds, "loss": o.loss} for k, o in outcomes.items()
    }
    weights = folder / "open_clip_model.safetensors"
    if weights.exists():  # evaluation refuses a scorer whose weights are not its card's
        card["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    (folder / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def run_check(retrieval: Callable, say: Say) -> bool:
    """Measure the shipped weights against their bars and note it in their cards; True where all are met."""
    from harness.toyworld.check import check

    findings = check(retrieval, say)
    metrics = {f.name: round(f.value, 4) for f in findings}
    for folder in (WEIGHTS / "toy-sd", WEIGHTS / "toy-clip"):
        path = folder / "card.json"
        card = json.loads(path.read_text())
        card["metrics"] = {
            k: v for k, v in metrics.items() if ("toy-clip" in k) == (folder.name == "toy-clip")
        }
        path.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    return all(f.ok for f in findings)
