"""What is said of speed and time: remembered, by what steps cost, and never nothing with work left."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.config import Config, Execution
from harness.console import Console
from harness.distill.events import Measured
from harness.records.identity import RunSpec
from harness.records.memory import Memory
from harness.scene import encoders
from harness.sweep import display, fits, pool
from harness.sweep.display import Display, duration, speed
from harness.sweep.pace import FRESH_SECONDS, Paces
from harness.sweep.pool import Pool


def _spec(method: str, prompt: str = "a red cup", **config) -> RunSpec:
    return RunSpec(method=method, prompt=prompt, seed=0, config=Config(**config))


def test_nothing_that_is_left_takes_no_time():
    assert [duration(seconds) for seconds in (0, 0.01, 0.9, 59.6, 3661)] == [
        "0 s",
        "1 s",
        "1 s",
        "1:00",
        "1:01:01",
    ]
    assert [speed(rate) for rate in (0.031, 2.25, 29.4, 12400)] == ["0.031", "2.2", "29", "12 400"]


def test_the_time_left_goes_by_what_steps_cost(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    shown = Display(2, 200, Console(quiet=True), work=100 * 2 + 100 * 6)
    assert "loading" in shown.text() and shown.rate == 0 and shown.seconds_left is None
    now += 50  # the prior is loaded
    for _ in range(11):
        shown.advance(2, 4.0)
        now += 0.5
    assert shown.rate == pytest.approx(4) and shown.seconds_left == pytest.approx((800 - 44) / 8)
    assert shown.text().endswith("4 steps/s · 1:34 left")


def test_the_time_left_is_not_an_average_over_the_start(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    shown = Display(4, 100, Console(quiet=True))

    def go(steps: int, seconds: float) -> None:
        nonlocal now
        for _ in range(steps):
            now += seconds
            shown.advance(1)

    go(4, 0.25)
    go(1, 2.75)  # the first views
    go(5, 0.25)
    assert shown.rate == pytest.approx(4) and shown.seconds_left == pytest.approx(90 / 4)
    shown.begin()
    assert shown.rate == 0 and shown.seconds_left is None
    go(5, 0.125)  # two workers
    assert shown.rate == pytest.approx(8) and shown.seconds_left == pytest.approx(85 / 8)
    go(3, 30.0)
    go(3, 0.125)  # what is slow later is part of the pace
    assert shown.rate < 0.2


def test_a_pace_is_remembered_by_what_it_hangs_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = {"uniform_sds": "a"}
    paces = Paces("cpu", 2, lambda spec: code)
    spec = _spec("uniform_sds")
    assert paces.known(spec, 4) is None
    paces.keep(spec, 4, 40.0, 2.0)
    paces.keep(spec, 16, 64.0, 2.0)
    again = Paces("cpu", 2, lambda spec: code)
    assert again.known(_spec("uniform_sds", "a blue cup", steps=7), 4) == 40.0
    assert (again.known(spec, 2), again.known(spec, 12)) == (20.0, 48.0)
    assert Paces("cpu", 1, lambda spec: code).known(spec, 4) is None
    assert (
        again.known(_spec("tp_sds"), 4) is None
        and again.known(_spec("uniform_sds", scene={"hidden": 8}), 4) is None
    )
    code["uniform_sds"] = "b"
    assert again.known(spec, 4) is None


@pytest.mark.parametrize("odd", ["[1]", '{"k": 1}', '{"k": [1, "x"]}', "{", ""])
def test_what_is_remembered_is_forgotten_where_it_is_odd_or_old(
    odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept, spec = Memory[int]("packs.json", int, days=7), _spec("uniform_sds")
    kept.keep("k", 4)
    assert kept.recall("k") == 4 and kept.recall("j") is None
    later = time.time() + 8 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    assert kept.recall("k") is None
    for name in ("packs.json", "paces.json", "encoders.json"):
        (tmp_path / "dreamtime-harness" / name).write_text(odd)
    assert fits.remembered(spec, "cpu") == fits.AUTO_PACK["cpu"]
    fits.remember(spec, "cpu", 3)
    assert fits.remembered(spec, "cpu") == 3
    assert Paces("cpu", 2, lambda spec: {}).known(spec, 4) is None
    monkeypatch.setattr(encoders, "measured", lambda name, _: {"numba": 2.0, "torch": 1.0}[name])
    assert encoders.fastest(["numba", "torch"], "cpu") == "torch"


NVIDIA_SMI = """#!/bin/sh
case "$*" in
    *--id=1*) echo "NVIDIA B, 24576 MiB" ;;
    *--id=*) echo "No devices were found"; exit 6 ;;
    *) printf 'NVIDIA A, 81920 MiB\\nNVIDIA B, 24576 MiB\\n' ;;
esac
"""


@pytest.mark.parametrize(
    ("visible", "name"),
    [(None, "NVIDIA A, 81920 MiB"), ("1,0", "NVIDIA B, 24576 MiB"), ("7", "cuda")],
)
def test_a_gpu_is_called_what_the_first_that_is_visible_is(
    visible: str | None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "nvidia-smi").write_text(NVIDIA_SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert fits.device_name.__wrapped__("cuda") == name


@pytest.fixture
def of_two_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """A pool of two packs of two runs that nothing was run with yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(pool, "gpus", list)
    specs = [
        _spec(method, prompt) for method in ("uniform_sds", "csd") for prompt in ("a red cup", "a blue cup")
    ]
    with Pool(tmp_path / "runs", specs, Execution(wandb="disabled", device="cpu")) as made:
        yield made


