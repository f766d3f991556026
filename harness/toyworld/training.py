"""One resumable training loop for the toy weights: AdamW, moving average, a log, its state on disk."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

Say = Callable[[str], None]


@dataclass(frozen=True)
class Schedule:
    """Steps and learning rate: warm-up, constant, then linear to a fiftieth over the last `decay` share."""

    steps: int
    lr: float
    warmup: int = 100
    decay: float = 0.35
    weight_decay: float = 0.01
    average: float = 0.998

    def rate(self, step: int) -> float:
        """The learning rate at a step."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.lr * min(1.0, (step + 1) / self.warmup) * max(0.02, min(1.0, left))


@dataclass(frozen=True)
class Outcome:
    """What a training cost: steps and seconds of wall time, interruptions left out."""

    steps: int
    seconds: float
    loss: float


def generator(seed: int, step: int) -> torch.Generator:
    """The randomness of one training step, so that a resumed training draws what an unbroken one draws."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def train(
    name: str,
    work: Path,
    model: torch.nn.Module,
    loss_of: Callable[[int], torch.Tensor],
    schedule: Schedule,
    say: Say,
    save_every: int = 250,
    check: Callable[[int], str] | None = None,
) -> Outcome:
    """Train `model` in place to the end of the schedule and leave the averaged weights in it.

    loss_of(step) computes a scalar loss. State goes to work/<name>.safetensors by rename, so that a killed
    training continues from its last save; the log to work/<name>.jsonl.
    """
    work.mkdir(parents=True, exist_ok=True)
    state = work / f"{name}.safetensors"
    parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
    buffers = {k: b for k, b in model.named_buffers() if b.is_floating_point()}
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=schedule.lr, betas=(0.9, 0.98), weight_decay=schedule.weight_decay
    )
    average = {k: p.detach().clone() for k, p in parameters.items()}
    step, seconds, loss = 0, 0.0, math.nan
    if state.exists():
        step, seconds, loss = _restore(state, parameters, buffers, average, optimizer)
        say(f"{name}: resumes at step {step}/{schedule.steps}")
    log = (work / f"{name}.jsonl").open("a")
    started, recent = time.monotonic(), []
    while step < schedule.steps:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        # On CPUs flash attention's backward is slow at sequences of a few dozen tokens.
        with sdpa_kernel(SDPBackend.MATH):
            value = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        step += 1
        decay = min(schedule.average, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), [p.data for p in parameters.values()], 1 - decay)
        recent.append(value.item())
        if step % 50 == 0 or step == schedule.steps:
            loss = sum(recent) / len(recent)
            recent.clear()
            spent = seconds + time.monotonic() - started
            row = {"step": step, "loss": round(loss, 5), "seconds": round(spent, 1)}
            log.write(json.dumps(row) + "\n")
            log.flush()
            say(f"{name}: step {step}/{schedule.steps}  loss {loss:.4f}  {spent:.0f} s")
        if step % save_every == 0 or step == schedule.steps:
            spent = seconds + time.monotonic() - started
            _save(
                state, parameters, buffers, average, optimizer, {"step": step, "seconds": spent, "loss": loss}
            )
            if check is not None:
                with _swapped(parameters, average):
                    say(f"{name}: {check(step)}")
    log.close()
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(average[key])
    return Outcome(step, round(seconds + time.monotonic() - started, 1), loss)


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
