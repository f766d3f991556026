"""A kind of scene in a folder of somebody's own: swept, measured, exported and reported by command."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main
from harness.config import Config, UserError, dotted
from harness.records.folder import run_folders
from harness.records.identity import RunSpec, run_id
from harness.scene import kind
from harness.scene.kind import discover, load_kind, look_in, settle

DENSE = '''"""A dense grid of density and latent, read by trilinear interpolation (DVGO)."""

import torch
from pydantic import Field
from torch.nn.functional import grid_sample, softplus

from harness import rng
from harness.scene.contract import SceneSettings, mean_by_run
from harness.scene.volume import VolumeScene


class Settings(SceneSettings):
    cells: int = Field(default=12, ge=2, le=256, description="along an axis")
    variation: float = Field(default=0.01, ge=0, description="weight of the total variation")


class Dense(VolumeScene):
    Settings = Settings

    @property
    def finest_cells(self):
        return self.own.cells

    def init(self, keys, background_RC):
        side = self.own.cells + 1
        u = rng.uniform(keys, [0] * len(keys), "init", (1 + self.channels, side, side, side))
        return {"grid": 0.02 * (2 * u - 1)}

    def field(self, params, x_RN3):
        at_RN = (x_RN3 / self.bound).to(params["grid"].dtype)[:, :, None, None]
        out_RNO = grid_sample(params["grid"], at_RN, align_corners=True)[..., 0, 0].transpose(1, 2)
        return torch.cat([softplus(out_RNO[..., :1] + self.blob(x_RN3)), out_RNO[..., 1:]], -1)

    def penalties(self, params, out):
        steps = [params["grid"].diff(dim=dim).square() for dim in (2, 3, 4)]
        variation_R = sum(mean_by_run(each) for each in steps)
        return super().penalties(params, out) | {"variation": self.own.variation * variation_R}
'''


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "dense.py").write_text(DENSE)
    look_in([tmp_path / "scenes"])
    return tmp_path / "scenes"


@pytest.fixture(autouse=True)
def only_built_in_kinds_after() -> object:
    yield None
    look_in([])


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["harness", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.mark.long  # tests/integration/test_extending.py goes the same way with a smaller kind
def test_a_kind_is_one_file_from_the_sweep_to_the_report(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, dirs = tmp_path / "runs", ("--scenes-dir", scenes)
    suite = tmp_path / "suite.txt"
    suite.write_text("a red bus\na blue boat\n")
    words = ("--seeds", "0", "--steps", "8", "--methods", "uniform_sds", "--out", runs, "--wandb", "disabled")
    items = ("--set", "scene.kind=dense", "--set", "scene.dense.cells=10", "--set", "views.count=2")
    assert call(monkeypatch, "sweep", suite, *words, *items, "--device", "cpu", *dirs) == 0
    folders = list(run_folders(runs))
    assert [folder.status() for folder in folders] == ["done", "done"]
    assert all("loss_variation" in row for row in folders[0].metrics())
    for command in ("eval", "tables", "report"):
        assert call(monkeypatch, command, runs, "--device", "cpu", *dirs) == 0, capsys.readouterr().err
    assert (runs / "eval" / "report" / "index.html").is_file()
    assert "uniform_sds" in (runs / "eval" / "tables" / "shapes.md").read_text()
    mesh = tmp_path / "mesh.ply"
    assert (
        call(monkeypatch, "export", folders[0].id, "--runs", runs, "--out", mesh, "--device", "cpu", *dirs)
        == 0
    )
    assert "watertight" in capsys.readouterr().out and mesh.is_file()
    assert call(monkeypatch, "export", folders[0].id, "--runs", runs, "--out", mesh, "--device", "cpu") == 2
    assert "no scene 'dense'" in (told := capsys.readouterr().err) and "--scenes-dir" in told


def test_the_contract_is_tried_by_command(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "check-scene", "dense", "--scenes-dir", scenes) == 0
    told = capsys.readouterr().out
    assert told.count("ok") >= 7 and "BROKEN" not in told
    packed = DENSE.replace('{"grid": 0.02 * (2 * u - 1)}', '{"grid": 0.02 * (2 * u - 1) + 0.1 * len(keys)}')
    (scenes / "loose.py").write_text(packed)
    assert call(monkeypatch, "check-scene", "loose", "--scenes-dir", scenes) == 1
    assert "grid depends on the other runs of the pack" in capsys.readouterr().out


def test_kinds_are_listed_with_their_settings(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "scenes", "--scenes-dir", scenes) == 0
    assert re.search("^dense +A dense grid of density", capsys.readouterr().out, re.M)
    assert call(monkeypatch, "scenes", "dense", "--scenes-dir", scenes) == 0
    listed = capsys.readouterr().out
    assert "scene.dense.cells = 12  # along an axis" in listed and "scene.samples = 32" in listed
    assert "levels" not in listed


def test_what_a_kind_has_of_its_own_is_checked_written_out_and_hashed_where_it_differs(scenes: Path) -> None:
    plain = settle(Config(), ["scene.kind=dense"])
    assert plain.scene.own == {"cells": 12, "variation": 0.01} and plain.scene.own_set == ()
    assert settle(plain) == plain and settle(plain, ["scene.dense.cells=12"]) == plain
    larger = settle(plain, ["scene.dense.cells=20"])
    assert larger.scene.own_set == ("cells",) and dotted(larger)["scene.dense.cells"] == 20
    ids = {
        run_id(RunSpec(method="m", prompt="p", seed=0, config=config)) for config in (Config(), plain, larger)
    }
    assert len(ids) == 3
    assert (
        RunSpec.model_validate_json(
            RunSpec(method="m", prompt="p", seed=0, config=larger).model_dump_json()
        ).config
        == larger
    )
    (scenes / "dense.py").write_text(
        DENSE.replace("variation: float", "extra: int = 3\n    variation: float")
    )
    again = settle(
        larger.model_copy(update={"scene": larger.scene.model_copy(update={"own": {"cells": 20}})})
    )
    assert again.scene.own["extra"] == 3
    assert run_id(RunSpec(method="m", prompt="p", seed=0, config=again)) in ids
    for items, told in (
        (["scene.kind=dens"], "no scene 'dens'; did you mean 'dense'"),
        (["scene.kind=dense", "scene.dense.cell=3"], "no setting 'cell'; did you mean 'cells'"),
        (["scene.kind=dense", "scene.dense.cells=1"], "scene dense, cells: .* greater than or equal to 2"),
        (["scene.dense.cells=3"], "the scene is of kind field; add --set scene.kind=dense"),
        (["scene.kind=dense", "scene.own=3"], "unknown setting 'scene.own'"),
    ):
        with pytest.raises(UserError, match=told):
            settle(Config(), items)


def test_listing_imports_nothing_and_a_default_sweep_no_torch(scenes: Path) -> None:
    (scenes / "boom.py").write_text('"""Says boom."""\nraise RuntimeError("imported")\n')
    (scenes / "deep").mkdir()
    (scenes / "deep" / "helper.py").write_text("sides = False\n")
    (scenes / "deep" / "scene.py").write_text(
        '"""With a helper."""\nimport helper\nfrom harness.scene.kinds.image import Image\n'
        "class Deep(Image):\n    has_sides = helper.sides\n"
    )
    assert discover()["boom"].summary == "Says boom." and not load_kind("deep").has_sides
    with pytest.raises(UserError, match=r"boom\.py cannot be imported: RuntimeError: imported"):
        load_kind("boom")
    (scenes / "field.py").write_text('"""Another."""\n')
    with pytest.raises(UserError, match="two scenes are named 'field'"):
        discover()
    code = (
        "import sys; from harness.config import Config; from harness.scene import kind\n"
        "kind.discover(); kind.settle(Config(), ['scene.hidden=8']); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(kind.__file__).parents[2])


def test_what_is_settled_without_an_import_is_so() -> None:
    default = load_kind(kind.DEFAULT)
    assert default.has_sides and not default.Settings.model_fields
