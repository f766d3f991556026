"""Folders that other benchmarks read: renders come back through the importer, a mesh through trimesh."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from eval.sources.foreign import import_renders
from eval.sources.load import load_run
from harness.cli import main
from harness.config import Config, GuidanceConfig, UserError
from harness.guidance.prior import Guidance
from harness.objects.benchmarks import t3bench
from harness.objects.final import Final, latents, load, load_prior, pictures
from harness.records.folder import RunFolder, run_folders
from harness.records.identity import RunSpec
from harness.scene.cameras import make
from harness.scene.kind import look_in
from harness.sweep.grid import Suite
from tests import planted
from tests.eval.conftest import PROMPTS, SUITE, Sweep

BODY = (0.0, 0.0, 0.0, 0.5, 200.0)


@pytest.fixture
def runs(tmp_path: Path):
    """Two prompts of a method, two seeds of one of them, with the toy prior's own weights."""
    planted.kinds(tmp_path / "kinds")
    sweep = Sweep(tmp_path / "runs")
    record = Guidance.load(GuidanceConfig(), local_files_only=True).record
    for prompt, seed in ((PROMPTS[1], 0), (PROMPTS[0], 0), (PROMPTS[0], 1)):
        folder = planted.run(sweep.root, [BODY], prompt=prompt, seed=seed)
        folder.save_env({"prior": record})
    yield sweep.root
    look_in([])


def test_renders_are_where_gpteval3d_looks_and_the_importer_reads_them_back(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "theirs"
    finals = [load(folder) for folder in run_folders(runs) if folder.spec().seed == 0]
    words = ["seed=0", "--runs", str(runs), "--out", str(out), "--azimuths", "4", "--size", "32"]
    words += ["--scenes-dir", str(tmp_path / "kinds")]
    monkeypatch.setattr("sys.argv", ["harness", "export-to", "gpteval3d", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    paths = sorted(out.glob("methods/*/*/*"))
    named = [str(path.relative_to(out)) for path in paths]
    assert named == ["methods/tp_sds/0/0", "methods/tp_sds/1/0"]
    assert json.loads((out / "prompts.json").read_text()) == list(PROMPTS)
    assert sorted(path.name for path in paths[0].iterdir()) == sorted(
        f"{name}_{n}.png" for name in ("rgb", "normal") for n in range(4)
    )
    final = next(each for each in finals if each.spec.prompt == PROMPTS[0])
    views = final.spec.config.views
    turn = make([0.0, 90.0, 180.0, 270.0], [15.0] * 4, [views.distance] * 4, [views.fov] * 4)
    expected = pictures(load_prior(final), latents(final, load_prior(final), turn)).numpy()
    shown = np.asarray(Image.open(out / "methods/tp_sds/0/0/rgb_2.png"))
    small = np.asarray(Image.fromarray(expected[2]).resize((32, 32), Image.Resampling.BICUBIC))
    assert shown.shape == (32, 32, 3) and np.array_equal(shown, small)
    written = import_renders(out, Suite("six", PROMPTS), tmp_path / "back", azimuths=4)
    back = [load_run(RunFolder(tmp_path / "back" / name)) for name in written]
    assert {(run.method, run.prompt, run.seed) for run in back} == {
        ("tp_sds", prompt, 0) for prompt in PROMPTS[:2]
    }
    first = next(run for run in back if run.prompt == PROMPTS[0])
    assert np.array_equal(first.views(1)[2], shown) and first.suite == SUITE.sha256


def test_meshes_are_where_t3bench_looks_one_of_a_prompt(runs: Path, tmp_path: Path) -> None:
    folders = run_folders(runs)
    with pytest.raises(UserError, match="one mesh of a method and prompt"):
        t3bench(folders, tmp_path / "none", "single")
    assert not (tmp_path / "none").exists()
    [one] = [folder for folder in folders if folder.spec().prompt == PROMPTS[1]]
    t3bench([one], tmp_path / "t3", "single", resolution=32)(load(one))
    [path] = (tmp_path / "t3" / "outputs_mesh_t3" / "tp_sds_single").glob(
        PROMPTS[1].replace(" ", "_") + "*/save/it*-export/model.obj"
    )
    mesh = trimesh.load_mesh(path)
    assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.2)


def test_what_cannot_be_shown_is_left_out_and_one_run_is_held_at_a_time(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = planted.run(runs, [BODY], prompt=PROMPTS[2])
    (broken.path / "checkpoint.safetensors").write_bytes(b"half a")
    flat = {"scene": {"kind": "image"}, "views": {"azimuths": 1, "heldout_elevation": None}}
    cfg = Config.model_validate(flat)
    image = RunFolder.create(
        runs, RunSpec(method="tp_sds", prompt=PROMPTS[3], seed=0, suite=SUITE, config=cfg)
    )
    image.finish({"steps": cfg.steps})
    held = []

    def load_one(folder: RunFolder, device: str) -> Final:
        assert not [final for final in held if final() is not None]
        final = load(folder, device)
        held.append(weakref.ref(final))
        return final

    monkeypatch.setattr("harness.objects.final.load", load_one)
    words = ["--runs", str(runs), "--out", str(tmp_path / "theirs"), "--azimuths", "1", "--size", "16"]
    words += ["--scenes-dir", str(tmp_path / "kinds"), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["harness", "export-to", "gpteval3d", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 1 and len(held) == 3 == len(said.out.splitlines())
    assert f"left out: {image.id} made a picture" in said.err and f"left out: {broken.id}: " in said.err
