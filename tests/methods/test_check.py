"""`harness check-method` on a folder outside the checkout: what is kept passes, what is not is named."""

from pathlib import Path

import pytest

from harness.check.method import CHECKS, Trial
from harness.check.runs import results
from harness.distill.method import new_method

BROKEN = '''"""Broken: every promise at once."""

from harness.distill.method import Method


class Broken(Method):
    nfe = 3
    recommended = {"guidance.cfg": 7}

    def timesteps(self, step_R, total_R, draws_R):
        t_R = super().timesteps(step_R, total_R, draws_R)
        return (t_R + t_R.max()) // 2

    def gradient(self, ctx):
        return ctx.eps_RCHW - ctx.noise_RCHW
'''


def problems(name: str, tmp_path: Path, methods: Path) -> dict[str, str | None]:
    trial = Trial(name, tmp_path, (methods,))
    return {check: problem for check, _, problem in results(trial, CHECKS)}


@pytest.mark.parametrize("schedule", [False, True])
def test_what_new_method_writes_keeps_everything(schedule: bool, tmp_path: Path) -> None:
    new_method("mine", tmp_path / "methods", schedule)
    assert problems("mine", tmp_path, tmp_path / "methods") == dict.fromkeys(CHECKS)


def test_what_is_not_kept_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "methods" / "broken"
    folder.mkdir(parents=True)
    (folder / "method.py").write_text(BROKEN)
    found = problems("broken", tmp_path, tmp_path / "methods")
    assert "guidance.cfg" in (found["settings"] or "")
    assert found["timesteps"] == "t depends on the other runs of the pack"
    assert "are not those of a packed one" in (found["runs"] or "")
