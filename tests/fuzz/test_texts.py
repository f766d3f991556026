"""Values of the command line and texts of TOML files, drawn at random: one line, and no traceback.

FUZZ_SECONDS bounds each test; `make fuzz` gives it more than the few seconds of a usual run.
"""

from __future__ import annotations

import os
import random
import string
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli import main
from harness.config import Config, UserError, apply_overrides, override_keys, read_toml
from harness.presets import preset
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.sweep import grid

pytestmark = pytest.mark.fuzz
SECONDS = float(os.environ.get("FUZZ_SECONDS", "4"))
LEAST = 20  # inputs, also where a machine is busy
HANG_SECONDS = 30.0  # of one input, on a busy machine

NASTY = (
    "", " ", "0", "-1", "1e400", "nan", "inf", "9" * 5000, "-" + "9" * 240, "0-9999999999",
    "0-" + "9" * 30, "5-2",
    "[" * 5000, "{" * 5000, '{"a":' * 3000, "[" * 3000 + "]" * 3000, "null", "true", '"x"',
    "x" * 100_000, "x" * 300,
    "*" * 50_000, "*a" * 400, "\0", "a\nb", "\udcff\udcfe", "\ud800", "\x1b[31m", "[/red]",
    "[bold]", "..", "../..",
    "/", ".", "~", "~nobody", "/dev/full", "/dev/zero", "/proc/self/mem", "a/" * 3000, "=",
    "a=b=c", ",", ",,,", ":",
    "tp_sds:preset=1", "tp_sds:iclr:m=", "tp_sds:m1=" + "9" * 5000, "none", "None", "中文", "🦊",
    "%s%n", "${HOME}",
    "$(id)", "'; --", "-" * 300, "--", "-h", "\u202e", "1_000", "٣", "1.5.2", "0x10", "wandb:", "wandb:a/b",
)  # fmt: skip


def a_text(dice: random.Random) -> str:
    kind = dice.random()
    if kind < 0.5:
        return dice.choice(NASTY)
    if kind < 0.7:
        return dice.choice(NASTY) + dice.choice(NASTY)
    letters = string.printable + "\udc80\x00é中🦊\u202e[]{}=:,*-"
    return "".join(dice.choices(letters, k=dice.randint(0, 60)))


def for_seconds(what: str, trial: Callable[[random.Random], str]) -> Counter[str]:
    """Try until the time is over; how the trials ended. A trial that takes long is a hang."""
    dice, ends, until = random.Random(0), Counter[str](), time.monotonic() + SECONDS
    while time.monotonic() < until or sum(ends.values()) < LEAST:
        started = time.monotonic()
        ends[trial(dice)] += 1
        assert time.monotonic() - started < HANG_SECONDS
    print(f"{what}: {sum(ends.values())} inputs, {dict(ends)}")
    return ends


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz") / "runs"
    for seed in range(3):
        RunFolder.create(root, RunSpec(method="tp_sds", prompt="a red bus", seed=seed))
    return root


def test_settings_seeds_and_filters(runs: Path) -> None:
    from harness.sweep.select import select

    keys = [*override_keys(Config), "nothing", ""]
    parsers: list[Callable[[str, random.Random], object]] = [
        lambda text, dice: apply_overrides(preset("toy"), [f"{dice.choice(keys)}={text}"]),
        lambda text, _: apply_overrides(preset("toy"), [text]),
        lambda text, _: grid.parse_seeds(text),
        lambda text, _: grid.choose_methods(text, []),
        lambda text, _: grid.choose_methods("tp_sds", [f"tp_sds.m1={text}"]),
        lambda text, _: read_toml(text, "x.toml"),
        lambda text, dice: read_toml(f"a = {text}\n[b]\nc = {text}", "x.toml"),
        lambda text, _: select(runs, [text]),
        lambda text, dice: select(runs, [f"{dice.choice(['seed', 'method', 'prompt', 'state'])}={text}"]),
    ]

    def trial(dice: random.Random) -> str:
        try:
            dice.choice(parsers)(a_text(dice), dice)
        except UserError:
            return "refused"
        return "taken"

    ends = for_seconds("settings", trial)
    assert ends["refused"] and ends["taken"]


def test_command_lines(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder of their own; nothing outside of it is written, and no command begins to compute."""
    monkeypatch.chdir(tmp_path)
    saved = tmp_path / "tracebacks"
    saved.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(saved))
    suite = tmp_path / "suite.txt"
    suite.write_text("a red bus\n")
    lines: list[list[str]] = [
        ["sweep", str(suite), "--dry-run", "--out", str(runs), "--set", "?", "--limit", "nothing"],
        ["sweep", "?", "--seeds", "0", "--limit", "0"],
        ["sweep", str(suite), "--seeds", "?", "--steps", "0"],
        ["sweep", str(suite), "--steps", "?", "--pack", "0"],
        ["sweep", str(suite), "--methods", "?", "--pack", "0"],
        ["sweep", str(suite), "--methods-dir", "?", "--pack", "0"],
        ["sweep", str(suite), "--preset", "?", "--pack", "0"],
        ["sweep", str(suite), "--pack", "?", "--steps", "0"],
        ["status", "?"],
        ["status", str(runs), "--why", "?"],
        ["show", "?", "--runs", str(runs)],
        ["cancel", "?", "seed=99", "--runs", str(runs)],
        ["retry", "?", "seed=99", "--runs", str(runs)],
        ["methods", "--methods-dir", "?"],
        ["new-method", "?", "--dir", "?"],
        ["?"],
        ["?", "?"],
        ["slurm", "profile", "show", "?"],
        ["reproduce", "?", "--dry-run"],
        ["prompts", "import-dreamfields", "?", "--out", "x.txt"],
        ["status", "--json", "?"],
    ]

    def trial(dice: random.Random) -> str:
        words = [a_text(dice) if word == "?" else word for word in dice.choice(lines)]
        # What no shell can hand over, and what would be a help or a completion.
        words = [word.replace("\0", "") for word in words]
        monkeypatch.setattr(sys, "argv", ["harness", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err, words
        files = list(saved.iterdir())
        assert not files, (words, files[0].read_text())
        if ended.value.code == 2:
            assert err.startswith("harness: ") and err.count("\n") == 1 and len(err) < 2000, words
        return f"exit {ended.value.code}"

    ends = for_seconds("command lines", trial)
    assert ends["exit 2"]
