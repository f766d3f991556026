"""Random streams are a pure function of (prompt, seed, step, name)."""

import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness import rng
from harness.config import Config
from harness.prompt import normalised
from harness.scene.cameras import sample
from harness.scene.kind import make_scene

prompts = st.text(min_size=1, max_size=30)
seeds = st.integers(0, 2**31)
steps = st.integers(0, 10**6)
names = st.sampled_from(rng.STREAMS)
# What the normalisation takes for the same, as people and files spell it.
SPELLINGS = {
    "upper case": str.upper,
    "decomposed": lambda text: unicodedata.normalize("NFD", text),
    "wide letters": lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    "blanks": lambda text: "  " + text.replace(" ", " \t\u00a0") + "\n",
    "a full stop": lambda text: text + ".",
}


def initial(prompt: str, seed: int, step: int, name: rng.Stream) -> int:
    return rng.stream(rng.Key(prompt, seed), step, name).initial_seed()


@given(prompts)
def test_normalising_is_idempotent_and_takes_the_usual_spellings_for_one(prompt: str):
    assert normalised(normalised(prompt)) == normalised(prompt)
    for change in ("decomposed", "blanks", "a full stop"):
        assert normalised(SPELLINGS[change](prompt)) == normalised(prompt), change


@given(prompts, seeds, steps, names)
def test_a_stream_repeats_itself(prompt: str, seed: int, step: int, name: rng.Stream):
    first = torch.randn(4, generator=rng.stream(rng.Key(prompt, seed), step, name))
    assert torch.equal(first, torch.randn(4, generator=rng.stream(rng.Key(prompt, seed), step, name)))


@given(prompts, prompts, seeds, steps, names)
def test_prompts_share_a_stream_exactly_where_they_are_the_same(a, b, seed, step, name):
    same = initial(a, seed, step, name) == initial(b, seed, step, name)
    assert same == (normalised(a) == normalised(b))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_prompt_spelled_otherwise_draws_the_same(spelling: str):
    for prompt in ("a red café on a table", "a cup with a crème brûlée, half eaten"):
        other = SPELLINGS[spelling](prompt)
        assert other != prompt and initial(other, 3, 7, "noise") == initial(prompt, 3, 7, "noise")


def test_streams_differ_in_each_of_their_parts():
    draws = {
        (prompt, seed, step, name): torch.rand(
            1, generator=rng.stream(rng.Key(prompt, seed), step, name)
        ).item()
        for prompt in ("a cup", "a car", "1/noise/a cup")
        for seed in range(4)
        for step in range(4)
        for name in rng.STREAMS
    }
    assert len(set(draws.values())) == len(draws)


def test_two_prompts_at_one_seed_have_nothing_in_common():
    """Neither start nor cameras, timesteps nor noise: correlations over many steps are those of chance."""
    n, keys = 2000, [rng.Key("a red bus", 0), rng.Key("a blue car", 0)]
    config = Config()
    draws = {
        "timestep": [rng.uniform([key] * n, range(n), "timestep", ()) for key in keys],
        "noise": [rng.normal([key] * n, range(n), "noise", (2,)).flatten() for key in keys],
        "azimuth": [
            sample(config.camera, rng.uniform([key] * n, range(n), "camera", (4,))).azimuth_R for key in keys
        ],
    }
    for kind in ("field", "image"):
        scene = make_scene(config.scene.model_copy(update={"kind": kind}), 4, "cpu", "torch")
        params = scene.init(keys, torch.zeros(2, 4))
        draws |= {
            f"{kind} {name}": [row.flatten() for row in params[name]] for name in params if name[0] != "b"
        }
    for name, (one, other) in draws.items():
        assert not (one == other).all(), name
        correlation = torch.corrcoef(torch.stack([one, other]).double())[0, 1].item()
        assert abs(correlation) < 4 / len(one) ** 0.5, name


def test_a_run_draws_the_same_alone_and_in_a_pack():
    keys = [rng.Key("a cup", 3), rng.Key("a car", 4), rng.Key("a cup", 5)]
    packed = rng.normal(keys, [10, 20, 30], "noise", (4, 8, 8))
    assert torch.equal(packed[1], rng.normal([keys[1]], [20], "noise", (4, 8, 8))[0])
    packed = rng.uniform(keys[:2], [10, 20], "camera", (4,))
    assert torch.equal(packed[1], rng.uniform([keys[1]], [20], "camera", (4,))[0])
    assert packed.min() >= 0 and packed.max() < 1


def test_draws_are_pinned():
    """A changed stream would change every result there is."""
    assert initial("a red bus", 0, 1, "noise") == 8715883408632287096
    with pytest.raises(ValueError, match="streams: init, camera"):
        initial("a red bus", 0, 0, "nose")  # type: ignore[arg-type]
