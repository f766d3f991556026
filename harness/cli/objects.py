"""What a finished run made, to look at and to take along."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from harness.cli.app import Device, Filter, RunsOption, ScenesDir, app, folder_out
from harness.config import UserError, nearest

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
    from harness.console import say
    from harness.objects.turntable import is_there

    folders = _chosen(words, runs)
    done = [folder for folder in folders if folder.status() == "done"]
    if len(folders) > len(done):
        print(f"left out: {len(folders) - len(done)} runs that are not done", file=sys.stderr)
    failed = 0
    for folder in done:
        if is_there(folder, azimuths, elevation, size):
            print(f"{folder.turntable}  is there already")
            continue
        try:
            _write(folder, azimuths, elevation, size, device)
        except UserError as error:
            if len(folders) == 1:
                raise
            say(f"left out: {error}", sys.stderr)
            failed += 1
    if not done:
        raise UserError("no run of these is done: " + ", ".join(folder.id for folder in folders[:3]))
    raise Exit(1 if failed else 0)


@app.command(name="export-to", epilog="Example: harness export-to gpteval3d seed=0 --out theirs")
def export_to(
    benchmark: Annotated[str, Argument(help="gpteval3d or t3bench.")],
    words: Filter = [],  # noqa: B006
    runs: RunsOption = Path("runs"),
    out: Annotated[Path, Option(help="The folder to write.", callback=folder_out)] = Path("exported"),
    azimuths: Annotated[int, Option(min=1, max=3600, help="gpteval3d: frames of the full turn.")] = 120,
    size: Annotated[int, Option(min=16, max=4096, help="gpteval3d: pixels a side.")] = 512,
    group: Annotated[str, Option(help="t3bench: its prompts' group: single, surr or multi.")] = "single",
    device: Device = "auto",
    scenes_dir: ScenesDir = [],  # noqa: B006
) -> None:
    """Finished runs as GPTEval3D's folders of renders, or as T3Bench's folders of meshes."""
    from harness.objects import benchmarks

    if benchmark not in ("gpteval3d", "t3bench"):
        raise UserError(f"no benchmark '{benchmark}'{nearest(benchmark, ['gpteval3d', 't3bench'])}")
    folders = _chosen(words, runs)
    finals = [_load(folder, device) for folder in folders if folder.status() == "done"]
    if not finals:
        raise UserError("no run of these is done: " + ", ".join(folder.id for folder in folders[:3]))
    if len(folders) > len(finals):
        print(f"left out: {len(folders) - len(finals)} runs that are not done", file=sys.stderr)
    made = (
        benchmarks.gpteval3d(finals, out, azimuths, size)
        if benchmark == "gpteval3d"
        else benchmarks.t3bench(finals, out, group)
    )
    for path in made:
        print(path, flush=True)


def _write(folder: RunFolder, azimuths: int, elevation: float, size: int | None, device: str) -> None:
    from harness.objects.turntable import write_turntable

    started = time.monotonic()
    final = _load(folder, device)
    path = write_turntable(final, azimuths, elevation, size)
    stamp = f"  ({final.about['mark']})" if final.about["mark"] else ""
    print(f"{path}  {azimuths} frames, {time.monotonic() - started:.1f} s{stamp}", flush=True)


def _load(folder: RunFolder, device: str) -> Final:
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
    from harness.objects.export import export_mesh
    from harness.sweep.select import find_run

    final = _load(find_run([name], runs), device)
    path, about = export_mesh(final, kind, out, threshold, resolution, components)
    stamp = f" ({about['mark']})" if about["mark"] else ""
    parts = "" if about["components"] == about["components_kept"] else f" of {about['components']}"
    grid, colours = about["grid"], about["colours"]
    print(
        f"{path}{stamp}: {about['vertices']} vertices, {about['faces']} faces, "
        f"{about['components_kept']}{parts} components, {'' if about['watertight'] else 'not '}watertight; "
        f"density {about['threshold']:.4g} ({about['threshold_from']}), {grid['cells']} cells a side; "
        f"{colours['seen_share']:.0%} of the vertices seen in {colours['views']} views"
    )
