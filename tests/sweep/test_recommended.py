"""Each method at its own settings, and an equal budget of denoiser evaluations."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval.report.command import sweep_command
from harness.cli import app
from harness.config import UserError, dotted
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, run_id
from harness.sweep import experiment
from harness.sweep.request import Request

SUITE = Path("prompts/smoke.txt")
CSD = {"optim.lr": 0.001, "optim.betas": [0.9, 0.999]}


def specs(methods: str, *settings: str, recommended: bool = True, **asked) -> list[RunSpec]:
    request = Request(SUITE, methods, limit=1, settings=settings, recommended=recommended, **asked)
    return request.resolve()[1]


def test_each_method_has_its_own_settings_and_says_so() -> None:
    found = specs("uniform_sds,csd,csd:plain,csd@tp_sds:iclr,csd@tp_sds,uniform_sds@csd")
    labels = ["uniform_sds", "csd:own", "csd:plain,own", "csd:own@tp_sds:iclr", "csd:own@tp_sds"]
    assert [spec.label for spec in found] == [*labels, "uniform_sds@csd"]
    common = dotted(found[0].config)
    for spec, own in zip(found, ({}, CSD, CSD, CSD, CSD, {}), strict=True):
        assert spec.own == own and dotted(spec.config) == common | own


def test_what_is_set_by_hand_stays_and_what_stands_there_already_is_no_setting_of_its_own() -> None:
    (by_hand,) = specs("csd", "optim.lr=0.01", "optim.betas=0.5,0.9")
    assert (by_hand.own, by_hand.label, by_hand.config.optim.betas) == ({}, "csd", (0.5, 0.9))
    (half,) = specs("csd", "optim.lr=0.01")
    assert half.own == {"optim.betas": [0.9, 0.999]} and half.own_kept == ("optim.lr",)
    (bridge,) = specs("sds_bridge")  # whose learning rate and betas are the toy preset's
    assert bridge.own == {"guidance.cfg_scale": 40.0, "guidance.weighting": "sds"}


def test_the_label_is_no_cause_and_runs_of_equal_settings_stay_apart(tmp_path: Path) -> None:
    (own,) = specs("csd")
    (equal,) = specs("csd", recommended=False)
    (by_hand,) = specs("csd", "optim.lr=0.001", "optim.betas=0.9,0.999", recommended=False)
    assert run_id(own) == run_id(by_hand) != run_id(equal)
    for spec in (own, equal):
        folder = RunFolder.create(tmp_path, spec)
        assert folder.spec() == spec and RunFolder.create(tmp_path, spec).path == folder.path
        written = json.loads((folder.path / "spec.json").read_text())
        assert ("own" in written) == bool(spec.own) and "own_kept" not in written


@pytest.mark.parametrize(
    ("methods", "settings"),
    [
        ("csd", ()),
        ("csd:plain", ("guidance.cfg_scale=33",)),
        ("csd:plain:over=0.5@tp_sds:iclr", ()),
        ("csd@tp_sds", ("optim.lr=0.01",)),  # the preset's, which the method's would replace
        ("csd", ("optim.lr=0.02",)),
        ("ism", ("guidance.cfg_scale=20",)),
    ],
)
def test_the_reports_command_asks_for_the_same_run(methods: str, settings: tuple[str, ...]) -> None:
    (spec,) = specs(methods, *settings)
    words = shlex.split(sweep_command(spec, str(SUITE), 1))
    assert "--recommended" in words
    given = {flag: words[words.index(flag) + 1] for flag in ("--methods", "--steps", "--preset")}
    again = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    (found,) = specs(given["--methods"], *again, preset=given["--preset"], steps=(int(given["--steps"]),))
    assert found == spec


def test_the_command_line_knows_it(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, specs("csd")[0]).finish({"steps": 400})
    words = ["sweep", str(SUITE), "--methods", "csd", "--limit", "1", "--out", str(tmp_path), "--recommended"]
    told = CliRunner().invoke(app, [*words, "--dry-run"])
    assert told.exit_code == 0 and "0 new, 0 to resume, 1 done" in told.output


def test_an_equal_budget_of_evaluations_is_steps_of_each_methods_own() -> None:
    found = specs("uniform_sds,nfsd,ism:hops=2,ism", recommended=False, nfe=600, per_step={"ism": 5})
    assert [spec.config.steps for spec in found] == [300, 200, 120, 120]
    (one,) = specs("ism:stride=50", nfe=600, per_step={"ism": 5, "ism:stride=50": 4.03})
    assert one.config.steps == 149
    with pytest.raises(UserError, match=r"a step of ism takes 3 to 8 denoiser evaluations; give its mean"):
        specs("ism", nfe=600)
    with pytest.raises(UserError, match="1 denoiser evaluations are no step of uniform_sds"):
        specs("uniform_sds", nfe=1)


def test_an_experiment_says_it_in_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "EXPERIMENTS", tmp_path)
    head = 'title = "t"\nsource = "s"\nreads = "r"\nplan = "p"\n[toy]\npreset = "toy"\nprompts = 1\n'
    ask = 'methods = "csd"\nrecommended = true\nnfe = 400\n'
    (tmp_path / "mine.toml").write_text(head + ask + "per_step = {csd = 2.5}\n")
    mine = experiment.load("mine")
    assert mine.toy is not None
    (spec,) = mine.resolve(mine.toy)[1]
    assert (spec.label, spec.config.steps, spec.config.optim.lr) == ("csd:own", 160, 0.001)
    for wrong, why in (
        (ask + "steps = [3]\n", "a run has steps or a budget of nfe, not both"),
        ("per_step = {csd = 2}\n", "per_step belongs to a budget of nfe"),
    ):
        (tmp_path / "mine.toml").write_text(head + wrong)
        with pytest.raises(UserError, match=why):
            experiment.load("mine")
