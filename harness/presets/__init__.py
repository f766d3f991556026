"""Presets: settings under a name, one TOML file each, found in this folder or given as a path.

A file holds what differs from the defaults of `Config`, by section, beside `title` and `scorers`. A string
stands for what `--set` would make of it, so that "none" is None. Importing this never loads torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.config import (
    Config,
    UserError,
    dotted,
    first_problem,
    flattened,
    nearest,
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


def load(name: str) -> Preset:
    """The preset of a name, or of a path to a TOML file.

    Raises UserError where there is none, and for a file that does not fit.
    """
    path = Path(name).expanduser() if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if path.parent == FOLDER and path.stem not in names():
        raise UserError(f"unknown preset '{name}'{nearest(name, names())}; or a path to a .toml file")
    data = read_toml(read_text(path), path)
    title, scorers = data.pop("title", ""), data.pop("scorers", CLIPS)
    if not isinstance(title, str) or not (
        isinstance(scorers, list | tuple) and scorers and all(isinstance(each, str) for each in scorers)
    ):
        raise UserError(f"{path}: title is a text, and scorers is a list of names")
    items = [
        f"{k}={v if isinstance(v, str) else json.dumps(v, default=str)}" for k, v in flattened(data).items()
    ]
    try:
        config = settle(Config(preset=path.stem), items)
    except ValidationError as error:
        raise UserError(f"{path}: a preset is named by its file: {first_problem(error)}") from None
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix('--set ')}") from None
    return Preset(title, tuple(scorers), config)


def preset(name: str) -> Config:
    """The configuration of a preset; see `load`."""
    return load(name).config
