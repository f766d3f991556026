"""`harness scenes` and `harness check-scene`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit

from harness.cli.app import ScenesDir, Settings, app
from harness.console import busy


@app.command(epilog="Example: harness scenes field")
def scenes(
    name: Annotated[str | None, Argument(help="One of them: its settings, each with its default.")] = None,
    scenes_dir: ScenesDir = [],  # noqa: B006
) -> None:
    """The kinds of scene there are, by the first line of their docstrings."""
    from harness.config import SceneConfig
    from harness.scene.kind import discover, load_kind

    if name is None:
        found = discover()
        for each, kind in sorted(found.items()):
            print(f"{each:<{max(map(len, found))}}  {kind.summary}")
        return
    with busy("loading libraries"):
        kind, common = load_kind(name), SceneConfig.model_fields
    fields = {f"scene.{name}.{key}": field for key, field in kind.Settings.model_fields.items()}
    fields |= {f"scene.{key}": common[key] for key in kind.reads}
    for key, field in fields.items():
        print(f"{key} = {field.default}" + (f"  # {field.description}" if field.description else ""))


@app.command(name="check-scene", epilog="Example: harness check-scene voxels --scenes-dir ~/my-scenes")
def check_scene(
    name: Annotated[str, Argument(help="The kind.")],
    settings: Settings = [],  # noqa: B006
    scenes_dir: ScenesDir = [],  # noqa: B006
) -> None:
    """Try whether a kind of scene keeps what all do: bits, gradients, checkpoints, views, meshes."""
    from harness.scene.kind import load_kind

    with busy("loading libraries"):
        load_kind(name)
        from harness.check.runs import tell
        from harness.check.scene import CHECKS, Trial

    with tempfile.TemporaryDirectory(prefix="harness-check-") as folder:
        dirs = tuple(str(each.resolve()) for each in scenes_dir)
        kept = tell(Trial(name, Path(folder), tuple(settings), dirs), CHECKS)
    raise Exit(0 if kept else 1)
