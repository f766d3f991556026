"""What every method keeps, tried on one of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from harness.check.runs import KEYS, demand, made, tiny_prior, unbroken
from harness.config import Config, Execution, apply_overrides
from harness.distill.method import Method, NoiseSchedule, load_method
from harness.distill.schedules import sd_alphas_cumprod
from harness.records.folder import RunFolder
from harness.sweep.grid import choose_methods

STEPS = 7
SMALL = (
    "scene.resolution=8", "scene.samples=8", "scene.levels=4", "scene.log2_hashmap=8", "scene.hidden=8",
    "views.count=3", "views.azimuths=2", "guidance.microbatch=4", f"steps={STEPS}",
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """A method as `--methods` names it, `name`, `name:preset` or `a@b`, and a folder for what is tried.

    `prior` is one with random weights, made in the folder where there is none.
    """

    name: str
    folder: Path
    methods_dirs: tuple[Path, ...] = ()
    prior: Path | None = None

    @cached_property
    def method_class(self) -> type[Method]:
        """The class, of a composed name, too."""
        [chosen] = choose_methods(self.name, [], self.methods_dirs)
        return load_method(chosen.name, self.methods_dirs)

    def made(self, root: Path) -> list[RunFolder]:
        """Two runs of a small field on a prior with random weights."""
        prior = self.prior or tiny_prior(self.folder)
        [chosen] = choose_methods(self.name, [], self.methods_dirs)
        return made(root, apply_overrides(Config(), [*SMALL, f"guidance.prior={prior}"]), chosen, KEYS)


def check_settings(trial: Trial) -> None:
    """Every preset resolves to itself again, and the recommended settings are settings."""
    method = trial.method_class
    for preset in (None, *method.presets):
        given = {} if preset is None else {"preset": preset}
        full = method.resolve(given, trial.name).model_dump(mode="json")
        again = method.resolve(full, trial.name).model_dump(mode="json")
        demand(again == full, f"{preset or 'the defaults'} resolved again are other settings")
    apply_overrides(Config(), [f"{key}={json.dumps(value)}" for key, value in method.recommended.items()])


def check_timesteps(trial: Trial) -> None:
    """Inside the prior's range at every step of a run of 1, 7 or 1000 of them; a run's own in any pack."""
    noise = NoiseSchedule(torch.tensor(sd_alphas_cumprod(), dtype=torch.float32), 20, 980)
    method = trial.method_class(trial.method_class.resolve({}, trial.name), noise)
    for total in (1, STEPS, 1000):
        step_R = torch.arange(1, total + 1)
        total_R = torch.full_like(step_R, total)
        draws_R = torch.rand(total, generator=torch.Generator().manual_seed(total))
        t_R = method.timesteps(step_R, total_R, draws_R)
        demand(t_R.dtype == torch.int64 and t_R.shape == step_R.shape, f"timesteps returned {t_R.dtype}")
        outside = t_R[(t_R < noise.t_min) | (t_R > noise.t_max)].tolist()
        demand(not outside, f"t = {outside[:1]} is outside {noise.t_min}…{noise.t_max}")
        for r in {0, total // 2, total - 1}:
            alone = method.timesteps(*(each[r : r + 1].clone() for each in (step_R, total_R, draws_R)))
            demand(int(alone) == int(t_R[r]), "t depends on the other runs of the pack")


def check_runs(trial: Trial) -> None:
    """In a pack, alone, and stopped and resumed: the same bits, finite, evaluations as declared."""
    dirs = tuple(map(str, trial.methods_dirs))
    execution = Execution(wandb="disabled", checkpoint_every=3, log_every=2, device="cpu", methods_dirs=dirs)
    least, most = trial.method_class.nfe_range()
    for run in unbroken(trial.made, trial.folder, execution):
        for row in run["rows"]:
            asked = row["nfe"] / row["step"]
            demand(least <= asked <= most, f"{asked:g} evaluations a step; nfe says {least:g} to {most:g}")


CHECKS: Mapping[str, Callable[[Trial], None]] = {
    "settings": check_settings,
    "timesteps": check_timesteps,
    "runs": check_runs,
}