def _later(monkeypatch: pytest.MonkeyPatch) -> None:
    """When what was seen is no longer fresh."""
    then = time.time() + FRESH_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: then)


def test_a_short_sweep_whose_paces_are_known_is_not_measured(
    of_two_methods: Pool, monkeypatch: pytest.MonkeyPatch
):
    made, plan = of_two_methods, of_two_methods.plan()
    uniform, _, csd, _ = made.specs
    assert made.known_pace(plan) is None and made.work(plan) == 400 * 2 * (2 + made._cost("csd"))
    assert made.is_new_here
    made._keep_pace(uniform, 2, 40.0)
    _later(monkeypatch)
    asked = []
    monkeypatch.setattr(made, "_measured", lambda pack, kinds: asked.append((pack, kinds)) or Measured())
    by_cost = 40 * 2 / made._cost("csd")
    for _ in range(2):  # what never ran here is begun once
        pace = made.pace(plan)
        assert pace.rate == pytest.approx(1600 / (800 / 40 + 800 / by_cost)) and pace.how == "as before"
        assert [(pack, {spec.method for spec in kinds}) for pack, kinds in asked] == [
            ([], {"uniform_sds", "csd"})
        ]
    made._keep_pace(csd, 2, 30.0)
    pace = made.pace(plan)
    assert pace.rate == pytest.approx(1600 / (800 / 40 + 800 / 30)) and pace.how == "as before"
    assert not made.is_new_here


def test_another_schedule_of_a_composed_method_is_begun_though_its_pace_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(pool, "gpus", list)
    one, other = (
        _spec("csd@tp_sds").model_copy(update={"params": {"distillation": {}, "schedule": {"m": m}}})
        for m in (500.0, 5000.0)
    )
    asked: list[RunSpec] = []
    with Pool(tmp_path / "runs", [other], Execution(wandb="disabled", device="cpu")) as made:
        made._keep_pace(one, 1, 40.0)
        assert made.paces.known(other, 1) == 40.0
        monkeypatch.setattr(made, "_measured", lambda pack, kinds: asked.extend(kinds) or Measured())
        assert made.pace(made.plan()).how == "as before" and asked == [other]


def test_what_was_measured_is_known_to_the_next_pool(of_two_methods: Pool, monkeypatch: pytest.MonkeyPatch):
    plan, asked = of_two_methods.plan(), []
    monkeypatch.setattr(
        Pool, "_measured", lambda self, pack, kinds: asked.append(pack) or Measured(rate=6.0, memory=5.0)
    )
    with Pool(of_two_methods.root, of_two_methods.specs, of_two_methods.execution, scratch=True) as dry:
        measured = dry.pace(plan)
    again = of_two_methods.pace(plan)
    assert (measured.how, again.how, len(asked)) == ("measured", "as before", 1)
    assert again.rate == pytest.approx(measured.rate, rel=1e-3)
    assert sum(plan.steps_left.values()) > again.rate * pool.SOON_SECONDS
    _later(monkeypatch)
    assert of_two_methods.pace(plan).how == "measured" and len(asked) == 2


def test_packs_that_have_no_step_left_have_a_pace(of_two_methods: Pool, monkeypatch: pytest.MonkeyPatch):
    made, plan = of_two_methods, of_two_methods.plan()
    ended = replace(plan, steps_left=dict.fromkeys(plan.steps_left, 0))
    monkeypatch.setattr(made, "_measured", lambda pack, kinds: Measured(rate=60.0, memory=5.0))
    assert made.pace(ended).rate > 0
    for spec in made.specs:
        made._keep_pace(spec, 2, 40.0)
    assert made.pace(ended).how == "as before"


def test_a_long_sweep_is_measured_and_its_methods_compared_by_what_they_did(
    of_two_methods: Pool, monkeypatch: pytest.MonkeyPatch
):
    made, plan = of_two_methods, of_two_methods.plan()
    uniform, _, csd, _ = made.specs
    monkeypatch.setattr(made, "_measured", lambda pack, kinds: Measured(rate=60.0, memory=5.0))
    by_cost = 60 * 2 / made._cost("csd")
    assert made.pace(plan).rate == pytest.approx(1600 / (800 / 60 + 800 / by_cost))
    made._keep_pace(uniform, 2, 10.0)  # on a busy machine
    made._keep_pace(csd, 2, 2.0)
    _later(monkeypatch)
    pace = made.pace(plan)
    assert pace.rate == pytest.approx(1600 / (800 / 60 + 800 / 12)) and pace.how == "measured"
    assert made.paces.known(uniform, 2) == 60


def test_a_wrong_folder_is_told_before_anything_is_imported(tmp_path: Path):
    code = (
        "import sys; from harness.cli import main\n"
        "try: main()\nfinally: assert not {'torch', 'pandas', 'matplotlib'} & sys.modules.keys()"
    )
    for command in ("eval", "tables", "figures", "report"):
        done = subprocess.run(
            [sys.executable, "-c", code, command, "nope"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 2 and "no folder nope" in done.stderr, done.stderr
