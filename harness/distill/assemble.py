"""From what was asked to what is advanced: the prior, the method on it, a pack, fresh or from checkpoints."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.config import Config, Execution, UserError
from harness.device import has_c_compiler, pick_device
from harness.distill import contract
from harness.distill.method import Method, NoiseSchedule, load_method
from harness.distill.optim import Adam
from harness.distill.step import Pack
from harness.guidance.prior import Guidance, held
from harness.records.identity import RunSpec
from harness.rng import Key
from harness.scene.kind import check_views, look_in, make_scene

Checkpoint = tuple[dict[str, Tensor], int]  # a run's tensors by name, and the steps done


def check(spec: RunSpec, execution: Execution) -> None:
    """UserError where a run of that method and configuration cannot even be begun on this machine."""
    look_in(execution.scenes_dirs)
    guidance = load_guidance(spec.config, torch.device(pick_device(execution.device)))
    check_resolution(spec.config, guidance)
    check_views(spec.config)
    make_method(spec.config, guidance, spec.method, spec.params, execution.methods_dirs)


def load_guidance(config: Config, device: torch.device) -> Guidance:
    """The prior, compiled where that pays, and kept for the next pack of this process."""
    compiled = config.guidance.compiled(config.steps, str(device))
    if compiled and config.guidance.compile == "auto" and not has_c_compiler():
        logging.getLogger(__name__).warning("the denoiser is not compiled: there is no C compiler")
        compiled = False
    return held(config.guidance, device, compiled=compiled)


def check_resolution(config: Config, guidance: Guidance) -> None:
    """UserError where the scene's resolution is not the one that the prior looks at."""
    asked, side = config.scene.resolution, guidance.latent_shape[1]
    if asked != side:
        raise UserError(
            f"scene.resolution is {asked}, and {guidance.tag} looks at {side} × {side}: "
            f"add --set scene.resolution={side}"
        )


def make_method(
    config: Config,
    guidance: Guidance,
    method: str | type[Method],
    params: Mapping[str, Any],
    dirs: Sequence[Path | str] = (),
) -> Method:
    """A method, by name or as a class, with its settings, on the prior's noise schedule.

    Raises UserError where they do not fit.
    """
    by_name = isinstance(method, str)
    name = method if by_name else method.__name__
    method_class = load_method(method, [Path(each) for each in dirs]) if by_name else method
    noise = NoiseSchedule(guidance.alphas_cumprod_T.clone(), *guidance.t_range)
    try:
        return method_class(method_class.resolve(params, name), noise, config.guidance.weighting)
    except ValueError as error:
        raise UserError(f"method {name}: {error}") from error


def make_pack(
    config: Config,
    guidance: Guidance,
    method: Method,
    keys: Sequence[Key],
    encoder: str,
    checkpoints: Sequence[Checkpoint | None] = (),
    schedules: Sequence[Method] = (),
) -> Pack:
    """A pack of these runs, from their keys, and from their checkpoints where there are such; `schedules`:
    see `Pack`.

    Raises MethodError where the method's state is not what it must be.
    """
    device, runs = guidance.device, len(keys)
    begun = [checkpoint or ({}, 0) for checkpoint in checkpoints] or [({}, 0)] * runs
    scene = make_scene(config.scene, guidance.latent_shape[0], str(device), encoder)
    background_C = guidance.flat_code(config.scene.background_rgb)
    fresh = scene.init(keys, background_C.cpu().expand(runs, -1))
    params = {name: value.to(device) for name, value in fresh.items()}
    with contract.blamed():
        learned = method.initial_state(list(keys), guidance.shapes)
    pack = Pack(
        config=config,
        method=method,
        guidance=guidance,
        scene=scene,
        background_C=background_C,
        keys=list(keys),
        step_R=torch.tensor([done for _, done in begun]),
        total_R=torch.full((runs,), config.steps),
        params=params,
        adam=Adam(config.optim, params, rates=scene.learning_rates()),
        scene_state={name: value.to(device) for name, value in scene.state(runs).items()},
        state_layout=contract.layout(learned, runs),
        schedules=list(schedules),
    )
    # A checkpoint that counts no evaluations made the usual two a step.
    pack.nfe_R = 2 * pack.step_R
    state = {name: value.to(device, copy=True) for name, value in learned.items()}
    groups = _groups(pack, state)
    for r, (saved, _) in enumerate(begun):
        for group, tensors in groups.items():
            for name, value in tensors.items():
                if f"{group}.{name}" in saved:  # the last checkpoint of a run has parameters only
                    value[r] = saved[f"{group}.{name}"].to(value.device)
    with contract.blamed():
        method.load_state(state)
    pack.method_state()  # what a checkpoint would lack shows at once
    return pack


def saved(pack: Pack, r: int) -> dict[str, Tensor]:
    """Everything that run r needs to go on: parameters, Adam's moments, the method's state, the scene's, the
    count of evaluations; flat, such as "params.table", "adam.first.table"."""
    groups = _groups(pack, pack.method_state())
    return {f"{group}.{name}": value[r] for group, named in groups.items() for name, value in named.items()}


def saved_params(pack: Pack, r: int) -> dict[str, Tensor]:
    """What a finished run keeps: nothing goes on from it, but anything can be rendered."""
    return {f"params.{name}": value[r] for name, value in pack.params.items()}


def _groups(pack: Pack, state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    return {
        "params": pack.params,
        "adam.first": pack.adam.first,
        "adam.second": pack.adam.second,
        "method": state,
        "scene": pack.scene_state,
        "cost": {"nfe": pack.nfe_R},
    }
