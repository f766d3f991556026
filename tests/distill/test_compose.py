"""Any schedule drives any distillation: `a@b`, from its name to its bits."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.report.command import sweep_command
from harness.check.runs import content
from harness.config import Config, UserError
from harness.distill.contract import MethodError
from harness.distill.events import Stepped
from harness.distill.method import NoiseSchedule, load_method
from harness.distill.runner import advance
from harness.distill.schedules import sd_alphas_cumprod
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, hashed, run_id
from harness.sweep.grid import choose_methods, expand, make_suite
from harness.sweep.plan import make_plan
from harness.sweep.request import Request
from tests import tinyruns

MINE = '''"""Mine: a scaled SDS at one t."""
from harness.distill.method import Method, MethodParams


class Params(MethodParams):
    scale: float = 1.0
    m: float = 3.0


class Mine(Method):
    Params = Params
    nfe = 3
    presets = {"half": {"scale": 0.5}}
    recommended = {"guidance.cfg_scale": 7.5}

    def timesteps(self, step_R, total_R, draws_R):
        return step_R * 0 + 40

    def gradient(self, ctx):
        ctx.predict(ctx.x_t_RCHW, ctx.t_R, ctx.empty_RLD)
        return self.params.scale * super().gradient(ctx)
'''
NOISE = NoiseSchedule(torch.from_numpy(sd_alphas_cumprod()).float(), 20, 980)


@pytest.fixture
def mine(tmp_path: Path) -> list[Path]:
    (tmp_path / "methods" / "mine").mkdir(parents=True)
    (tmp_path / "methods" / "mine" / "method.py").write_text(MINE)
    return [tmp_path / "methods"]


def spec(text: str, dirs: list[Path], *overrides: str) -> RunSpec:
    suite = make_suite("mugs", ["a red mug"], "here")
    return expand(suite, choose_methods(text, overrides, dirs), [0], Config())[0]


def test_the_left_half_is_the_gradient_and_the_right_half_the_timesteps(mine: list[Path]) -> None:
    composed, own, schedule = (load_method(name, mine) for name in ("mine@tp_sds", "mine", "tp_sds"))
    params: dict[str, Any] = {"distillation": {"preset": "half"}, "schedule": {"preset": "iclr", "m": 250}}
    made = composed(composed.resolve(params), NOISE)
    paced = schedule(schedule.resolve(params["schedule"]), NOISE)
    steps, total, draws = torch.arange(1, 101), torch.full((100,), 100), torch.rand(100)
    assert torch.equal(made.timesteps(steps, total, draws), paced.timesteps(steps, total, draws))
    assert made.params.model_dump() == {"scale": 0.5, "m": 3.0}
    assert composed.nfe_range() == (3, 3) and composed.recommended == own.recommended
    full = composed.resolve(params)
    assert composed.resolve(full.model_dump()) == full


def test_a_schedule_on_plain_sds_is_that_schedules_method_bit_for_bit(
    tiny_prior: Path, tmp_path: Path
) -> None:
    seen = []
    for name in ("uniform_sds@tp_sds:iclr", "tp_sds:iclr"):
        ids = tinyruns.create(tmp_path / name, tiny_prior, name, 2)
        tinyruns.run(tmp_path / name, ids)
        seen.append([content(RunFolder(tmp_path / name / run)) for run in ids])
    assert seen[0] == seen[1] and seen[0][0]["status"] == "done"


@pytest.mark.parametrize(
    ("text", "label", "changed"),
    [
        ("mine@tp_sds", "mine@tp_sds", {}),
        ("mine@tp_sds:v1", "mine@tp_sds:v1", {}),
        (
            "mine@tp_sds:iclr",
            "mine@tp_sds:iclr",
            {"schedule.prior": "gaussian", "schedule.snr_weight": True},
        ),
        (
            "mine:half:m=4@tp_sds:m=250",
            "mine:half,m=4@tp_sds:m=250",
            {"distillation.m": 4, "distillation.scale": 0.5, "schedule.m": 250},
        ),
        ("tp_sds:m=1@tp_sds:m=2", "tp_sds:m=1@tp_sds:m=2", {"distillation.m": 1, "schedule.m": 2}),
    ],
)
def test_names_and_identities(
    text: str, label: str, changed: dict[str, Any], mine: list[Path], tmp_path: Path
) -> None:
    found = spec(text, mine)
    assert found.label == label and hashed(found)["params"] == changed
    name = run_id(found)
    assert name.startswith(found.method + "-a-red-mug-s0-") and shlex.quote(name) == name
    folder = RunFolder.create(tmp_path / "runs", found)
    assert folder.spec() == found and run_id(folder.spec()) == name
    # The report's command asks for the same run.
    (tmp_path / "mugs.txt").write_text("a red mug\n")
    words = shlex.split(sweep_command(found, str(tmp_path / "mugs.txt"), 1))
    methods = words[words.index("--methods") + 1]
    again = spec(methods, mine)
    assert (again.params, again.label, run_id(again)) == (found.params, found.label, name)


def test_settings_of_either_half_can_be_set(mine: list[Path], tmp_path: Path) -> None:
    found = spec("mine@tp_sds:iclr", mine, "mine.scale=2", "tp_sds.m=300")
    assert found.params["distillation"]["scale"] == 2 and found.params["schedule"]["m"] == 300
    assert found.label == "mine:scale=2@tp_sds:iclr,m=300"
    (tmp_path / "mugs.txt").write_text("a red car\n")
    request = Request(tmp_path / "mugs.txt", "mine@tp_sds", methods_dirs=tuple(mine))
    assert request.resolve()[1][0].method == "mine@tp_sds"
    told = Request(
        tmp_path / "mugs.txt", "mine@tp_sds", settings=("linear_decay.floor=3",), methods_dirs=tuple(mine)
    )
    with pytest.raises(UserError, match=r"--set linear_decay.…: that method is not in this sweep"):
        told.resolve()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mine@", "method 'mine@': name one distillation before the @ and one schedule after it, such as"),
        ("@tp_sds:iclr", "method '@tp_sds': name one distillation before the @"),
        ("mine@tp_sds@mine", "method 'mine@tp_sds@mine': name one"),
        ("mine@tpsds", "no method 'tpsds'; did you mean 'tp_sds'"),
        ("mien@tp_sds", "no method 'mien'; did you mean 'mine'"),
        ("mine@tp_sds:icrl", "no preset 'icrl'; did you mean 'iclr'"),
        ("mine:scal=2@tp_sds", "no setting 'scal'; did you mean 'scale'"),
        ("mine@tp_sds,mine@tp_sds:v1", "is the same method with the same settings as 'mine@tp_sds'"),
    ],
)
def test_what_is_named_wrongly_is_told(text: str, reason: str, mine: list[Path]) -> None:
    with pytest.raises(UserError, match=reason):
        choose_methods(text, [], mine)


KNOTS = ("uniform_sds@knots", "uniform_sds@knots:at=100/60/0", "uniform_sds@knots:at=80/20:band=40")


def test_runs_whose_schedules_differ_share_a_pack(tiny_prior: Path, tmp_path: Path) -> None:
    for root in ("packed", "solo"):
        ids = [
            run
            for number, name in enumerate(KNOTS)
            for run in tinyruns.create(tmp_path / root, tiny_prior, name, 2 - number % 2)
        ]
    specs = [RunFolder(tmp_path / "packed" / run).spec() for run in ids]
    assert make_plan(tmp_path / "packed", specs, pack=16).packs == [ids]
    emit, should_stop = tinyruns.stop_after(3)  # a pack of several schedules at several steps
    advance(tmp_path / "packed", ids[1:4], tinyruns.execution(), emit, should_stop)
    events = tinyruns.run(tmp_path / "packed", ids)
    assert len(next(event.runs for event in events if isinstance(event, Stepped))) == len(ids)
    for run in ids:
        tinyruns.run(tmp_path / "solo", [run])
        both = [content(RunFolder(tmp_path / root / run)) for root in ("packed", "solo")]
        assert both[0] == both[1] and both[0]["status"] == "done"
    rows = [RunFolder(tmp_path / "packed" / run).metrics()[-1]["t"] for run in (ids[0], ids[2], ids[3])]
    assert len({*map(str, rows)}) > 1


def test_a_schedule_that_fails_fails_its_own_runs(tiny_prior: Path, tmp_path: Path) -> None:
    folder = tmp_path / "methods" / "breaks"
    folder.mkdir(parents=True)
    (folder / "method.py").write_text(
        '"""Breaks: at a step that is set."""\n'
        "from harness.distill.method import MethodParams\n\n\n"
        "class Params(MethodParams):\n    at: float = 2.0\n\n\n"
        "def timestep(progress, draw, noise, params):\n"
        '    return float("nan") if progress > params.at else 500\n'
    )
    dirs = [tmp_path / "methods"]
    names = ("uniform_sds@breaks", "uniform_sds@breaks:at=.5")
    ids = [run for n in names for run in tinyruns.create(tmp_path / "runs", tiny_prior, n, 2, dirs)]
    with pytest.raises(MethodError, match="timestep returned"):
        tinyruns.run(tmp_path / "runs", ids, methods_dirs=(str(dirs[0]),))
    states = [RunFolder(tmp_path / "runs" / run).status() for run in ids]
    assert states[2:] == ["failed", "failed"] and "failed" not in states[:2]
    tinyruns.run(tmp_path / "runs", ids[:2], methods_dirs=(str(dirs[0]),))
    assert [RunFolder(tmp_path / "runs" / run).status() for run in ids[:2]] == ["done", "done"]
