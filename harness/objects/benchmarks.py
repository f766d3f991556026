"""Finished runs in the folders that other people's benchmarks read.

- GPTEval3D (Wu et al. 2024; 3DTopia/GPTEval3D, assets/data_format.md): `methods/<method>/<index of the
  prompt>/<seed>/rgb_<n>.png` and `normal_<n>.png` of a full turn, and `prompts.json`, which the index is in.
  `eval.sources.foreign` reads it back.
- T3Bench (He et al. 2023; THU-LYJ-Lab/T3Bench, run_mesh.py): `outputs_mesh_t3/<method>_<group>/<prompt, with
  underscores>@s<seed>/save/it<steps>-export/model.obj`, one seed of a prompt and method. Its own script
  renders the mesh from an icosphere. Colours are on vertices, where threestudio writes a texture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from harness.config import UserError
from harness.objects.export import export_mesh
from harness.objects.final import Final
from harness.objects.turntable import films
from harness.records.files import make_folder, read_json, strip, write_bytes, write_json
from harness.records.reader import problem

AZIMUTHS, ELEVATION, SIZE = 120, 15.0, 512  # of GPTEval3D's renders, which are threestudio's


class _Kept(TypedDict):
    prompts: list[str]


def gpteval3d(
    finals: Sequence[Final], out: Path, azimuths: int = AZIMUTHS, size: int = SIZE
) -> Iterator[Path]:
    """Writes prompts.json and each run's frames, and yields their folders. UserError for runs without a
    suite, and for those of several."""
    prompts = _prompts(finals)
    make_folder(out)
    write_json(out / "prompts.json", prompts)
    for final in finals:
        spec = final.spec
        folder = out / "methods" / _plain(spec.label) / str(prompts.index(spec.prompt)) / str(spec.seed)
        make_folder(folder)
        shown = films(final, azimuths, ELEVATION, size)
        for name, film in (("rgb", "colour"), ("normal", "normals")):
            for n, frame in enumerate(shown[film]):
                write_bytes(folder / f"{name}_{n}.png", strip(frame[None]))
        yield folder


def t3bench(finals: Sequence[Final], out: Path, group: str, resolution: int | None = None) -> Iterator[Path]:
    """Writes each run's mesh, of `resolution` cells along an axis, and yields its path. UserError where a
    prompt has two runs of a method."""
    seen: dict[tuple[str, str], Final] = {}
    for final in finals:
        twin = seen.setdefault((final.spec.label, final.spec.prompt), final)
        if twin is not final:
            raise UserError(
                f"T3Bench takes one mesh of a method and prompt; {twin.folder.id} and {final.folder.id} are "
                "two: choose with seed=0"
            )
    for final in finals:
        spec = final.spec
        prompt = spec.prompt.replace(" ", "_").replace("/", "_")
        place = f"{_plain(spec.label)}_{group}/{prompt}@s{spec.seed}/save/it{spec.config.steps}-export"
        folder = out / "outputs_mesh_t3" / place
        make_folder(folder)
        yield export_mesh(final, "obj", folder / "model.obj", resolution=resolution)[0]


def _prompts(finals: Sequence[Final]) -> list[str]:
    suites = {
        (final.folder.path.parent, final.spec.suite.sha256 if final.spec.suite else "") for final in finals
    }
    if len(suites) != 1:
        raise UserError(f"an index into prompts needs runs of one suite, and these are of {len(suites)}")
    [(root, sha256)] = suites
    path = root / "suites" / f"{sha256[:12]}.json"
    try:
        return TypeAdapter(_Kept).validate_python(read_json(path))["prompts"]
    except ValidationError as error:
        raise UserError(f"the suite of these runs does not load from {path}: {problem(error)}") from None


def _plain(label: str) -> str:
    """A method's label as a folder's name."""
    return label.replace("/", "_").replace(":", "-")
