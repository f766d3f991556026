"""What a finished run made, to look at and to take along."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Exit, Option

from harness.cli.app import Device, Filter, RunsOption, ScenesDir, app, into
from harness.config import UserError
from harness.console import busy

if TYPE_CHECKING:
    from harness.objects.final import Final
    from harness.records.folder import RunFolder


@app.command(epilog="Example: harness turntable method=tp_sds seed=0")
def turntable(
    words: Filter = [],  # noqa: B006
    runs: RunsOption = Path("runs"),
    azimuths: Annotated[int, Option(min=2, max=3600, help="Frames of the full turn.")] = 120,
    elevation: Annotated[float, Option(min=-90, max=90, help="Degrees that the camera stands at.")] = 15.0,
    size: Annotated[
        int | None, Option(min=16, max=4096, help="Pixels a side; as the prior decodes by default.")
    ] = None,
    device: Device = "auto",
    scenes_dir: ScenesDir = [],  # noqa: B006
) -> None:
    """Colour, depth and normals of finished runs as MP4 and WebP; what is there already is left as it is.

    Runs are chosen by words, by id, or by folder.
    """
    with busy("loading libraries"):
        from harness.objects.turntable import is_there

    def make(folder: RunFolder) -> None:
        if is_there(folder, azimuths, elevation, size):
            print(f"{folder.turntable}  is there already")
        else:
            _write(folder, azimuths, elevation, size, device)

    _each(_done(words, runs), make)


@app.command(name="export-to", epilog="Example: harness export-to gpteval3d seed=0 --out theirs")
def export_to(
    benchmark: Annotated[Literal["gpteval3d", "t3bench"], Argument(help="Whose folders.")],
    words: Filter = [],  # noqa: B006
    runs: RunsOption = Path("runs"),
    out: Annotated[Path, into("The folder to write.")] = Path("exported"),
    azimuths: Annotated[int, Option(min=1, max=3600, help="gpteval3d: frames of the full turn.")] = 120,
    size: Annotated[int, Option(min=16, max=4096, help="gpteval3d: pixels a side.")] = 512,
    group: Annotated[str, Option(help="t3bench: its prompts' group: single, surr or multi.")] = "single",
    device: Device = "auto",
    scenes_dir: ScenesDir = [],  # noqa: B006
) -> None:
    """Finished runs as GPTEval3D's folders of renders, or as T3Bench's folders of meshes."""
    with busy("loading libraries"):
        from harness.objects import benchmarks

    folders = _done(words, runs)
    if benchmark == "gpteval3d":
        write = benchmarks.gpteval3d(folders, out, azimuths, size)
    else:
        write = benchmarks.t3bench(folders, out, group)
    _each(folders, lambda folder: print(write(_load(folder, device)), flush=True))


def _done(words: list[str], runs: Path) -> list[RunFolder]:
    """The chosen runs that are done; raises UserError where none is."""
    folders = _chosen(words, runs)
    done = [folder for folder in folders if folder.status() == "done"]
    if not done:
        raise UserError("no run of these is done: " + ", ".join(folder.id for folder in folders[:3]))
    if len(folders) > len(done):
        print(f"left out: {len(folders) - len(done)} runs that are not done", file=sys.stderr)
    return done


def _each(folders: list[RunFolder], make: Callable[[RunFolder], None]) -> None:
    """Make something of each run; those of which it cannot be made are told, and the exit code is then 1."""
    from harness.console import say

    failed = 0
    for folder in folders:
        try:
            make(folder)
        except UserError as error:
            if len(folders) == 1:
                raise
            say(f"left out: {error}", sys.stderr)
            failed += 1
    raise Exit(1 if failed else 0)


def _write(folder: RunFolder, azimuths: int, elevation: float, size: int | None, device: str) -> None:
    with busy("loading libraries"):
        from harness.objects.turntable import write_turntable

    started = time.monotonic()
    final = _load(folder, device)
    with busy(f"a film of {folder.id}"):
        path = write_turntable(final, azimuths, elevation, size)
    stamp = f"  ({final.about['mark']})" if final.about["mark"] else ""
    print(f"{path}  {azimuths} frames, {time.monotonic() - started:.1f} s{stamp}", flush=True)


def _load(folder: RunFolder, device: str) -> Final:
    with busy(f"loading {folder.id}"):
        from harness.device import pick_device
        from harness.objects.final import load

        return load(folder, pick_device(device))


def _chosen(words: list[str], runs: Path) -> list[RunFolder]:
    """Runs named by their folders or whole ids, and those that fit all the other words."""
    from harness.records.folder import RunFolder
    from harness.records.schema import SPEC
    from harness.sweep.select import select

    named = {word: path for word in words for path in (Path(word), runs / word) if (path / SPEC).exists()}
    others = [word for word in words if word not in named]
    fitting = select(runs, others) if others or not named else []
    return [RunFolder(path) for path in named.values()] + fitting


def export_run(
    name: str,
    runs: Path,
    kind: str,
    out: Path | None,
    threshold: float | None,
    resolution: int | None,
    components: int | None,
    device: str,
) -> None:
    """One run's object as a mesh file, and a line on what it is."""
    from harness.sweep.select import find_run

    folder = find_run([name], runs)
    with busy(f"a mesh of {folder.id}"):
        from harness.objects.export import export_mesh

        final = _load(folder, device)
        path, about = export_mesh(final, kind, out, threshold, resolution, components)
    stamp = f" ({about['mark']})" if about["mark"] else ""
    parts = "" if about["components"] == about["components_kept"] else f" of {about['components']}"
    grid, colours = about["grid"], about["colours"]
    density = f"density {about['threshold']:.4g} ({about['threshold_from']})"
    print(
        f"{path}{stamp}: {about['vertices']} vertices, {about['faces']} faces, "
        f"{about['components_kept']}{parts} components, {'' if about['watertight'] else 'not '}watertight; "
        f"{density if about['threshold'] else 'signed distance 0'}, {grid['cells']} cells a side; "
        f"{colours['seen_share']:.0%} of the vertices seen in {colours['views']} views"
    )
