"""Kinds of scene: how they are found, and how a configuration is settled for its own. No torch at import.

A kind is a file `NAME.py`, or a folder `NAME/` with a `scene.py`, that holds exactly one subclass of `Scene`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import config as settings
from harness.config import (
    Config,
    SceneConfig,
    UserError,
    apply_overrides,
    nearest,
    parse_value,
    split_override,
)
from harness.extensions import Extension, Seam, resolve
from harness.text import short

if TYPE_CHECKING:
    from harness.scene.contract import Params, Scene

BUILT_IN = Path(__file__).parent / "kinds"
DEFAULT = SceneConfig().kind
_SEAM = Seam("scene", BUILT_IN, package="harness.scene.kinds", files=True)
_others: list[Path] = []  # like sys.path, a process's own: whoever shows or measures a run makes its scene


def look_in(dirs: Sequence[Path | str]) -> None:
    """From now on kinds are found in these folders, too, and in no others but the built-in one."""
    _others[:] = [Path(each) for each in dirs]


def discover() -> dict[str, Extension]:
    """All kinds by name, none imported: see `Seam.discover`."""
    return _SEAM.discover(_others)


def load_kind(name: str) -> type[Scene]:
    """The class of a kind: see `Seam.load`. A file is run once as long as it stays as it is."""
    source = _find(name).source
    return _load(name, tuple(_others), source.stat().st_mtime_ns)


def code_of(name: str) -> dict[str, str]:
    """Which code a kind of others is, as `Method.code`; {} for the built-in ones, which the harness's version
    names."""
    found = _find(name)
    return {} if BUILT_IN in found.source.parents else {f"scene {name}": found.code()}


def _find(name: str) -> Extension:
    try:
        return _SEAM.find(name, _others)
    except UserError as error:
        raise UserError(f"scene.kind: {error} (--scenes-dir adds a folder of others)") from None


@cache
def _load(name: str, dirs: tuple[Path, ...], changed: int) -> type[Scene]:
    from harness.scene.contract import Scene

    return _SEAM.load(name, Scene, dirs)


def make_scene(cfg: SceneConfig, channels: int, device: str, encoder: str = "auto") -> Scene:
    """The scene that the config names; `encoder` as in `harness.scene.encoders.choose_encoder`."""
    from harness.scene.encoders import choose_encoder

    kind = load_kind(cfg.kind)
    resolve(kind.Settings, cfg.own, f"scene {cfg.kind}")
    return kind(cfg, channels, choose_encoder(device, encoder))


CHANNELS = (4, 3, 16, *(C for C in range(1, 33) if C not in (4, 3, 16)))  # of latents, the likely ones first


def channels_of(cfg: SceneConfig, params: Params) -> int | None:
    """C of the scene with these parameters [1, …], or None where they are none of its kind: no other number
    of channels has the same shapes."""
    shapes = {name: tuple(value.shape[1:]) for name, value in params.items()}
    return next((C for C in CHANNELS if _shapes(cfg, C) == shapes), None)


@cache
def _shapes(cfg: SceneConfig, channels: int) -> dict[str, tuple[int, ...]]:
    import torch

    from harness.rng import Key

    scene = load_kind(cfg.kind)(cfg, channels)
    return {
        name: tuple(value.shape[1:])
        for name, value in scene.init([Key("", 0)], torch.zeros(1, channels)).items()
    }


def settle(config: Config, items: Sequence[str] = ()) -> Config:
    """`config` with each `key=value` of `--set` applied, `scene.KIND.key` too, and with all of its kind's own
    settings written out. Idempotent.

    Raises UserError for an unknown kind, key or value, and for views that the kind does not have.
    """
    own = [item for item in items if _is_own(item)]
    before = config.scene.kind
    config = apply_overrides(config, [item for item in items if item not in own])
    scene = config.scene
    if scene.kind == DEFAULT and not own:
        return config  # which has sides and no settings of its own: nothing to import
    kind = load_kind(scene.kind)
    given = (dict(scene.own) if scene.kind == before else {}) | _changes(scene.kind, kind, own)
    full = resolve(kind.Settings, given, f"scene {scene.kind}").model_dump(mode="json")
    default = kind.Settings().model_dump(mode="json")
    differing = tuple(sorted(key for key in full if full[key] != default[key]))
    scene = scene.model_copy(update={"own": full, "own_set": differing})
    config = config.model_copy(update={"scene": scene})
    check_views(config)
    return config


def check_views(config: Config) -> None:
    """UserError where the scene has one view and more are asked for."""
    if config.views.tiles != 1 and not load_kind(config.scene.kind).has_sides:
        raise UserError(
            f"scene.kind={config.scene.kind} has one view, so it needs views.azimuths=1 and "
            "views.heldout_elevation=none"
        )


def annotation_of(key: str) -> Any:
    """The annotation of the field that `--set` sets by a key, a kind's own too; None where there is none."""
    if not _is_own(key):
        return settings.annotation_of(key)
    _, name, setting = key.split(".")
    field = load_kind(name).Settings.model_fields.get(setting) if name in discover() else None
    return field.annotation if field else None


def _is_own(item: str) -> bool:
    section, *rest = item.partition("=")[0].strip().split(".")
    return section == "scene" and len(rest) == 2


def _changes(name: str, kind: type[Scene], items: Sequence[str]) -> dict[str, Any]:
    changes = {}
    for item in items:
        key, value = split_override(item)
        _, section, setting = key.split(".")
        if section != name:
            hint = f"add --set scene.kind={section}" if section in discover() else ""
            raise UserError(
                f"--set {short(item, 200)}: the scene is of kind {name}"
                + (f"; {hint}" if hint else nearest(section, discover()))
            )
        known = kind.Settings.model_fields.get(setting)
        changes[setting] = parse_value(value, known.annotation if known else None)
    return changes
