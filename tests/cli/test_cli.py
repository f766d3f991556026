"""The command line: one-line errors, examples in every help, light and quick imports, completion."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.cli import _with_a_profile, main
from harness.cli.app import GROUPS
from harness.config import Config, UserError, override_keys
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, SuiteRef
from harness.sweep.request import Request

LIGHT = (["--help"], ["methods"], ["scenes"], ["sweep", "--help"])


def _call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["harness", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["swep"], "'sweep'"),
        (["sweep"], "prompts"),
        (["sweep", "prompts/coca.txt"], "coco.txt"),
        (["sweep", "prompts/smoke.txt", "--sed", "1"], "--seeds"),
        (["sweep", "prompts/smoke.txt", "--seeds", "2-0"], "backwards"),
        (["sweep", "prompts/smoke.txt", "--methods", "tp_sd"], "tp_sds"),
        (["sweep", "prompts/smoke.txt", "--methods", "tp_sds:iclrr"], "iclr"),
        (["sweep", "prompts/smoke.txt", "--preset", "papr"], "'paper'"),
        (["sweep", "prompts/smoke.txt", "--set", "scene.sampels=3"], "'scene.samples'"),
        (["sweep", "prompts/smoke.txt", "--set", "tp_sds.m11=3"], "m1"),
        (["sweep", "prompts/smoke.txt", "--methods", "tp_sds:m=-4"], "m: Input should be greater"),
        (
            ["sweep", "prompts/smoke.txt", "--set", "tp_sds.m1=3", "--methods", "uniform_sds"],
            "not in this sweep",
        ),
        (["sweep", "prompts/smoke.txt", "--pack", "big"], "auto"),
        (["sweep", "prompts/smoke.txt", "--steps", "0"], "--steps"),
        *(
            ([*command, "--wandb", "on"], "'on' is not one of 'online', 'offline', 'disabled'")
            for command in (["sweep", "smoke"], ["reproduce", "fig8"], ["search", "schedule"])
        ),
        (["sweep", "smoke", "--encoder", "nunba"], "'numba'"),
        (["reproduce", "fig6", "--size", "huge"], "'toy', 'paper'"),
        (["search", "schedule", "--size", "huge"], "'toy', 'paper'"),
        (["sync", "--to", "trackoi"], "'trackio'"),
        (["study", "judge", ".", "--judge", "clop"], "'clip'"),
        (["bench", "engin"], "'engine'"),
        (["export-to", "gpteval"], "'gpteval3d'"),
        (["status", "no-such-folder"], "no-such-folder"),
        (["tables", "no-such-folder", "r_precison"], "'r_precision'"),
        (["figures", "no-such-folder", "r_precison"], "'r_precision'"),
        (["turntable", "--runs", "no-such-folder"], "no-such-folder"),
        (["export", "no-such-run", "--format", "glbb"], "'glb'"),
        (["export", "no-such-run", "--format", "glb", "--out", "car.obj"], ".glb"),
        (["export", "runs", "--threshold", "3"], "--format parquet"),
        (["toyworld", "train", "clap"], "'clip'"),
        (["methods", "--methods-dir", "no-such-folder"], "no-such-folder"),
        (["new-method", "Bad-Name"], "lower-case"),
        (["doctor", "--preset", "papr"], "'paper'"),
        (["doctor", "--set", "guidance.revison=main"], "'guidance.revision'"),
        (["doctor", "--clip", "ViT-B-32-quickgelu/opnai"], "'ViT-B-32-quickgelu/openai'"),
        (["doctor", "--fetch", "--prior", "toy-ds"], "toy-sd"),
        (["make-prior", "--like", "sd144", "--random", "--out", "no-such-folder"], "'sd14'"),
        (["make-prior", "--like", "sd14", "--out", "no-such-folder"], "--random"),
        (["make-prior", "--like", "sd14", "--random", "--size", "tny", "--out", "no-such"], "'tiny'"),
    ],
)
def test_errors_are_one_line_with_exit_code_2(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert _call(monkeypatch, *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("harness: ") and err.count("\n") == 1 and says in err and "Value error" not in err


def test_a_prompt_outside_the_toy_world_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    suite = tmp_path / "s.txt"
    suite.write_text("a red bus\na golden zeppelin\n")
    assert _call(monkeypatch, "sweep", str(suite), "--out", str(tmp_path / "runs")) == 2
    err = capsys.readouterr().err
    assert "zeppelin" in err and "--preset paper" in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


COMMANDS = [
    *(["scenes"], ["check-scene"], ["check-method"]),
    *(["sweep"], ["status"], ["show"], ["methods"], ["new-method"], ["eval"], ["bench"], ["doctor"]),
    *(["prompts", "import-dreamfields"], ["toyworld", "show"], ["toyworld", "language"]),
    *(["toyworld", "train"], ["toyworld", "check"], ["make-prior"], ["turntable"], ["export"]),
    *(["study", "new"], ["study", "links"], ["study", "serve"]),
    *(["study", "results"], ["study", "export"], ["study", "judge"]),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert _call(monkeypatch, *command, "--help") == 0
    assert f"Example: harness {' '.join(command)}" in " ".join(capsys.readouterr().out.split())


def test_light_commands_import_no_torch(tmp_path: Path):
    RunFolder.create(tmp_path, RunSpec(method="tp_sds", prompt="a red bus", seed=0))
    for arguments in [*LIGHT, ["status", str(tmp_path)], ["show", "tp_sds", "--runs", str(tmp_path)]]:
        code = (
            "import sys; sys.argv = ['harness', *sys.argv[1:]]\n"
            "from harness.cli import main\n"
            "try: main()\n"
            "except SystemExit as end: assert not end.code\n"
            "heavy = {'torch', 'diffusers', 'wandb', 'pandas', 'matplotlib', 'numpy', 'PIL', 'scipy'}\n"
            "heavy &= set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, (arguments, done.stderr)


def test_runs_of_several_pools_are_refused_before_anything_is_loaded(tmp_path: Path):
    for seed, (name, digit) in enumerate([("coco", "a"), ("prompts", "b")]):
        suite = SuiteRef(name=name, sha256=digit * 64, size=2)
        spec = RunSpec(method="tp_sds", prompt="a bus", seed=seed, suite=suite)
        RunFolder.create(tmp_path, spec).finish({})
    code = (
        "import sys\nfrom harness.cli import main\n"
        "for command in ('eval', 'tables', 'figures', 'power'):\n"
        "    sys.argv = ['harness', command, *sys.argv[-1:]]\n"
        "    try: main()\n"
        "    except SystemExit as end: assert end.code == 2\n"
        "assert not {'torch', 'pandas', 'matplotlib', 'scipy'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 4 == done.stderr.count("suite=coco (1 run), suite=prompts (1 run)")


def test_a_process_ends_with_its_command():
    """Threads are waited for and exits are done, but nothing of what is loaded is taken apart."""
    code = (
        "import atexit, sys, threading, time\n"
        "class Kept:\n    def __del__(self): print('taken apart', flush=True)\n"
        "kept, over = Kept(), threading.Event()\natexit.register(print, 'exit')\n"
        "threading.Thread(target=lambda: (over.wait(), time.sleep(0.1), print('thread'))).start()\n"
        "import harness.cli\nrun = harness.cli.main\n"
        "def main():\n    try: run()\n    finally: over.set()\n"
        "harness.cli.main = main\nharness.cli.command()"
    )
    for word, code_of_it in (("methods", 0), ("methodz", 2)):
        done = subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True)
        assert done.returncode == code_of_it and done.stdout.endswith("thread\nexit\n"), done


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_for_three_shells(shell: str):
    words = {"bash": {"COMP_WORDS": "harness swe", "COMP_CWORD": "1"}}.get(
        shell, {"_TYPER_COMPLETE_ARGS": "harness swe", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    )
    code = "import sys; sys.argv = ['harness']; from harness.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | words | {"_HARNESS_COMPLETE": f"complete_{shell}"},
    )
    assert "sweep" in done.stdout, (done.stdout, done.stderr)


TP_SDS = ("v1", "iclr", "prior_only", "snr_only", "reversed", "random", "pgc")  # its presets


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("harness reproduce con", {"constant", "controls", "controls_image", "convergence"}),
        ("harness search sch", {"schedule"}),
        ("harness tables runs r_pre", {"r_precision", "r_precision_steps"}),
        ("harness figures runs grad", {"gradients"}),
        ("harness export run --format p", {"parquet", "ply"}),
        ("harness sweep smo", {"smoke"}),
        ("harness sweep coco --wandb o", {"online", "offline"}),
        ("harness sweep coco --set guidance.cfg_s", {"guidance.cfg_scale="}),
        (
            "harness sweep coco --methods sds,tp_",
            {"sds,tp_sds", *(f"sds,tp_sds:{preset}" for preset in TP_SDS)},
        ),
        ("harness sweep coco --methods csd@linear_decay:t", {"csd@linear_decay:truncated"}),
        ("harness check-method rfds_", {"rfds_rev", "rfds_rev:instaflow"}),
    ],
)
def test_what_is_completed(line: str, shown: set[str]):
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_HARNESS_COMPLETE": "complete_bash"}
    code = (
        "import atexit, sys; sys.argv = ['harness']; heavy = {'torch', 'pandas', 'matplotlib', 'scipy'}\n"
        "atexit.register(lambda: print(*heavy & {*sys.modules}, file=sys.stderr))\n"
        "from harness.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | words
    )
    assert set(done.stdout.split()) == shown and not done.stderr.strip(), done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--slurm", "smoke"],
        ["--slurm", "x.csv:prompt"],
        ["--slurm", "list"],
        ["--slurm", "schedule"],
        ["--slurm", "a.txt"],
        ["--slurm", "--dry-run"],
        ["smoke", "--slurm"],
    ],
)
def test_slurm_alone_is_the_one_profile(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slurm-profiles").mkdir()
    (tmp_path / "slurm-profiles" / "mine.toml").touch()
    (tmp_path / "list").touch()
    at = arguments.index("--slurm") + 1
    assert _with_a_profile(arguments) == [*arguments[:at], "mine", *arguments[at:]]
    for named in ("mine", "mistyped", "site.toml"):
        assert _with_a_profile(["smoke", "--slurm", named]) == ["smoke", "--slurm", named]


def test_a_benchmark_runs_with_and_without_a_bar(monkeypatch: pytest.MonkeyPatch):
    ran = []
    monkeypatch.setattr("eval.sources.bench_logs.run", lambda: ran.append(0) or SimpleNamespace(ok=False))
    assert _call(monkeypatch, "bench", "logs") == 0 and _call(monkeypatch, "bench", "logs", "--check") == 1
    assert len(ran) == 2


def test_status_and_show_speak_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = RunFolder.create(tmp_path, RunSpec(method="tp_sds", prompt="a red bus", seed=0))
    folder.append_metrics([{"step": 10, "time": 1.0, "loss": 2.0}])
    folder.finish({"steps": 400})
    assert _call(monkeypatch, "status", str(tmp_path), "--json") == 0
    status = json.loads(capsys.readouterr().out)
    assert status["total"]["done"] == 1 and status["methods"][0]["method"] == "tp_sds"
    assert _call(monkeypatch, "show", folder.id, "--runs", str(tmp_path), "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (
        shown["status"] == "done" and shown["last_metrics"]["loss"] == 2.0 and shown["prompt"] == "a red bus"
    )
    assert _call(monkeypatch, "show", folder.id, "--runs", str(tmp_path)) == 0
    assert "a red bus" in capsys.readouterr().out
    assert _call(monkeypatch, "status", str(tmp_path)) == 0
    assert "tp_sds" in capsys.readouterr().out


def test_import_dreamfields_writes_a_suite_and_names_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from harness.sweep.grid import read_suite

    source, out = tmp_path / "q.py", tmp_path / "suite.txt"
    source.write_text("queries = [" + ", ".join(f"'Thing {k}.'" for k in range(153)) + "]")
    assert _call(monkeypatch, "prompts", "import-dreamfields", str(source), "--out", str(out)) == 0
    suite = read_suite(out)
    assert len(suite.prompts) == 153 and suite.sha256 in capsys.readouterr().out
    assert _call(monkeypatch, "prompts", "import-dreamfields", str(source), "--out", str(out)) == 2


def test_a_group_alone_is_help_and_commands_are_grouped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for group in ([], ["study"], ["slurm"], ["slurm", "profile"]):
        assert _call(monkeypatch, *group) == 0
        out, err = capsys.readouterr()
        assert out.startswith("Usage: ") and "\n\nOptions:\n" in out and not err
    assert _call(monkeypatch, "--help") == 0
    out = capsys.readouterr().out
    assert [f"\n{title}:\n" in out for title in ("Run", "Look", "Analyse", "Cluster", "Extend")] == [True] * 5
    assert all(f"\n  {name} " in out for group in GROUPS.values() for name in group)
    assert all(len(line) <= 80 for line in out.splitlines())
    assert _call(monkeypatch, "--version") == 0 and "dreamtime-harness" in capsys.readouterr().out


def test_every_setting_is_listed_with_its_meaning_and_source(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert _call(monkeypatch, "settings", "paper", "--json") == 0
    found = {each["key"]: each for each in json.loads(capsys.readouterr().out)}
    assert found.keys() == set(override_keys(Config)) and all(each["meaning"] for each in found.values())
    scale, range_ = found["guidance.cfg_scale"], found["guidance.t_range"]
    assert (scale["value"], scale["source"], range_["source"]) == (50.0, "paper: v1", "default")
    assert _call(monkeypatch, "settings") == 0 and "optim.clip_pixel" in capsys.readouterr().out


def test_prompts_are_named_by_hand(tmp_path: Path):
    suite = tmp_path / "three.txt"
    suite.write_text("a red cup\na blue cup\na red car\n")

    def prompts(path: Path | None, *texts: str, **more: Any) -> tuple[int, set[str]]:
        found, specs = Request(path, methods="sds", texts=texts, **more).resolve(lambda _: None)
        assert {spec.method for spec in specs} == {"uniform_sds"}
        return len(found.prompts), {spec.prompt for spec in specs}

    assert prompts(None, "a red car", "a blue cup") == (2, {"a red car", "a blue cup"})
    assert prompts(suite, "A red car.") == (3, {"a red car"})
    with pytest.raises(UserError, match="'a red bus' is not in"):
        prompts(suite, "a red bus")
    with pytest.raises(UserError, match="--limit, --spread and --split choose none"):
        prompts(suite, "a red car", limit=1)
