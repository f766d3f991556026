"""The training of the weights: resumable to the bit, and readable by diffusers and open_clip."""

import itertools
import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from harness.toyworld import clip, data, denoiser, vae
from harness.toyworld.grammar import caption, parse
from harness.toyworld.training import Schedule, generator, train

SHORT = Schedule(steps=6, lr=1e-3, warmup=2)


class Killed(Exception):
    pass


def fit(work, stop_at=None):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))

    def loss_of(step):
        if step == stop_at:
            raise Killed
        x = torch.randn(16, 3, generator=generator(1, step))
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    outcome = train("line", work, model, loss_of, replace(SHORT, steps=60), lambda line: None, save_every=20)
    return model.state_dict(), outcome


def test_a_resumed_training_equals_an_unbroken_one(tmp_path):
    whole, outcome = fit(tmp_path / "whole")
    assert outcome.steps == 60
    with pytest.raises(Killed):
        fit(tmp_path / "broken", stop_at=47)
    rest, _ = fit(tmp_path / "broken")
    for key, value in whole.items():
        if value.is_floating_point():
            assert torch.equal(value, rest[key]), key
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "broken" / "line.jsonl").read_text().splitlines()
    ]
    assert steps == [50, 60]


def test_the_learning_rate_warms_up_and_ends_low():
    schedule = Schedule(steps=1000, lr=1.0)
    rates = [schedule.rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01) and rates[300] == 1.0
    assert rates[-1] == pytest.approx(0.02)
    assert all(a >= b for a, b in itertools.pairwise(rates[650:]))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    work = tmp_path_factory.mktemp("toyworld")
    return work, data.build(work, 3, lambda line: None, scenes=50)


def test_the_set_is_built_once_and_the_same_twice(small, tmp_path):
    work, images = small
    assert images.images.shape == (150, 64, 64, 3)
    again = data.build(tmp_path, 3, lambda line: None, scenes=50)
    assert np.array_equal(again.images, images.images) and again.captions == images.captions
    said = []
    data.build(work, 3, said.append, scenes=50)
    assert said == []
    assert sorted(i for group in images.by_noun() for i in group) == list(range(150))


def test_a_prior_of_a_few_steps_loads_as_a_diffusers_pipeline(small, tmp_path):
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    work, images = small
    autoencoder, _ = vae.train_vae(work, images, 0, lambda line: None, SHORT)
    latents = vae.encode_all(autoencoder, images, work / "latents.safetensors")
    assert latents.shape == (150, 4, 16, 16)
    assert torch.equal(latents, vae.encode_all(autoencoder, images, work / "latents.safetensors"))
    assert latents.float().mean((0, 2, 3)).abs().max() < 0.05
    assert (latents.float().std((0, 2, 3)) - 1).abs().max() < 0.05
    model, _ = denoiser.train_denoiser(work, images, latents, 0, lambda line: None, SHORT)
    denoiser.save_prior(autoencoder, model, tmp_path / "prior")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "prior", safety_checker=None).to(
        dtype=torch.float32
    )
    made: Any = pipe("a red cup, front view", num_inference_steps=2, output_type="np", height=64, width=64)
    assert made.images.shape == (1, 64, 64, 3) and np.isfinite(made.images).all()


def test_standardising_changes_the_latents_and_not_the_pictures(small):
    _, images = small
    torch.manual_seed(0)
    autoencoder = vae.new_vae().eval()
    some = torch.from_numpy(images.images[:40])
    before = vae.reconstruct(autoencoder, some).int()
    vae.standardise(autoencoder, some)
    assert (vae.reconstruct(autoencoder, some).int() - before).abs().max() <= 1


def test_a_scorer_of_a_few_steps_loads_as_an_open_clip_folder(small, tmp_path):
    import open_clip

    work, images = small
    model, _ = clip.train_clip(work, images, 0, lambda line: None, SHORT)
    clip.save_clip(model, tmp_path)
    loaded: Any = open_clip.create_model(f"local-dir:{tmp_path}", require_pretrained=True).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(loaded.encode_image(x), model.encode_image(x), atol=2e-2)


def test_look_alikes_differ_and_stay_in_the_language(small):
    _, images = small
    rng = random.Random(0)
    for scene in images.scenes * 3:
        other = clip.look_alike(scene, rng)
        assert other != scene and parse(caption(other)) == other
