"""Parameters drawn for R runs, and a small network on them: what kinds that read features have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from harness import rng
from harness.scene.contract import Params

Drawn = tuple[tuple[int, ...], float]  # of a run's tensor: shape, and half width
Shapes = Mapping[str, Drawn]  # by name


def drawn(keys: Sequence[rng.Key], shapes: Shapes) -> Params:
    """Tensors [R, *shape], uniform in ± half width, a run's from its key alone: stream "init", in order."""
    sizes = [math.prod(shape) for shape, _ in shapes.values()]
    u_RG = rng.uniform(keys, [0] * len(keys), "init", (sum(sizes),))
    return {
        name: ((2 * u - 1) * width).reshape(-1, *shape)
        for (name, (shape, width)), u in zip(shapes.items(), u_RG.split(sizes, 1), strict=True)
    }


def layers(widths: Sequence[int]) -> Shapes:
    """Weights "w1", "w2", … [out, in] of a network that is `widths` wide from its inputs to its outputs.

    Half widths sqrt(6 / inputs) before a ReLU and sqrt(3 / inputs) at the end (He et al. 2015).
    """
    last = len(widths) - 1
    return {
        f"w{n}": ((widths[n], widths[n - 1]), ((3 if n == last else 6) / widths[n - 1]) ** 0.5)
        for n in range(1, last + 1)
    }


def network(keys: Sequence[rng.Key], widths: Sequence[int], **before: Drawn) -> Params:
    """Tensors that are `drawn` before it, the weights of `layers`, and biases "b1", "b2", … of zeros."""
    biases = {f"b{n}": torch.zeros(len(keys), width) for n, width in enumerate(widths) if n}
    return {**drawn(keys, {**before, **layers(widths)}), **biases}


def perceptron(params: Params, x_RNF: Tensor) -> Tensor:
    """The network's outputs [R, N, O]: ReLU after every layer but the last."""
    last = sum(name[0] == "w" and name[1:].isdecimal() for name in params)
    for n in range(1, last + 1):
        x_RNF = torch.baddbmm(params[f"b{n}"][:, None], x_RNF, params[f"w{n}"].transpose(1, 2))
        x_RNF = x_RNF.relu() if n < last else x_RNF
    return x_RNF
