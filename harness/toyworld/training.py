"""One resumable training loop for the toy weights: AdamW, moving average, a log, its state on disk."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.device import cpu_has_bfloat16

Say = Callable[[str], None]


@dataclass(frozen=True)
class Budget:
    """How long a training lasts: so many steps, or so many seconds of work, whatever interrupts it."""

    steps: int | None = None
    seconds: float | None = None

    def spent(self, step: int, seconds: float) -> float:
        """The share of it that is spent, 1 at its end."""
        return step / self.steps if self.steps else seconds / (self.seconds or 1.0)


@dataclass(frozen=True)
class Schedule:
    """Learning rate over the budget: warm-up, constant, then linear to a fiftieth over the last `decay`."""

    lr: float
    warmup: int = 100  # steps
    decay: float = 0.4
    weight_decay: float = 0.01
    average: float = 0.998

    def rate(self, step: int, spent: float) -> float:
        """The learning rate at a step, with a share `spent` of the budget behind it."""
        return self.lr * min(1.0, (step + 1) / self.warmup) * max(0.02, min(1.0, (1 - spent) / self.decay))


@dataclass(frozen=True)
class Outcome:
    """What a training cost: steps and seconds of wall time, interruptions left out."""

    steps: int
    seconds: float
    loss: float
    device: str


def generator(seed: int, step: int) -> torch.Generator:
    """The randomness of one training step, so that a resumed training draws what an unbroken one draws."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def mixed(device: torch.device) -> AbstractContextManager:
    """Matrix products in bfloat16 where the device has them."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" or cpu_has_bfloat16())


@contextmanager
def _attention(device: torch.device) -> Iterator[None]:
    # On CPUs flash attention's backward is slow at sequences of a few dozen tokens.
    if device.type == "cuda":
        yield
    else:
        with sdpa_kernel(SDPBackend.MATH):
            yield


def train(
    name: str,
    work: Path,
    model: torch.nn.Module,
    loss_of: Callable[[int], torch.Tensor],
    schedule: Schedule,
    budget: Budget,
    say: Say,
    save_every: int = 250,
    check: Callable[[int], str] | None = None,
) -> Outcome:
    """Train `model` in place, on its device, to the end of the budget and leave the averaged weights in it.

    loss_of(step) computes a scalar loss. State goes to work/<name>.safetensors by rename, so that a killed
    training continues from its last save; the log to work/<name>.jsonl.
    """
    work.mkdir(parents=True, exist_ok=True)
    state = work / f"{name}.safetensors"
    parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
    buffers = {k: b for k, b in model.named_buffers() if b.is_floating_point()}
    device = next(iter(parameters.values())).device
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=schedule.lr, betas=(0.9, 0.98), weight_decay=schedule.weight_decay
    )
    average = {k: p.detach().clone() for k, p in parameters.items()}
    step, before, loss = 0, 0.0, math.nan
    if state.exists():
        step, before, loss = _restore(state, parameters, buffers, average, optimizer)
        say(f"{name}: resumes at step {step}, {before:.0f} s")
    log = (work / f"{name}.jsonl").open("a")
    started, recent = time.monotonic(), []

    def seconds() -> float:
        return before + time.monotonic() - started

    while (spent := budget.spent(step, seconds())) < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step, spent)
        with _attention(device):
            value = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        step += 1
        decay = min(schedule.average, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), [p.data for p in parameters.values()], 1 - decay)
        recent.append(value.detach())
        ends = budget.spent(step, seconds()) >= 1.0
        if step % 50 == 0 or ends:
            loss = float(torch.stack(recent).mean())
            recent.clear()
            row = {"step": step, "loss": round(loss, 5), "seconds": round(seconds(), 1)}
            log.write(json.dumps(row) + "\n")
            log.flush()
            say(f"{name}: step {step}  loss {loss:.4f}  {seconds():.0f} s, {spent:.0%} of the budget")
        if step % save_every == 0 or ends:
            meta = {"step": step, "seconds": seconds(), "loss": loss}
            _save(state, parameters, buffers, average, optimizer, meta)
            if check is not None:
                with _swapped(parameters, average):
                    say(f"{name}: {check(step)}")
    log.close()
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(average[key])
    return Outcome(step, round(seconds(), 1), loss, _name(device))


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


class _swapped:
    """The averaged weights in the model for the length of a block."""

    def __init__(self, parameters: dict[str, torch.nn.Parameter], average: dict[str, torch.Tensor]) -> None:
        self.parameters, self.average = parameters, average

    def _swap(self) -> None:
        for key, parameter in self.parameters.items():
            parameter.data, self.average[key] = self.average[key], parameter.data

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()


def _save(
    path: Path,
    parameters: dict[str, torch.nn.Parameter],
    buffers: dict[str, torch.Tensor],
    average: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    meta: dict[str, float],
) -> None:
    tensors = {f"buffer/{k}": b for k, b in buffers.items()}
    for key, parameter in parameters.items():
        moments = optimizer.state[parameter]
        tensors |= {
            f"value/{key}": parameter.data,
            f"average/{key}": average[key],
            f"m/{key}": moments["exp_avg"],
            f"v/{key}": moments["exp_avg_sq"],
        }
    partial = path.with_suffix(".partial")
    save_file({k: t.contiguous() for k, t in tensors.items()}, partial, {k: repr(v) for k, v in meta.items()})
    partial.rename(path)


def _restore(
    path: Path,
    parameters: dict[str, torch.nn.Parameter],
    buffers: dict[str, torch.Tensor],
    average: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> tuple[int, float, float]:
    with safe_open(path, "pt") as file, torch.no_grad():
        meta = file.metadata()
        step = int(meta["step"])
        for key, buffer in buffers.items():
            buffer.copy_(file.get_tensor(f"buffer/{key}"))
        for key, parameter in parameters.items():
            parameter.copy_(file.get_tensor(f"value/{key}"))
            average[key].copy_(file.get_tensor(f"average/{key}"))
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": torch.empty_like(parameter).copy_(file.get_tensor(f"m/{key}")),
                "exp_avg_sq": torch.empty_like(parameter).copy_(file.get_tensor(f"v/{key}")),
            }
    return step, float(meta["seconds"]), float(meta["loss"])
