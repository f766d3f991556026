"""Each file of a run damaged in every way, and every command over it: the others do not notice.

FUZZ_SECONDS is how long it goes on (a short while by default; `make fuzz` takes longer), FUZZ_SEED what is
drawn. `python -m pytest -s` shows the figures of docs/reliability.md.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import random
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from starlette.testclient import TestClient

from eval.command import open_runs, write_tables
from eval.figures.write import write_figures
from eval.metrics.r_precision import RPrecision
from eval.preference.making import new_study, parse_questions
from eval.report.live import application
from eval.report.results import results
from eval.report.write import write_report
from harness.cli import app
from harness.config import Execution, UserError
from harness.distill.method import load_method
from harness.distill.runner import advance
from harness.records.folder import RunFolder, run_folders
from harness.records.identity import RunSpec, run_id
from harness.records.schema import FILES, FOLDERS, LEASE, NOTE
from harness.sweep import gc
from harness.sweep.grid import make_suite, write_suite
from harness.sweep.plan import make_plan
from harness.sweep.status import sweep_status
from harness.sweep.worker import Worker
from slurm import site
from slurm.launches import Launch
from slurm.profile import Profile
from tests import tinyruns
from tests.eval.conftest import PROMPTS, write_clip
from tests.fuzz.damage import DAMAGES

SECONDS = float(os.environ.get("FUZZ_SECONDS", "40"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
HANG_SECONDS = 60
HEAVY_EVERY = 8  # a sweep, tables, figures, a report: of every so many inputs, and only in a long run
LONG_SECONDS = 120
TOKEN = "t" * 43


class Hang(BaseException):
    """A command that took longer than any may."""


@dataclass
class World:
    """A folder of real tiny runs, a folder outside of it that nothing may touch, and copies to damage."""

    template: Path
    root: Path
    outside: Path
    results: Path
    clip: Path
    specs: list[RunSpec]
    victims: list[str]
    others: list[str]

    def fresh(self) -> None:
        """The runs as they were."""
        for folder in (self.root, self.results):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.template, self.root, symlinks=True)
        self.results.mkdir()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_prior: Path) -> World:
    base = tmp_path_factory.mktemp("fuzz")
    template, outside = base / "template", base / "outside"
    (outside / "tree" / "below").mkdir(parents=True)
    (outside / "secret.txt").write_text("a secret of the system\n")
    (outside / "tree" / "below" / ".state.json.1.0.tmp").write_text("not ours")
    suite = make_suite("six", PROMPTS, "the test")
    config = tinyruns.config(tiny_prior)
    specs = [
        RunSpec(
            method=method,
            params=load_method(method).resolve({}, method).model_dump(mode="json"),
            prompt=prompt,
            seed=0,
            config=config,
            suite=suite.ref,
        )
        for method in ("uniform_sds", "tp_sds")
        for prompt in PROMPTS[:4]
    ]
    folders = [RunFolder.create(template, spec) for spec in specs]
    write_suite(template, suite)
    ids = [folder.id for folder in folders]
    others, victims = ids[:4], ids[4:]
    advance(template, others[:1], tinyruns.execution())
    advance(template, victims[:1], tinyruns.execution(keep_params=True))
    advance(template, victims[1:2], tinyruns.execution(checkpoint_every=1), *tinyruns.stop_after(2))
    RunFolder(template / victims[2]).record_death(why="killed", host="here")
    RunFolder(template / victims[2]).cancel()
    failed = RunFolder(template / victims[3])
    failed.save_state(step=3, total=tinyruns.STEPS, rate=1.0, time=2.0)
    failed.fail("diverged [again]", 3, "a detail")
    done = RunFolder(template / victims[0])
    done.turntable.mkdir()
    done.mesh.mkdir()
    shutil.copy(done.views_path(tinyruns.STEPS), done.turntable / "colour.webp")
    (done.turntable / "turntable.json").write_text('{"version": 1, "files": ["colour.webp"]}')
    (done.mesh / "object.glb").write_bytes(b"glTF")
    note = {"server": "s", "entity": "e", "project": "p", "step": 7, "record": "r"}
    (done.path / NOTE).write_text(json.dumps(note))
    lease = RunFolder(template / victims[1]).acquire("one that died")
    assert lease
    lease._over.set()  # it beats no more
    os.utime(template / victims[1] / LEASE, (1, 1))
    Launch.prepare(template, "harness sweep", "p", Profile(), Execution(), [[victims[:2], others[:2]]])
    made = World(
        template, base / "runs", outside, base / "results", base / "toy-tiny", specs, victims, others
    )
    made.fresh()
    if SECONDS >= LONG_SECONDS:
        write_clip(made.clip)
        tables(made, victims[0])
    # What is slow to compute of the runs is there from now on, as in a folder that was evaluated before.
    for folder in run_folders(made.root):
        if folder.eval.is_dir():
            shutil.copytree(folder.eval, template / folder.id / "eval", dirs_exist_ok=True)
    return made


def harness(*words: str) -> str:
    """What a command prints; raises as it does."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()):
        app(list(words), standalone_mode=False)
    return out.getvalue()


