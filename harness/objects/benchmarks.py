"""Finished runs in the folders that other people's benchmarks read.

- GPTEval3D (Wu et al. 2024; 3DTopia/GPTEval3D, assets/data_format.md): `methods/<method>/<index of the
  prompt>/<seed>/rgb_<n>.png` and `normal_<n>.png` of a full turn, and `prompts.json`, which the index is in.
  `eval.sources.foreign` reads it back.
- T3Bench (He et al. 2023; THU-LYJ-Lab/T3Bench, run_mesh.py): `outputs_mesh_t3/<method>_<group>/<prompt, with
  underscores>@s<seed>/save/it<steps>-export/model.obj`, one seed of a prompt and method. Its own script
  renders the mesh from an icosphere. Colours are on vertices, where threestudio writes a texture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from harness.config import UserError
from harness.objects.export import export_mesh
from harness.objects.final import Final
from harness.objects.turntable import films
from harness.records import suites
from harness.records.files import make_folder, strip, write_bytes, write_json
from harness.records.folder import RunFolder

AZIMUTHS, ELEVATION, SIZE = 120, 15.0, 512  # of GPTEval3D's renders, which are threestudio's


def gpteval3d(
    runs: Sequence[RunFolder], out: Path, azimuths: int = AZIMUTHS, size: int = SIZE
) -> Callable[[Final], Path]:
    """Writes prompts.json; what writes the frames of one of these runs, and returns their folder. UserError
    for runs without a suite, and for those of several."""
    prompts = _prompts(runs)
    make_folder(out)
    write_json(out / "prompts.json", prompts)

    def write(final: Final) -> Path:
        spec = final.spec
        folder = out / "methods" / _plain(spec.label) / str(prompts.index(spec.prompt)) / str(spec.seed)
        shown = films(final, azimuths, ELEVATION, size)
        make_folder(folder)
        for name, film in (("rgb", "colour"), ("normal", "normals")):
            for n, frame in enumerate(shown[film]):
                write_bytes(folder / f"{name}_{n}.png", strip(frame[None]))
        return folder

    return write


def t3bench(
    runs: Sequence[RunFolder], out: Path, group: str, resolution: int | None = None
) -> Callable[[Final], Path]:
    """What writes the mesh of one of these runs, of `resolution` cells along an axis, and returns its path.
    UserError where a prompt has two runs of a method."""
    seen: dict[tuple[str, str], RunFolder] = {}
    for run in runs:
        spec = run.spec()
        twin = seen.setdefault((spec.label, spec.prompt), run)
        if twin is not run:
            raise UserError(
                f"T3Bench takes one mesh of a method and prompt; {twin.id} and {run.id} are two: choose with "
                "seed=0"
            )

    def write(final: Final) -> Path:
        spec = final.spec
        prompt = spec.prompt.replace(" ", "_").replace("/", "_")
        place = f"{_plain(spec.label)}_{group}/{prompt}@s{spec.seed}/save/it{spec.config.steps}-export"
        folder = out / "outputs_mesh_t3" / place
        make_folder(folder)
        return export_mesh(final, "obj", folder / "model.obj", resolution=resolution)[0]

    return write


def _prompts(runs: Sequence[RunFolder]) -> list[str]:
    of = {(run.path.parent, suite.sha256 if (suite := run.spec().suite) else "") for run in runs}
    if len(of) != 1:
        raise UserError(f"an index into prompts needs runs of one suite, and these are of {len(of)}")
    return suites.read(*of.pop())["prompts"]


def _plain(label: str) -> str:
    """A method's label as a folder's name."""
    return label.replace("/", "_").replace(":", "-")
