"""What a method needs in order to learn: tensors of each run, and an optimiser that travels with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from harness import rng
from harness.config import Decay as Decay  # for the settings of methods that learn
from harness.config import OptimConfig, fitting
from harness.distill.optim import Adam


class Learner:
    """Tensors [R, …] that descend a loss of each run by AdamW (Loshchilov & Hutter 2019).

    `begin` makes a method's `initial_state`, `state` and `load_state` are what it hands on: the tensors under
    their names, both moments, and the number of updates. With `weight_decay` 0 it is Adam.
    """

    def __init__(
        self,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        with fitting("Learner"):
            self.cfg = OptimConfig(lr=lr, betas=betas, eps=eps)
        self.weight_decay = weight_decay
        self.params: dict[str, Tensor] = {}

    @staticmethod
    def begin(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of tensors that have not learned anything."""
        runs = len(next(iter(params.values())))
        zeros = {f"{moment}.{name}": torch.zeros_like(v) for moment in _MOMENTS for name, v in params.items()}
        return {**params, **zeros, _COUNT: torch.zeros(runs, dtype=torch.int64)}

    def state(self) -> dict[str, Tensor]:
        """See `Method.state`."""
        moments = {"first": self._adam.first, "second": self._adam.second}
        return {
            **{name: value.detach() for name, value in self.params.items()},
            **{f"{moment}.{name}": v for moment, values in moments.items() for name, v in values.items()},
            _COUNT: self._count_R,
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Method.load_state`."""
        names = [name for name in tensors if name != _COUNT and name.partition(".")[0] not in _MOMENTS]
        self.params = {name: tensors[name].detach().requires_grad_() for name in names}
        self._adam = Adam(self.cfg, self.params, self.weight_decay)
        self._adam.first, self._adam.second = (
            {name: tensors[f"{moment}.{name}"] for name in names} for moment in _MOMENTS
        )
        self._count_R = tensors[_COUNT]

    def descend(self, loss_R: Tensor) -> None:
        """One update of every run by the gradient of its loss, [R], which depends on `params`."""
        found = torch.autograd.grad(
            loss_R, list(self.params.values()), torch.ones_like(loss_R), allow_unused=True
        )
        grads = {
            name: torch.zeros_like(value) if grad is None else grad
            for (name, value), grad in zip(self.params.items(), found, strict=True)
        }
        self._count_R = self._count_R + 1
        self._adam.update(self.params, grads, self._count_R.cpu())


def linear(keys: Sequence[rng.Key], name: str, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Weight [R, out, in] and bias [R, out] of a fresh layer, uniform in ±1/√in from each run's key."""
    draws = rng.uniform(keys, [0] * len(keys), "method", (outputs, inputs + 1), part=f"linear {name}")
    scaled = (2 * draws - 1) / inputs**0.5
    return scaled[..., :-1].contiguous(), scaled[..., -1].contiguous()


_MOMENTS, _COUNT = ("first", "second"), "updates"