# ---- the commands: each returns what it says of the other runs


def status(world: World, victim: str) -> Any:
    told = json.loads(harness("status", str(world.root), "--json"))
    harness("status", str(world.root))
    rows = [row for row in told["methods"] if row["method"] == "uniform_sds"]
    for row in rows:
        row.pop("seconds_left")
    return rows, [each for each in told["failures"] if each["run"] != victim]


def show(world: World, victim: str) -> Any:
    if any(folder.id == victim for folder in run_folders(world.root)):
        harness("show", victim, "--runs", str(world.root))
        harness("show", victim, "--runs", str(world.root), "--json")
        harness("status", str(world.root), "--why", victim)
    return [harness("show", run, "--runs", str(world.root)) for run in world.others[:2]]


def plan(world: World, victim: str) -> Any:
    found = make_plan(world.root, world.specs, 4, retry_failed=True, asked=True)
    found.summary()
    states = {name: getattr(found, name) for name in ("new", "resume", "done", "failed", "cancelled")}
    return {name: [run for run in runs if run != victim] for name, runs in states.items()}


def export(world: World, victim: str) -> Any:
    out = world.results / "logs.csv"
    harness("export", str(world.root), "--out", str(out))
    return [row for row in csv.DictReader(out.read_text().splitlines()) if row["run"] != victim]


def waste(world: World, victim: str) -> Any:
    gc.discard(world.root, gc.find_waste(world.root).waste)
    gc.purge(gc.trashed(world.root))
    return [fingerprint(world.root / run) for run in world.others]


def watch(world: World, victim: str) -> Any:
    found: dict[str, Any] = {}
    with TestClient(application(world.root, TOKEN), base_url="http://127.0.0.1") as client:
        assert client.get(f"/?token={TOKEN}").status_code == 200
        told = client.get("/data/runs.js")
        assert told.status_code == 200
        index = json.loads(told.text.partition("=")[2].rstrip(";\n"))
        for path in ("/data/results.js", "/live.json?since=0", f"/data/run/{victim}.js"):
            assert client.get(path).status_code in (200, 404)
        for name in ("thumb.webp", "turn.webp", "film.webp", "object.glb"):
            answer = client.get(f"/media/{victim}/{name}")
            assert answer.status_code in (200, 404) and b"secret" not in answer.content
            for run in world.others[:1]:
                found[name] = hashlib.sha256(client.get(f"/media/{run}/{name}").content).hexdigest()
        found["runs"] = [
            entry | {"prompt": 0, "method": 0, "suite": 0} for entry in index["runs"] if entry["id"] != victim
        ]
        found["pages"] = [client.get(f"/data/run/{run}.js").text for run in world.others]
    return found


def tracked(world: World, victim: str) -> Any:
    with suppress(UserError, typer.Exit):
        harness("sync", str(world.root))
    return None


def turntables(world: World, victim: str) -> Any:
    from harness.objects.final import load
    from harness.objects.turntable import is_there

    is_there(RunFolder(world.root / victim), 4, 15.0, 16)
    with suppress(UserError, typer.Exit):
        load(RunFolder(world.root / victim))
    return None


def altered(world: World, victim: str) -> Any:
    """What writes: the last of all."""
    assert harness("cancel", "seed=0", "--runs", str(world.root))
    assert harness("retry", "--runs", str(world.root))
    return [(RunFolder(world.root / run).status()) for run in world.others]


def tables(world: World, victim: str) -> Any:
    study = open_runs(world.root, clip=str(world.clip), device="cpu")
    with redirect_stdout(io.StringIO()):
        write_tables(study, ["r_precision", "signatures"], world.results / "tables")
    scores = study.of(RPrecision).scores
    frame = scores.loc[scores["run"] != victim]
    return frame.to_json(orient="records")


def figures(world: World, victim: str) -> Any:
    study = open_runs(world.root, clip=str(world.clip), device="cpu")
    write_figures(study, ["methods_grid"], world.results / "figures", "test")
    return None


def report(world: World, victim: str) -> Any:
    def numbers() -> dict[str, Any]:
        return results(open_runs(world.root, clip=str(world.clip), device="cpu"))

    out = world.results / "report"
    write_report(world.root, out, numbers, lambda line: None)
    return [(out / "data" / "run" / f"{run}.js").read_text() for run in world.others]


def preference(world: World, victim: str) -> Any:
    out = world.results / "study"
    with suppress(UserError):  # no pair is left where the victim was one of two
        new_study(world.root, ["tp_sds", "uniform_sds"], out, questions=parse_questions(["overall"]))
    return None


