"""What a method returns, looked at where it is used: kind, shape, dtype, device, range.

Nothing here waits for a GPU. That a gradient is finite shows in the step's norms, for every run by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from harness.config import UserError
from harness.distill.method import Method, NoiseSchedule

StateLayout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


class MethodError(Exception):
    """A method broke its contract. `runs` are the pack's runs that it concerns; None: all of them."""

    def __init__(self, reason: str, runs: Sequence[int] | None = None):
        super().__init__(reason)
        self.runs = runs


def timesteps(t_R: Any, step_R: Tensor, noise: NoiseSchedule) -> Tensor:
    """The timesteps, int64 [R] on the CPU and inside the range, as a copy that the method does not hold."""
    expect("timesteps", t_R, torch.int64, (len(step_R),), torch.device("cpu"), returned=True)
    outside = [r for r, t in enumerate(t_R.tolist()) if not noise.t_min <= t <= noise.t_max]
    if outside:
        at = f"t = {int(t_R[outside[0]])} at step {int(step_R[outside[0]])}"
        raise MethodError(f"timesteps returned {at}, outside {noise.t_min}…{noise.t_max}", outside)
    return t_R.clone()


def gradient(g_RCHW: Any, x_RCHW: Tensor) -> Tensor:
    """The gradient, of x's shape, dtype and device, without a graph."""
    expect("gradient", g_RCHW, x_RCHW.dtype, tuple(x_RCHW.shape), x_RCHW.device, returned=True)
    return g_RCHW.detach()


def expect(
    what: str,
    value: Any,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    device: torch.device,
    returned: bool = False,
) -> None:
    """MethodError where what a method gives as an argument, or has `returned`, is of another kind, shape,
    dtype or device."""
    of_form = isinstance(value, Tensor) and (value.dtype, tuple(value.shape)) == (dtype, shape)
    if not of_form or value.device.type != device.type:
        was, must = ("returned", "return") if returned else ("is", "be")
        form = f"{_form((dtype, shape))} on {device.type}"
        raise MethodError(f"{what} {was} {_told(value)}, and must {must} {form}")


def guard_weight(method: Method) -> None:
    """From now on whoever calls `method.weight` gets float32 [R] on t's device, or a MethodError."""
    weight = method.weight

    def guarded(t_R: Tensor) -> Tensor:
        w_R = weight(t_R.clone())
        expect("weight", w_R, torch.float32, tuple(t_R.shape), t_R.device, returned=True)
        return w_R

    setattr(method, "weight", guarded)  # noqa: B010 - of this object, not of its class


def layout(state: Any, runs: int, where: str = "initial_state") -> StateLayout:
    """What a method's state consists of: {name: (dtype, shape less R)}, each tensor [R, …]."""
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise MethodError(f"{where} returned {_told(state)}, and must return tensors by their names")
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.dim() < 1 or len(value) != runs:
            raise MethodError(f"{where} returned {name} as {_told(value)}, and must return [{runs}, …]")
    return {name: (value.dtype, tuple(value.shape[1:])) for name, value in state.items()}


def state(tensors: Any, expected: StateLayout, runs: int) -> dict[str, Tensor]:
    """A method's state as it was announced by `initial_state`."""
    found = layout(tensors, runs, "state")
    for name in sorted({*found, *expected}):
        if found.get(name) != expected.get(name):
            was, is_now = (_form(side.get(name)) for side in (expected, found))
            raise MethodError(f"state returned {name} as {is_now}, which initial_state made as {was}")
    return tensors


def not_finite(tensors: Mapping[str, Tensor], r: int) -> str | None:
    """The name of a tensor of run r's state that holds a value that is not finite; waits for the device."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value[r]).all()):
            return name
    return None


@contextmanager
def blamed() -> Iterator[None]:
    """Inside, what a method refuses is an error of its runs: nobody else's sweep ends for it."""
    try:
        yield
    except UserError as error:
        raise MethodError(str(error)) from error


def _told(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{_form((value.dtype, tuple(value.shape)))} on {value.device.type}"


def _form(of: tuple[torch.dtype, tuple[int, ...]] | None) -> str:
    return "nothing" if of is None else f"{str(of[0]).removeprefix('torch.')} {list(of[1])}"
