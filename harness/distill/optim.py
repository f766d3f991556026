"""Adam over a pack: every run has its own step count, and its own bits whatever the pack."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from harness.config import OptimConfig
from harness.device import upload


class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1) on parameters with a leading R; moments are kept per run.

    torch's fused kernel is given one tensor per run, so that how it splits and vectorises the work depends on
    that run's size alone. `weight_decay` is decoupled from the gradient: AdamW (Loshchilov & Hutter 2019).
    `rates` are factors of the learning rate, by parameter.
    """

    def __init__(
        self,
        cfg: OptimConfig,
        params: Mapping[str, Tensor],
        weight_decay: float = 0.0,
        rates: Mapping[str, float] = {},
    ):
        self.cfg, self.weight_decay, self.rates = cfg, weight_decay, rates
        self.first = {name: torch.zeros_like(value) for name, value in params.items()}
        self.second = {name: torch.zeros_like(value) for name, value in params.items()}

    @torch.no_grad()
    def update(self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], step_R: Tensor) -> None:
        """One update in place; step_R counts from 1, this update included."""
        by_rate: dict[float, list[str]] = {}
        for name in params:
            by_rate.setdefault(self.rates.get(name, 1.0), []).append(name)
        for rate, names in by_rate.items():
            self._update(names, params, grads, step_R, self.cfg.lr * rate)

    def _update(
        self,
        names: Sequence[str],
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        step_R: Tensor,
        lr: float,
    ) -> None:
        def per_run(tensors: Mapping[str, Tensor]) -> list[Tensor]:
            return [run for name in names for run in tensors[name].unbind(0)]

        device = params[names[0]].device
        # The kernel adds one to the counts it is given.
        counts = upload((step_R - 1).to(torch.float32).repeat(len(names)), device)
        call = adamw if self.weight_decay else adam
        call(
            per_run(params),
            # The kernel walks all four lists in the order of their memory.
            per_run({name: grad.contiguous() for name, grad in grads.items()}),
            per_run(self.first),
            per_run(self.second),
            [],
            list(counts.unbind(0)),
            fused=True,
            amsgrad=False,
            beta1=self.cfg.betas[0],
            beta2=self.cfg.betas[1],
            lr=lr,
            weight_decay=self.weight_decay,
            eps=self.cfg.eps,
            maximize=False,
        )
