"""A learner is torch's AdamW on each run, whatever the pack and wherever it was resumed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from harness.distill.learning import Learner

BETAS, EPS, LR = (0.9, 0.99), 1e-8, 0.05


def start(runs: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(3, *shape, generator=generator)[:runs]
        for name, shape in (("w", (2, 5)), ("b", (4,)))
    }


def loss(params: dict[str, Tensor], i: int) -> Tensor:
    target = torch.randn(4, generator=torch.Generator().manual_seed(i))
    return (params["w"].square().sum((-1, -2)) - 1) ** 2 + ((params["b"] - target) ** 2).sum(-1)


def learner(state: dict[str, Tensor], decay: float) -> Learner:
    made = Learner(LR, BETAS, EPS, decay)
    made.load_state(state)
    return made


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_descends_as_torchs_own_optimiser_does(decay: float) -> None:
    ours = learner(Learner.begin(start()), decay)
    references = [
        {name: value[r].clone().requires_grad_() for name, value in start().items()} for r in range(3)
    ]
    optimisers = [
        torch.optim.AdamW(own.values(), lr=LR, betas=BETAS, eps=EPS, weight_decay=decay) for own in references
    ]
    for i in range(6):
        ours.descend(loss(ours.params, i))
        for own, optimiser in zip(references, optimisers, strict=True):
            optimiser.zero_grad()
            loss(own, i).backward()
            optimiser.step()
    for name, value in ours.params.items():
        assert value.requires_grad
        assert_close(value.detach(), torch.stack([own[name].detach() for own in references]))


def test_a_state_goes_on_where_it_was_left_and_in_another_pack() -> None:
    whole = learner(Learner.begin(start()), 0.1)
    for i in range(6):
        whole.descend(loss(whole.params, i))
    parted = learner(Learner.begin(start()), 0.1)
    for i in range(3):
        parted.descend(loss(parted.params, i))
    kept = {name: value[[2, 0]].clone() for name, value in parted.state().items()}
    assert {name: value.shape[1:] for name, value in kept.items()} == {
        name: value.shape[1:] for name, value in Learner.begin(start()).items()
    }
    later = learner(kept, 0.1)
    for i in range(3, 6):
        later.descend(loss(later.params, i))
    for name, value in later.state().items():
        assert torch.equal(value, whole.state()[name][[2, 0]]), name


def test_what_no_loss_depends_on_stays() -> None:
    ours = learner(Learner.begin(start()), 0.0)
    ours.descend(ours.params["b"].square().sum(-1))
    assert torch.equal(ours.params["w"].detach(), start()["w"])
    assert not torch.equal(ours.params["b"].detach(), start()["b"])
