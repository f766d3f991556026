"""The training of the weights: resumable to the bit, and readable by diffusers and open_clip."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from typer.testing import CliRunner

from harness.cli import app
from harness.config import UserError
from harness.toyworld import check, clip, command, denoiser, vae
from harness.toyworld.data import VIEWS_EACH, Ring
from harness.toyworld.grammar import KINDS, Scene, Thing, caption, exchanged, parse
from harness.toyworld.kinds import misplaced, primitives
from harness.toyworld.render import render
from harness.toyworld.training import Budget, Schedule, generator, orthogonal, train

CPU = torch.device("cpu")
SHORT = Schedule(lr=1e-3, warmup=2)
STEPS = Budget(steps=6)


def quiet(line: str) -> None:
    pass


class Killed(Exception):
    pass


def fit(work: Path, stop_at: int | None = None) -> tuple[dict[str, torch.Tensor], Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))

    def loss_of(step: int) -> torch.Tensor:
        if step == stop_at:
            raise Killed
        x = torch.randn(16, 3, generator=generator(1, step))
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    outcome = train("line", work, model, loss_of, SHORT, Budget(steps=60), quiet, save_every=20)
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


def test_a_budget_of_seconds_is_not_spent_twice(tmp_path, monkeypatch):
    """A clock of one second a look: the same steps, whether or not it was killed on the way."""
    seen: list[float] = []
    monkeypatch.setattr("time.monotonic", lambda: float(len(seen)))

    def fit(work: Path, stop_at: int | None = None) -> Any:
        model = torch.nn.Linear(2, 1)

        def loss_of(step: int) -> torch.Tensor:
            if step == stop_at:
                raise Killed
            seen.append(0.0)
            return model(torch.ones(4, 2)).square().mean()

        return train("line", work, model, loss_of, SHORT, Budget(seconds=40), quiet, save_every=5)

    assert fit(tmp_path / "whole").steps == 40
    with pytest.raises(Killed):
        fit(tmp_path / "broken", stop_at=30)
    again = fit(tmp_path / "broken")
    assert again.steps == 40 and again.seconds == 40


def test_the_learning_rate_is_laid_over_the_budget():
    schedule, budget = Schedule(lr=1.0), Budget(seconds=500.0)
    rates = [schedule.rate(step, budget.spent(step, step / 2)) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01) and rates[300] == 1.0
    assert rates[-1] == pytest.approx(0.02)
    assert all(a >= b for a, b in itertools.pairwise(rates[650:]))


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (8, 8)])
def test_muon_takes_a_matrix_through_the_quintic_of_its_singular_values(shape: tuple[int, int]) -> None:
    matrices = (
        torch.randn((3, *shape), generator=generator(0, 1)) * torch.tensor([1.0, 9.0, 0.01])[:, None, None]
    )
    left, values, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    values /= values.norm(dim=1, keepdim=True)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert_close(orthogonal(matrices).double(), left @ values.diag_embed() @ right, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def ring() -> Ring:
    found = Ring(3, CPU, capacity=96, fresh=4)
    found.advance(0)
    return found


def test_a_ring_is_the_same_however_its_step_was_reached(ring):
    stepped, jumped = (Ring(5, CPU, capacity=16, fresh=4) for _ in range(2))
    assert list(stepped.advance(0)) == list(range(16))
    assert list(stepped.advance(1)) == [0, 1, 2, 3] and len(stepped.advance(1)) == 0
    stepped.advance(3)
    jumped.advance(3)
    assert torch.equal(stepped.images, jumped.images)
    assert (stepped.captions, stepped.views) == (jumped.captions, jumped.views)
    assert np.array_equal(stepped.images[4], render([stepped.rows[4]], stepped.cameras[4:5])[0])
    assert len(set(ring.captions)) > 15 and all(
        len(set(ring.captions[i : i + VIEWS_EACH])) == 1 for i in (0, 4)
    )


def test_draws_come_from_every_kind_evenly_or_from_a_few():
    ring = Ring(3, CPU, capacity=VIEWS_EACH * 3 * len(KINDS), fresh=4)
    kinds = tuple(KINDS)
    for index in range(len(ring)):  # what `advance` makes, less the pictures
        number = index + 7 * ring.fresh
        ring.scenes[number % len(ring)] = Scene(Thing(kinds[number // VIEWS_EACH % len(kinds)], "red"))
    ring.end = len(ring) + 7 * ring.fresh
    drawn = [ring.scenes[i].thing.noun for i in ring.draw(random.Random(0), 4400)]
    counts = [drawn.count(noun) for noun in KINDS]
    assert min(counts) > 60 and max(counts) < 140
    small = Ring(3, CPU, capacity=8, fresh=4)
    small.advance(0)
    assert set(small.draw(random.Random(0), 50)) == set(range(8))
    few = {ring.scenes[i].thing.noun for i in ring.draw(random.Random(0), 200, nouns=6)}
    assert len(few) == 6


def test_a_prior_of_a_few_steps_loads_as_a_diffusers_pipeline(ring, tmp_path):
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    autoencoder, model = vae.new_vae(), denoiser.Denoiser()
    vae.train_vae(tmp_path, autoencoder, ring, 0, STEPS, quiet, SHORT)
    latents = vae.encode(autoencoder, ring.images)
    assert latents.shape == (96, 4, 16, 16)
    assert latents.float().mean((0, 2, 3)).abs().max() < 0.05
    assert (latents.float().std((0, 2, 3)) - 1).abs().max() < 0.05
    fresh = Ring(3, CPU, capacity=48, fresh=4)
    denoiser.train_denoiser(tmp_path, model, autoencoder, fresh, 0, Budget(steps=2), quiet, SHORT)
    denoiser.save_prior(autoencoder, model, tmp_path / "prior")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "prior", safety_checker=None).to(
        dtype=torch.float32
    )
    made: Any = pipe("a red cup, front view", num_inference_steps=2, output_type="np", height=64, width=64)
    assert made.images.shape == (1, 64, 64, 3) and np.isfinite(made.images).all()

    again_vae, again = denoiser.load_prior(tmp_path / "prior")
    assert torch.equal(again.unet.conv_in.weight, model.unet.conv_in.weight.float())
    before = vae.encode(again_vae, ring.images[:8])
    vae.train_vae(tmp_path / "more", again_vae, ring, 1, Budget(steps=2), quiet, SHORT, decoder_only=True)
    assert torch.equal(vae.encode(again_vae, ring.images[:8]), before)
    with pytest.raises(UserError, match="holds no prior of the toy world"):
        denoiser.load_prior(tmp_path / "more")


def test_standardising_changes_the_latents_and_not_the_pictures(ring):
    torch.manual_seed(0)
    autoencoder = vae.new_vae().eval()
    some = ring.images[:40]
    before = vae.reconstruct(autoencoder, some).int()
    vae.standardise(autoencoder, some)
    assert (vae.reconstruct(autoencoder, some).int() - before).abs().max() <= 1


def test_disturbed_latents_belong_to_pictures_moved_alike():
    x = torch.zeros(2, 1, 64, 64)
    x[:, :, 20:28, 32:40] = 1
    moved = vae.shift(x, torch.tensor([[4.0, 0.0], [0.0, -2.0]]))
    assert torch.allclose(moved[0], x[0].roll(4, 2), atol=1e-5)
    assert torch.allclose(moved[1], x[1].roll(-2, 1), atol=1e-5)
    z = torch.randn(400, 4, 4, 4, generator=generator(0, 0))
    hurt, _ = vae.disturb(z, z, generator(0, 1))
    assert 0.05 < (hurt - z).std() < 0.5
    still, _ = vae.disturb(z, z, generator(0, 1), sigma=0.0)
    noisy, _ = vae.disturb(z, z, generator(0, 1), sigma=0.2)
    assert (noisy - still).std() == pytest.approx(0.2, rel=0.05)


def test_a_lattice_is_measured_and_a_smooth_error_is_none():
    smooth = torch.linspace(0, 1, 64)[None, None, None].expand(1, 3, 64, 64) * 0.02
    dots = torch.zeros(1, 3, 64, 64)
    dots[:, :, ::4, ::4] = 0.16
    assert check.lattice(smooth) < 0.001
    assert check.lattice(dots) == pytest.approx(0.16 * (15**0.5) / 16, rel=1e-4)
    assert check.lattice(smooth + dots) == pytest.approx(check.lattice(dots), rel=0.01)


def test_a_scorer_of_a_few_steps_loads_as_an_open_clip_folder(ring, tmp_path):
    import open_clip

    model = clip.new_clip()
    clip.train_clip(tmp_path, model, ring, 0, Budget(steps=2), quiet, SHORT)
    clip.save_clip(model, tmp_path)
    loaded: Any = open_clip.create_model(f"local-dir:{tmp_path}", require_pretrained=True).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(loaded.encode_image(x), model.encode_image(x), atol=2e-2)
    again = clip.load_clip(tmp_path)
    assert torch.equal(again.logit_scale, model.logit_scale.half().float())


def test_look_alikes_differ_and_stay_in_the_language(ring):
    rng = random.Random(0)
    for scene in ring.scenes:
        other = clip.look_alike(scene, rng)
        assert other != scene and parse(caption(other)) == other
        twin = exchanged(scene)
        if twin is not None:
            assert twin != scene and exchanged(twin) == scene and parse(caption(twin)) == twin


def test_a_misplaced_part_moves_and_nothing_else_does():
    moved = misplaced(parse("a red car with a blue roof"), random.Random(0))
    assert moved is not None
    kinds = [noun for noun in KINDS if misplaced(Scene(Thing(noun, "red")), random.Random(0)) is not None]
    assert len(kinds) > 25
    for noun in kinds:
        scene = Scene(Thing(noun, "red"))
        spoilt, whole = misplaced(scene, random.Random(0)), primitives(scene, random.Random(0))
        assert spoilt is not None
        changed = np.abs(spoilt - whole).max(1) > 1e-6
        assert changed.any() and not changed.all(), noun
        assert np.array_equal(spoilt[:, 4:], whole[:, 4:])


@pytest.mark.journey
def test_one_command_trains_all_and_another_checks_it(tmp_path, monkeypatch):
    """The whole way at tiny size: from nothing, then on from there; weights this young miss their bars."""
    monkeypatch.setattr(command, "CAPACITY", {"cpu": (16, 4)})
    monkeypatch.setattr(check, "SCENES", 12)
    monkeypatch.setattr(check, "DDIM_STEPS", 2)
    monkeypatch.setattr(check.data, "suite_prompts", lambda: ["a red cup", "a blue car with a red roof"])
    weights, run = tmp_path / "weights", CliRunner()
    line = ["toyworld", "train", "--work", f"{tmp_path}/work", "--out", f"{weights}", "--device", "cpu"]
    assert run.invoke(app, [*line, "--steps", "1"]).exit_code == 0
    card = json.loads((weights / "toy-sd" / "card.json").read_text())
    assert card["training"]["denoiser"]["steps"] == 1 and card["training"]["vae"]["device"] == "cpu"
    more = ["toyworld", "train", "denoiser", "--work", f"{tmp_path}/more", "--out", f"{weights}"]
    assert run.invoke(app, [*more, "--from", f"{weights}", "--steps", "1", "--device", "cpu"]).exit_code == 0
    other = ["toyworld", "train", "denoiser", "--work", f"{tmp_path}/more", "--out", f"{tmp_path}/other"]
    other += ["--from", f"{weights}", "--steps", "1", "--device", "cpu", "--seed", "1", "--anew"]
    assert run.invoke(app, other).exit_code == 0
    for part, alike in (("vae", True), ("unet", False)):
        file = f"toy-sd/{part}/diffusion_pytorch_model.safetensors"
        one, two = (load_file(folder / file) for folder in (weights, tmp_path / "other"))
        matrices = [key for key in one if one[key].dim() > 1]
        assert {torch.equal(one[key], two[key]) for key in matrices} == {alike}
    done = run.invoke(app, ["toyworld", "check", "--weights", f"{weights}"])
    assert done.exit_code == 1 and "MISSED samples retrieve their prompt, front" in done.output
    metrics = json.loads((weights / "toy-clip" / "card.json").read_text())["metrics"]
    assert "told from a part misplaced" in metrics
    with pytest.raises(UserError, match="--minutes is 0"):
        command.train("all", tmp_path, quiet, minutes=0)
    with pytest.raises(UserError, match="--anew is of the stage denoiser"):
        command.train("all", tmp_path, quiet, anew=True)


def test_a_picture_was_seen_from_where_its_nearest_camera_is_or_one_step_beside():
    ring_CND = torch.eye(len(check.RING))[:, None]

    def share(view: str, azimuth: int, elevation: int) -> float:
        return check.followed({view: ring_CND[check.RING.index((azimuth, elevation))]}, ring_CND)

    assert (
        share("side", 90, 30)
        == share("front", 0, 30)
        == share("back", 180, 0)
        == share("overhead", 0, 75)
        == 1
    )
    assert share("front", 90, 30) == share("back", 0, 30) == share("overhead", 0, 30) == 0
    assert share("front", 45, 0) == share("side", 45, 0) == 1 and share("front", 75, 0) == 0
