"""Presets: settings under a name, one TOML file each, found in this folder or given as a path.

A file holds what differs from the defaults of `Config`, by section, beside `title` and `scorers`. A string
stands for what `--set` would make of it, so that "none" is None. Importing this never loads torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from harness.config import (
    Config,
    UserError,
    dotted,
    first_problem,
    flattened,
    nearest,
    overrides,
    read_toml,
)
from harness.records.files import read_text
from harness.scene.kind import settle

FOLDER = Path(__file__).parent
DEFAULT = "toy"
# Those of Dream Fields (Jain et al. 2022), which the field's R-Precision is told with.
CLIPS = ("ViT-B-32-quickgelu/openai", "ViT-B-16-quickgelu/openai", "ViT-L-14-quickgelu/openai")


@dataclass(frozen=True)
class Preset:
    """A configuration with what it is for, and the scorers that its runs' views are shown to."""

    title: str
    scorers: tuple[str, ...]
    config: Config

    @property
    def changes(self) -> dict[str, Any]:
        """What differs from the defaults, by dotted key."""
        default = dotted(Config())
        return {k: v for k, v in dotted(self.config).items() if v != default.get(k) and k != "preset"}


def names() -> list[str]:
    """The presets of this folder, the default first."""
    return sorted((path.stem for path in FOLDER.glob("*.toml")), key=lambda name: (name != DEFAULT, name))


def _path(name: str) -> Path:
    return Path(name).expanduser() if name.endswith(".toml") else FOLDER / f"{name}.toml"


def load(name: str) -> Preset:
    """The preset of a name, or of a path to a TOML file.

    Raises UserError where there is none, and for a file that does not fit.
    """
    path = _path(name)
    if path.parent == FOLDER and path.stem not in names():
        raise UserError(f"unknown preset '{name}'{nearest(name, names())}; or a path to a .toml file")
    data = read_toml(read_text(path), path)
    title, scorers = data.pop("title", ""), data.pop("scorers", CLIPS)
    if not isinstance(title, str) or not (
        isinstance(scorers, list | tuple) and scorers and all(isinstance(each, str) for each in scorers)
    ):
        raise UserError(f"{path}: title is a text, and scorers is a list of names")
    items = overrides(flattened(data))
    try:
        config = settle(Config(preset=path.stem), items)
    except ValidationError as error:
        raise UserError(f"{path}: a preset is named by its file: {first_problem(error)}") from None
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix('--set ')}") from None
    return Preset(title, tuple(scorers), config)


class Setting(NamedTuple):
    """A key of `--set`: its value under a preset, what it means, and where the value comes from."""

    key: str
    value: Any
    meaning: str
    source: str


def settings(name: str) -> list[Setting]:
    """Every key of `--set` under a preset; what a preset's file says behind a value is its source."""
    shown, default = load(name), dotted(Config())
    notes = _notes(read_text(_path(name)))
    found = []
    for key, value in dotted(shown.config).items():
        if key != "preset":
            source = "default" if value == default.get(key) else f"preset {shown.config.preset}"
            source = f"{shown.config.preset}: {notes[key]}" if key in notes else source
            found.append(Setting(key, value, _meaning(key), source))
    return found


def _meaning(key: str) -> str:
    section, _, name = key.rpartition(".")
    kind = Config.model_fields[section].annotation if section in Config.model_fields else Config
    field = kind.model_fields.get(name) if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    return (field.description or "") if field else ""


def _notes(text: str) -> dict[str, str]:
    """Dotted key → the comment behind it, of a TOML file whose values have no # in them."""
    section, found = "", {}
    for line in text.splitlines():
        if head := re.fullmatch(r"\[(\w+)\]\s*(#.*)?", line.strip()):
            section = f"{head[1]}."
        elif said := re.match(r"(\w+) = [^#]*# (.+)$", line):
            found[section + said[1]] = said[2].strip()
    return found


def preset(name: str) -> Config:
    """The configuration of a preset; see `load`."""
    return load(name).config