def sweep(world: World, victim: str) -> Any:
    """As a worker is told to by a sweep, which has written anew what it knows."""
    found = make_plan(world.root, world.specs, 4, retry_failed=True, asked=True)
    specs = {run_id(spec): spec for spec in world.specs}
    for run in (victim, world.others[1]):
        if run in found.todo:
            folder = RunFolder.create(world.root, specs[run])
            folder.forget_failure()
            folder.uncancel()
            Worker(world.root, tinyruns.execution(), io.StringIO()).advance([run])
            assert folder.status() in ("done", "failed", "damaged"), folder.status()
    return RunFolder(world.root / world.others[1]).status()


Command = Callable[[World, str], Any]
LIGHT: dict[str, Command] = {
    "status": status, "show": show, "plan": plan, "export": export, "gc": waste, "watch": watch,
    "sync": tracked, "turntable": turntables,
}  # fmt: skip
HEAVY: dict[str, Command] = {
    "tables": tables,
    "figures": figures,
    "report": report,
    "study": preference,
    "sweep": sweep,
}
LAST: dict[str, Command] = {"cancel and retry": altered}


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    def ring(signum: int, frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fingerprint(folder: Path) -> dict[str, str]:
    """Every entry below, by what it holds; `moved`, which is damage itself, by what it held."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        data = path.read_bytes() if kind == "file" and path.is_file() else b""
        found[f"{kind} {path.relative_to(folder)}"] = hashlib.sha256(data).hexdigest()
    return found


def targets(world: World) -> list[tuple[str, str]]:
    """Every known file of every victim, those inside of its folders, the folder itself, and the launch."""
    found = []
    for victim in world.victims:
        there = {
            str(path.relative_to(world.template / victim)) for path in (world.template / victim).rglob("*")
        }
        found += [(victim, name) for name in sorted(there | {*FILES, *FOLDERS, "."})]
    (launch,) = (world.template / "slurm").glob("*/launch.json")
    return [*found, (world.victims[0], f"../slurm/{launch.parent.name}/launch.json")]


@pytest.mark.journey
def test_one_damaged_run_is_told_and_the_others_do_not_notice(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(site, "here", lambda: False)
    monkeypatch.setattr(gc, "AGE_SECONDS", -10.0)  # nothing is too young to be taken for waste
    dice = random.Random(SEED)
    inputs = [(victim, name, damage) for victim, name in targets(world) for damage in DAMAGES]
    dice.shuffle(inputs)
    ends = time.monotonic() + SECONDS
    told: Counter[str] = Counter()
    undamaged: dict[tuple[str, str], Any] = {}
    problems: list[str] = []
    slowest = 0.0

    def carried_out(name: str, command: Command, victim: str) -> Any:
        nonlocal slowest
        began = time.monotonic()
        with alarm(HANG_SECONDS):
            found = command(world, victim)
        slowest = max(slowest, time.monotonic() - began)
        return found

    for number in range(len(inputs)):
        if time.monotonic() > ends and number >= 2 * HEAVY_EVERY:
            break
        victim, name, damage = inputs[number]
        is_heavy = SECONDS >= LONG_SECONDS and number % HEAVY_EVERY == 0
        commands = LIGHT | (HEAVY if is_heavy else LAST)  # a sweep, too, is the last of all
        for each in commands:
            if (each, victim) not in undamaged:
                world.fresh()
                undamaged[each, victim] = carried_out(each, commands[each], victim)
        world.fresh()
        about = f"seed {SEED}, {damage} of {name} in {victim}"
        DAMAGES[damage](world.root / victim / name, world.outside, dice)
        before = fingerprint(world.outside)
        look = RunFolder(world.root / victim).look()
        told[look.status] += 1
        rows = [each["run"] for each in sweep_status(world.root).damages]
        if (look.status == "damaged") != (victim in rows):
            problems.append(f"{about}: status tells {rows} of a run that is {look.status}")
        for each, command in commands.items():
            try:
                found = carried_out(each, command, victim)
            except UserError as error:
                # Sweep that can be read and do not belong together are refused together.
                if each not in HEAVY or look.status == "damaged":
                    problems.append(f"{about}: {each} refused: {error}")
                continue
            except (Hang, Exception):
                problems.append(f"{about}: {each}\n{traceback.format_exc()}")
                continue
            if found != undamaged[each, victim]:
                problems.append(f"{about}: {each} says other things of the others")
            if fingerprint(world.outside) != before:
                problems.append(f"{about}: {each} touched what is outside")
        shutil.rmtree(world.outside / "moved", ignore_errors=True)
        (world.outside / "moved").unlink(missing_ok=True)
    tried = sum(told.values())
    print(f"\n{tried} of {len(inputs)} inputs, {dict(told)}, slowest command {slowest:.1f} s")
    assert not problems, f"{len(problems)} problems\n" + "\n".join(problems[:40])
    assert told["damaged"] > tried / 4
