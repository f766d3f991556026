"""`harness toyworld show|train|check`."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config import UserError, ViewsConfig, nearest
from harness.home import WEIGHTS
from harness.records.files import make_folder, write_bytes
from harness.toyworld.training import Outcome, Say

if TYPE_CHECKING:
    from harness.toyworld.check import Judge, Retrieval

STAGES = ("clip", "vae", "denoiser", "all")
SEED = 0
MINUTES = 240.0  # of two CPU cores
SHARES = {"clip": 0.25, "vae": 0.2, "denoiser": 0.55}
CAPACITY = {"cpu": (8_192, 8), "cuda": (32_768, 64)}  # pictures kept, and renewed at each step


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


def train(
    stage: str,
    work: Path,
    say: Say,
    seed: int = SEED,
    out: Path = WEIGHTS,
    device: str = "auto",
    minutes: float | None = None,
    start: Path | None = None,
    steps: int | None = None,
    anew: bool = False,
) -> None:
    """Train one stage or all, with their state under `work` (of another seed than 0 in a folder of its own),
    and write the weights to `out`.

    `minutes` of work are shared out by `SHARES` where all are trained, and `steps` are each stage's; `start`
    is a folder with toy-sd and toy-clip to train on from. The stage vae then trains the decoder alone, so
    that the denoiser's latents stay what they are, and the stage denoiser leaves the autoencoder as it is;
    with `anew` it takes the autoencoder alone from there.
    """
    if stage not in STAGES:
        raise UserError(f"toyworld train: unknown stage '{stage}'{nearest(stage, STAGES)}")
    if minutes is not None and not 0 < minutes < float("inf"):
        raise UserError(f"toyworld train: --minutes is {minutes}; give a number above 0")
    if anew and (stage != "denoiser" or start is None):
        raise UserError("toyworld train: --anew is of the stage denoiser, with --from for its autoencoder")
    import torch

    from harness.device import pick_device
    from harness.toyworld import clip, denoiser, vae
    from harness.toyworld.data import Ring
    from harness.toyworld.training import Budget

    where = torch.device(pick_device(device))
    capacity, fresh = CAPACITY[where.type]
    work = work / f"seed-{seed}" if seed else work  # one state is of one seed's draws

    def budget(name: str) -> Budget:
        share = SHARES[name] if stage == "all" else 1.0
        return Budget(steps, None if steps else (minutes or MINUTES) * 60 * share)

    facts = {"world": f"scenes as needed, {fresh} new pictures of 64×64 a step", "seed": seed}
    if stage in ("clip", "all"):
        torch.manual_seed(seed + 1)
        model = (clip.load_clip(start / "toy-clip") if start else clip.new_clip()).to(where)
        outcome = clip.train_clip(work, model, Ring(seed, where, capacity, fresh), seed, budget("clip"), say)
        clip.save_clip(model.cpu(), out / "toy-clip")
        _card(out / "toy-clip", "open_clip scorer of the toy world", facts, {"clip": outcome})
    if stage == "clip":
        return
    torch.manual_seed(seed)
    autoencoder, prior = (
        denoiser.load_prior(start / "toy-sd") if start else (vae.new_vae(), denoiser.Denoiser())
    )
    prior = denoiser.Denoiser() if anew else prior
    autoencoder.to(where)
    outcomes: dict[str, Outcome] = {}
    if stage in ("vae", "all") or not start:
        ring = Ring(seed, where, capacity, fresh)
        outcomes["vae"] = vae.train_vae(
            work, autoencoder, ring, seed, budget("vae"), say, decoder_only=stage == "vae" and bool(start)
        )
    if stage == "vae" and not start:
        return
    if stage in ("denoiser", "all"):
        ring = Ring(seed + 2, where, capacity, fresh)
        prior.to(where)
        outcomes["denoiser"] = denoiser.train_denoiser(
            work, prior, autoencoder.eval(), ring, seed, budget("denoiser"), say
        )
    denoiser.save_prior(autoencoder.cpu(), prior.cpu(), out / "toy-sd")
    _card(out / "toy-sd", "latent diffusion prior of the toy world", facts, outcomes)


def _card(folder: Path, what: str, facts: dict, outcomes: dict[str, Outcome]) -> None:
    card = {"what": what, "data": facts["world"], "seed": facts["seed"], "license": "Apache-2.0"}
    card["training"] = {k: asdict(o) for k, o in outcomes.items()}
    weights = folder / "open_clip_model.safetensors"
    if weights.exists():  # evaluation refuses a scorer whose weights are not its card's
        card["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    (folder / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def run_check(judge: Judge, retrieval: Retrieval, say: Say, folder: Path = WEIGHTS) -> bool:
    """Measure the weights in `folder` and note it in their cards; True where every bar is met."""
    from harness.toyworld.check import check

    findings = check(judge, retrieval, say, folder / "toy-sd")
    for part in ("toy-sd", "toy-clip"):
        path = folder / part / "card.json"
        card = json.loads(path.read_text())
        card["metrics"] = {f.name: round(f.value, 4) for f in findings if f.of == part}
        path.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    return all(f.ok for f in findings)
