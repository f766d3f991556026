"""`import harness` as a library: light until it is used, runs as commands see them, packs as sweeps do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

import harness
from harness.config import Config, UserError
from harness.distill.method import Method
from harness.records.folder import RunFolder
from tests import tinyruns
from tests.eval.conftest import PROMPTS, Sweep


def test_importing_it_is_light() -> None:
    code = (
        "import sys, harness; heavy = {'torch', 'pandas', 'diffusers', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy; assert 'open_runs' in dir(harness)\n"
        "try: harness.nothing\nexcept AttributeError: print('ok')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "ok\n"


def test_runs_are_what_the_commands_see(tmp_path: Path, clip_folder: Path) -> None:
    sweep = Sweep(tmp_path / "runs")
    for seed, prompt in enumerate(PROMPTS):
        sweep.add("uniform_sds", prompt, seed % 2)
        sweep.add("tp_sds", prompt, seed % 2, shows=PROMPTS[0])
    runs = harness.open_runs(sweep.root, clip=str(clip_folder), device="cpu")
    assert len(runs) == 2 * len(PROMPTS) == len(runs.table)
    assert set(runs.table["status"]) == {"done"} and set(runs.table["method"]) == {"uniform_sds", "tp_sds"}
    own = runs.select("method=tp_sds")
    assert len(own) == len(PROMPTS) and set(own.table["method"]) == {"tp_sds"}
    run = runs.find("method=uniform_sds", f"prompt={PROMPTS[1]}")
    assert run.spec.prompt == PROMPTS[1] and run.views().dtype == np.uint8
    assert np.array_equal(run.views(), run.folder.views(run.steps[-1]))
    scores = runs.scores()
    mean = scores.groupby("method")["majority"].mean()
    assert mean["uniform_sds"] == 1 and mean["tp_sds"] == 1 / len(PROMPTS)
    matplotlib.use("agg")
    axes = runs.plot()
    assert axes.get_ylabel() == "R-Precision, %" and len(axes.get_lines()) >= 2
    for wrong, told in (
        (lambda: harness.open_runs(tmp_path), "holds no runs"),
        (lambda: runs.select("method=nfsd"), "fits"),
        (lambda: own.select("method=uniform_sds"), "none of these runs fits"),
        (lambda: run.views(3), "no views of step 3"),
        (lambda: runs.scores("beauty"), "no metric 'beauty'; there are"),
    ):
        with pytest.raises(UserError, match=told):
            wrong()


SETTINGS = (
    "scene.resolution=8", "scene.samples=8", "scene.levels=4", "scene.log2_hashmap=8", "scene.hidden=8",
    "guidance.microbatch=4", "views.azimuths=2", f"steps={tinyruns.STEPS}",
)  # fmt: skip


def test_a_pack_is_stepped_by_hand_as_a_sweep_steps_it(tiny_prior: Path, tmp_path: Path) -> None:
    scale = Config().guidance.cfg_scale  # the preset has another
    settings = (*SETTINGS, f"guidance.prior={tiny_prior}", f"guidance.cfg_scale={scale}")
    pack = harness.make_pack("a red mug", "tp_sds", settings=settings, device="cpu")
    (run,) = tinyruns.create(tmp_path, tiny_prior, "tp_sds", 1)
    tinyruns.run(tmp_path, [run])
    reports = [harness.step(pack) for _ in range(tinyruns.STEPS)]
    assert int(reports[-1].nfe_R[0]) == 2 * tinyruns.STEPS
    theirs = harness.Run(RunFolder(tmp_path / run))
    assert np.array_equal(harness.pack_views(pack)[0], theirs.views())
    assert theirs.metrics["t"].iloc[-1] == int(reports[-1].t_R[0])
    assert np.array_equal(theirs.render(0.0), theirs.views()[0])


class Louder(Method):
    """A method that is being written."""

    def gradient(self, ctx):
        return 2 * super().gradient(ctx)


def test_a_class_that_is_being_written_is_a_method(tiny_prior: Path) -> None:
    settings = (*SETTINGS, f"guidance.prior={tiny_prior}")
    plain, louder = (
        harness.make_pack(["a red mug", "a blue mug"], which, (0, 1), settings, device="cpu")
        for which in ("uniform_sds", Louder)
    )
    assert len(plain.keys) == 4
    reports = [harness.step(pack) for pack in (plain, louder)]
    assert torch.equal(reports[1].residual_R, 2 * reports[0].residual_R)
    assert (reports[0].residual_R > 0).all() and (reports[1].grad_norm_R > reports[0].grad_norm_R).all()
    by_key = {key: value for key, _, value in (item.partition("=") for item in settings)}
    again = harness.make_pack("a red mug", settings=by_key | {"guidance.cfg_scale": 20}, device="cpu")
    assert again.config.guidance.cfg_scale == 20 and harness.__version__.startswith("0.")
    with pytest.raises(UserError, match="a pack has one method, not csd, uniform_sds"):
        harness.make_pack("a red mug", "uniform_sds,csd", settings=settings, device="cpu")
