"""Random streams are a pure function of (seed, step, name)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness import rng


@given(st.integers(0, 2**31), st.integers(0, 10**6), st.sampled_from(rng.STREAMS))
def test_a_stream_repeats_itself(seed: int, step: int, name: rng.Stream):
    first = torch.randn(4, generator=rng.stream(seed, step, name))
    assert torch.equal(first, torch.randn(4, generator=rng.stream(seed, step, name)))


def test_streams_differ_in_each_of_their_parts():
    draws = {
        (seed, step, name): torch.rand(1, generator=rng.stream(seed, step, name)).item()
        for seed in range(4)
        for step in range(4)
        for name in rng.STREAMS
    }
    assert len(set(draws.values())) == len(draws)


def test_a_run_draws_the_same_alone_and_in_a_pack():
    packed = rng.normal([3, 4, 5], [10, 20, 30], "noise", (4, 8, 8))
    assert torch.equal(packed[1], rng.normal([4], [20], "noise", (4, 8, 8))[0])
    packed = rng.uniform([3, 4], [10, 20], "camera", (4,))
    assert torch.equal(packed[1], rng.uniform([4], [20], "camera", (4,))[0])
    assert packed.min() >= 0 and packed.max() < 1


def test_draws_are_pinned():
    """A changed stream would change every result there is."""
    assert rng.stream(0, 1, "noise").initial_seed() == 5754602670477536525
    with pytest.raises(ValueError, match="streams: init, camera"):
        rng.stream(0, 0, "nose")  # type: ignore[arg-type]
