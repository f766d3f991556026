"""One resumable training loop for the toy weights: Muon, moving average, a log, its state on disk."""

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
    muon: float = 0.0  # learning rate of the matrices' orthogonalised steps; 0: AdamW takes them, too
    warmup: int = 100  # steps
    decay: float = 0.4
    weight_decay: float = 0.01
    average: float = 0.998

    def rate(self, step: int, spent: float) -> float:
        """The share of the learning rate at a step, with a share `spent` of the budget behind it."""
        return min(1.0, (step + 1) / self.warmup) * max(0.02, min(1.0, (1 - spent) / self.decay))

    def optimizers(self, model: torch.nn.Module) -> list[torch.optim.Optimizer]:
        """Muon for matrices and convolutions inside the model, AdamW for the rest."""
        trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
        matrices = [p for k, p in trained.items() if self.muon and _is_matrix(k, p)]
        taken = set(map(id, matrices))
        rest = [p for p in trained.values() if id(p) not in taken]
        adam = torch.optim.AdamW(rest, lr=self.lr, betas=(0.9, 0.98), weight_decay=self.weight_decay)
        return [adam, Muon(matrices, self.muon, self.weight_decay)] if matrices else [adam]


def _is_matrix(name: str, parameter: torch.Tensor) -> bool:
    """Whether a parameter maps features to features: embeddings and what touches pixels or latents do not."""
    if parameter.dim() not in (2, 4) or "embed" in name or "conv_in" in name or "conv_out" in name:
        return False
    return min(parameter.shape[0], parameter[0].numel()) > 8


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by five Newton–Schulz iterations (Jordan et al. 2024); a convolution's kernel
    [O, I, h, w] counts as a matrix [O, I·h·w], which torch.optim.Muon does not take."""

    def __init__(
        self, params: list[torch.nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the gradients; matrices of one shape go together: a third of the time."""
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[tuple[torch.nn.Parameter, torch.Tensor]]] = {}
            for parameter in group["params"]:
                state, gradient = self.state[parameter], parameter.grad
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(gradient, 1 - group["momentum"])
                matrix = gradient.lerp(state["momentum"], group["momentum"]).flatten(1)
                alike.setdefault(tuple(matrix.shape), []).append((parameter, matrix))
            for (rows, columns), some in alike.items():
                stacked = torch.stack([matrix for _, matrix in some])
                updates = orthogonal(stacked) * max(1.0, rows / columns) ** 0.5
                for (parameter, _), update in zip(some, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.view(parameter.shape), alpha=-group["lr"])


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """About U·Vᵀ of each of [n, rows, columns] = U·S·Vᵀ, by the quintic iteration of Jordan et al. 2024.

    Each iterate is a polynomial of the smaller Gram matrix times the matrix, so that only two products have
    the longer side: a fifth of the operations.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = x.mT if (tall := x.shape[1] > x.shape[2]) else x
    one = torch.eye(x.shape[1], device=x.device, dtype=x.dtype)
    gram, total = x @ x.mT, one
    for _ in range(5):
        factor = a * one + b * gram + c * gram @ gram
        gram, total = factor @ gram @ factor, factor @ total
    x = total @ x
    return x.mT if tall else x


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
    """Train `model` in place, on its device, to the end of the budget; it is left with the averaged weights,
    for evaluation.

    loss_of(step) computes a scalar loss. State goes to work/<name>.safetensors by rename, so that a killed
    training continues from its last save; the log to work/<name>.jsonl.
    """
    model.train()
    work.mkdir(parents=True, exist_ok=True)
    state = work / f"{name}.safetensors"
    parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
    buffers = {k: b for k, b in model.named_buffers() if b.is_floating_point()}
    device = next(iter(parameters.values())).device
    optimizers = schedule.optimizers(model)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    average = {k: p.detach().clone() for k, p in parameters.items()}
    kept = _State(parameters, buffers, average, optimizers)
    step, before, loss = 0, 0.0, math.nan
    if state.exists():
        step, before, loss = kept.restore(state)
        say(f"{name}: resumes at step {step}, {before:.0f} s")
    log = (work / f"{name}.jsonl").open("a")
    started, recent = time.monotonic(), []

    def seconds() -> float:
        return before + time.monotonic() - started

    while (spent := budget.spent(step, seconds())) < 1.0:
        with _attention(device):
            value = loss_of(step)
        model.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * schedule.rate(step, spent)
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
            kept.save(state, meta)
            if check is not None:
                with _swapped(parameters, average):
                    say(f"{name}: {check(step)}")
    log.close()
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(average[key])
    model.eval()
    return Outcome(step, round(seconds(), 1), loss, _name(device))


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@contextmanager
def _swapped(parameters: dict[str, torch.nn.Parameter], average: dict[str, torch.Tensor]) -> Iterator[None]:
    """The averaged weights in the model for the length of a block."""

    def swap() -> None:
        for key, parameter in parameters.items():
            parameter.data, average[key] = average[key], parameter.data

    swap()
    try:
        yield
    finally:
        swap()


@dataclass(frozen=True)
class _State:
    """What a training goes on from: tensors by their names, and what the optimizers remember of them."""

    parameters: dict[str, torch.nn.Parameter]
    buffers: dict[str, torch.Tensor]
    average: dict[str, torch.Tensor]
    optimizers: list[torch.optim.Optimizer]

    def save(self, path: Path, meta: dict[str, float]) -> None:
        moments = {id(p): state for optimizer in self.optimizers for p, state in optimizer.state.items()}
        tensors = {f"buffer/{k}": b for k, b in self.buffers.items()}
        for key, parameter in self.parameters.items():
            tensors |= {f"value/{key}": parameter.data, f"average/{key}": self.average[key]}
            tensors |= {f"{name}/{key}": value for name, value in moments[id(parameter)].items()}
        partial, about = path.with_suffix(".partial"), {k: repr(v) for k, v in meta.items()}
        save_file({k: t.contiguous() for k, t in tensors.items()}, partial, about)
        partial.rename(path)

    def restore(self, path: Path) -> tuple[int, float, float]:
        """In place; the step, seconds and loss that it was saved with."""
        owner = {id(p): o for o in self.optimizers for group in o.param_groups for p in group["params"]}
        with safe_open(path, "pt") as file, torch.no_grad():
            meta = file.metadata()
            for key, buffer in self.buffers.items():
                buffer.copy_(file.get_tensor(f"buffer/{key}"))
            for stored in file.keys():  # noqa: SIM118 - not a dict
                name, _, key = stored.partition("/")
                if name == "buffer":
                    continue
                parameter, saved = self.parameters[key], file.get_tensor(stored)
                if name in ("value", "average"):
                    (parameter if name == "value" else self.average[key]).copy_(saved)
                else:
                    like = parameter if saved.shape == parameter.shape else saved
                    owner[id(parameter)].state[parameter][name] = torch.empty_like(like).copy_(saved)
        return int(meta["step"]), float(meta["seconds"]), float(meta["loss"])
