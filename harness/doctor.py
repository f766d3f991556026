"""`harness doctor`: whether this machine has what a preset needs, and how it gets there."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.config import ENCODERS, Config, Execution, UserError, named_line, nearest
from harness.console import busy, say
from harness.guidance import hub
from harness.guidance.folder import pinned
from harness.presets import DEFAULT, load, preset
from harness.scene.kind import settle

if TYPE_CHECKING:
    from eval.scorers.preference import Weights

GIB = 1024**3


@dataclass(frozen=True)
class Check:
    """One thing looked at. `needed`: the preset does not work without it; `facts`: the same for programs."""

    name: str
    status: Literal["ok", "missing", "problem"]
    text: str
    needed: bool = True
    facts: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        status = self.status if self.needed or self.status == "ok" else f"({self.status})"
        return f"{status:<10} {self.name:<16} {' '.join(self.text.split())}"


def resolve(preset_name: str, prior: str | None, settings: Sequence[str]) -> Config:
    """The configuration asked about: the preset, `--set` applied, and the prior where one is named."""
    return settle(preset(preset_name), [*settings, *([f"guidance.prior={prior}"] if prior else [])])


def pin(config: Config) -> Config:
    """`config` with a folder's prior known by its content; UserError where it cannot be used."""
    return config.model_copy(update={"guidance": pinned(config.guidance)})


def scorers(preset_name: str, names: str) -> list[str]:
    """Comma-separated scorers, or the preset's own; UserError for an unknown one."""
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if not chosen:
        return list(load(preset_name).scorers)
    from eval.scorers.clip import repository

    for name in chosen:
        repository(name)
    return chosen


def tell(
    config: Config,
    clips: Sequence[str],
    out: Path,
    as_json: bool,
    estimate: bool = False,
    files: bool = False,
) -> bool:
    """Print every check, and where it is asked for what the file system of `out` does (`files`) and what a
    sweep costs (`estimate`); whether nothing that the preset needs is missing."""
    checks = []
    more = chain(file_system(out) if files else (), (cost(config) for _ in range(estimate)))
    for check in _in_turn(chain(examine(config, clips, out), more)):
        checks.append(check)
        if not as_json:
            say(str(check))
    lacking = [check.name for check in checks if check.needed and check.status != "ok"]
    if as_json:
        about = {"preset": config.preset, "ok": not lacking, "checks": [asdict(check) for check in checks]}
        print(json.dumps(about, indent=2, ensure_ascii=False))
    elif lacking:
        print(f"the {config.preset} preset needs what is missing: {', '.join(dict.fromkeys(lacking))}")
    else:
        print(
            f"everything that the {config.preset} preset needs is here (what is in brackets it does without)"
        )
    return not lacking


def _in_turn(checks: Iterator[Check]) -> Iterator[Check]:
    """The checks, each of which is told on a terminal while it takes its time."""
    while True:
        with busy("looking at what is here"):
            check = next(checks, None)
        if check is None:
            return
        yield check


def examine(config: Config, clips: Sequence[str], out: Path) -> Iterator[Check]:
    """Every check in turn; loads no model and contacts nobody but the local Slurm.

    Ends early where a package lacks or torch does not load: everything after that would fail for it.
    """
    from harness.records import environment

    packages = _packages()
    yield packages
    yield _code(environment.code_version())
    if packages.status != "ok":
        return
    try:
        env = environment.snapshot()
    except (ImportError, OSError) as error:  # OSError: a library that torch was built against
        yield Check("torch", "problem", f"{named_line(error)}; install it again")
        return
    from eval.scorers.clip import known

    yield from _device(env, config)
    yield from _backends()
    yield _hub()
    yield _prior(config)
    for name in [*clips, *(name for name in known() if name not in clips)]:
        yield _scorer(name, name in clips)
    yield from _metrics()
    yield _wandb()
    yield _slurm()
    yield _disk(out)


def cost(config: Config) -> Check:
    """Time and memory of the paper's comparison here: 153 prompts, 3 methods and 5 seeds.

    Measured on a few steps of one full pack, in a folder that is thrown away.
    """
    from harness.prompt import COCO
    from harness.sweep import grid
    from harness.sweep.display import duration
    from harness.sweep.pool import Pool

    suite = grid.read_suite(COCO)
    choices = grid.choose_methods("uniform_sds", [], [])
    specs = grid.expand(suite, choices, range(5), config)
    with tempfile.TemporaryDirectory(prefix="harness-doctor-") as folder:
        root = Path(folder)
        with Pool(root, specs, Execution(wandb="disabled"), scratch=True) as pool:
            plan = pool.plan()
            try:
                found = pool.measure(plan)
            except UserError as error:
                return Check("cost", "problem", str(error), needed=False)
    if not found.rate:
        return Check("cost", "problem", "; ".join(found.notes) or "nothing was measured", needed=False)
    runs = 3 * len(specs)
    seconds = runs * config.steps / found.rate
    facts = {"rate": found.rate, "memory_mb": found.memory, "pack": len(plan.packs[0]), "seconds": seconds}
    text = (
        f"{found.rate:.3g} steps/s and {found.memory / 1024:.1f} GiB with packs of {len(plan.packs[0])}: "
        f"{duration(seconds)} for {runs} runs (coco.txt × 3 methods × 5 seeds) of {config.steps} steps, "
        "without their views"
    )
    return Check("cost", "ok", text, needed=False, facts=facts)


def _packages() -> Check:
    from harness.records import environment

    found, python = environment.packages(), sys.version.split()[0]
    facts = {"python": python, "packages": found}
    # The first is this package: read from a checkout, it needs no installing.
    lacking = [name for name in environment.PACKAGES[1:] if name not in found]
    if lacking:
        return Check("packages", "missing", f"{', '.join(lacking)}: pip install -e .", facts=facts)
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    return Check("packages", "ok", f"Python {python}, {versions}", facts=facts)


def _code(git: dict[str, Any]) -> Check:
    if not git:
        text = "no git checkout: runs will not say which code made them"
        return Check("code", "missing", text, needed=False)
    changes = "with changes that are not committed" if git["dirty"] else "clean"
    return Check("code", "ok", f"commit {git['commit'][:12]}, {changes}", facts=git)


def _device(env: dict[str, Any], config: Config) -> Iterator[Check]:
    import torch

    from harness.device import cpu_has_bfloat16

    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    text = f"{env['cores']} cores, {memory / GIB:.1f} GiB, {env['processor']}"
    facts: dict[str, Any] = {"processor": env["processor"], "cores": env["cores"], "memory": memory}
    facts["bfloat16"] = cpu_has_bfloat16()
    text += ", bfloat16 " + ("in hardware" if facts["bfloat16"] else "in software, far slower than float32")
    yield Check("cpu", "ok", text, facts=facts)
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        gpus.append({"name": properties.name, "memory": properties.total_memory})
    if gpus:
        text = ", ".join(f"{gpu['name']} {gpu['memory'] / GIB:.1f} GiB" for gpu in gpus)
        yield Check("gpu", "ok", f"{text}; CUDA {torch.version.cuda}", facts={"gpus": gpus})
        return
    reason = "torch sees none" if torch.version.cuda else "this torch is built without CUDA"
    # A login node has none either, so that its absence is not held against the preset.
    advice = f"; the {config.preset} preset's jobs want one" if config.preset != DEFAULT else ""
    yield Check("gpu", "missing", reason + advice, needed=False, facts={"gpus": []})


def _backends() -> Iterator[Check]:
    import torch

    from harness.scene.encoders import choose_encoder, unavailable

    used = choose_encoder("cuda" if torch.cuda.is_available() else "cpu")
    for name in ENCODERS[1:]:
        reason = unavailable(name)
        facts = {"used": name == used}
        if reason:
            yield Check(f"encoder {name}", "missing", f"{reason}; {used} is used", needed=False, facts=facts)
        else:
            yield Check(
                f"encoder {name}", "ok", "used here" if name == used else "not used here", facts=facts
            )


def _hub() -> Check:
    variables = hub.job_environment()
    cache = Path(variables.get("HF_HUB_CACHE", Path(variables["HF_HOME"]) / "hub"))
    facts = {"cache": str(cache), "offline": hub.is_offline(), "free": _free(cache)}
    way = "HF_HUB_OFFLINE is set" if hub.is_offline() else "HF_HUB_OFFLINE is not set"
    return Check("hub", "ok", f"cache {cache}, {_free(cache) / GIB:.1f} GiB free, {way}", facts=facts)


def _prior(config: Config) -> Check:
    from harness.guidance import folder

    try:
        found = folder.find(config.guidance).stored
    except UserError as error:
        return Check("prior", "missing", str(error))
    text = _describe(found) + _how_to_pin(config, found)
    return Check("prior", "ok", text, facts=_facts(found))


def _scorer(name: str, needed: bool) -> Check:
    from eval.scorers import clip

    try:
        found = clip.find(name)
    except UserError as error:
        return Check("scorer", "missing", str(error), needed)
    return Check("scorer", "ok", _describe(found), needed, _facts(found))


def _metrics() -> Iterator[Check]:
    """What each metric needs, and whether the weights among that are here."""
    from eval.metric import known, why_missing

    for metric in known():
        pins = [need.weights for need in metric.needs if need.weights]
        lacking = [why for pin in pins if (why := why_missing(pin))]
        needs = ", ".join(need.name for need in metric.needs) or "nothing but runs"
        found = [] if lacking else [pin.find() for pin in pins]
        text = "; ".join([f"needs {needs}", *lacking, *map(_describe, found)])
        facts = {
            "needs": [need.name for need in metric.needs],
            "on_request": metric.on_request,
            "weights": [_facts(each) for each in found],
        }
        yield Check(f"metric {metric.name}", "missing" if lacking else "ok", text, needed=False, facts=facts)


def _pins(names: Sequence[str]) -> list[Weights]:
    """The weights that metrics are pinned to; UserError for an unknown metric and for one without any."""
    from eval.metric import known

    pins = {metric.name: [n.weights for n in metric.needs if n.weights] for metric in known()}
    for name in names:
        if not pins.get(name):
            why = "needs no weights" if name in pins else "is no metric"
            raise UserError(f"--metrics: {name} {why}{nearest(name, [n for n, own in pins.items() if own])}")
    return [pin for name in names for pin in pins[name]]


def _describe(found: hub.Stored) -> str:
    return f"{found.tag} {found.sha256[:12]} in {found.folder}"


def _facts(found: hub.Stored) -> dict[str, Any]:
    return {
        "tag": found.tag,
        "folder": str(found.folder),
        "commit": found.commit,
        "sha256": found.sha256,
        "bytes": sum(path.stat().st_size for path in found.files),
    }


def _how_to_pin(config: Config, found: hub.Stored) -> str:
    if found.commit is None or config.guidance.revision is not None:
        return ""
    return f"; its revision is not pinned, so give every sweep --set guidance.revision={found.commit}"


def _wandb() -> Check:
    from harness.records.tracking import default_mode

    key = bool(os.environ.get("WANDB_API_KEY"))
    mode = default_mode()
    text = f"{mode}, WANDB_API_KEY is {'set' if key else 'not set (a login in ~/.netrc is not used)'}"
    return Check("wandb", "ok", text, needed=False, facts={"mode": mode, "key": key})


def _slurm() -> Check:
    found = {name: shutil.which(name) for name in ("sbatch", "squeue", "scontrol", "sacct")}
    lacking = [name for name, path in found.items() if not path and name != "sacct"]
    if lacking:
        text = f"{', '.join(lacking)} not found: sweeps run on this machine alone"
        return Check("slurm", "missing", text, needed=False, facts={"commands": found})
    # Not squeue: it asks a dead controller again and again for seconds.
    silent = _why_not("scontrol", "ping")
    if silent:
        text = f"the controller does not answer: {silent}"
        return Check("slurm", "problem", text, needed=False, facts={"commands": found})
    # Sites without accounting are well served: states come from run folders and squeue.
    silent = _why_not("sacct", "--noheader", "--allocations") if found["sacct"] else "no sacct"
    text = f"the controller answers, {f'no accounting ({silent})' if silent else 'with accounting'}"
    return Check("slurm", "ok", text, needed=False, facts={"commands": found, "accounting": not silent})


def _why_not(*command: str) -> str | None:
    """Why a command of Slurm's failed, in one line; None where it did not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except subprocess.TimeoutExpired:
        return f"{command[0]} was silent for 10 s"
    except OSError as error:
        return named_line(error)
    if done.returncode == 0:
        return None
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return said[0] if said else f"{command[0]} ended with {done.returncode}"


def _disk(out: Path) -> Check:
    place = _existing(out)
    facts = {"folder": str(out.absolute()), "free": _free(out)}
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return Check("disk", "problem", f"{out}: {place} is no folder to write to", facts=facts)
    text = f"{_free(out) / GIB:.1f} GiB free for {out}"
    if _free(out) < GIB:
        return Check("disk", "problem", f"{text}; free some or choose another --out", facts=facts)
    return Check("disk", "ok", text, facts=facts)


def file_system(out: Path) -> Iterator[Check]:
    """What run folders rest on, tried where they will be: locks, renaming, fsync, O_EXCL, the clock."""
    from harness.records.probe import probe

    place = _existing(out)
    for found in probe(place):
        status = "problem" if found.broken else "ok"
        facts = {"folder": str(place)}
        yield Check(f"files {found.name}", status, found.broken or found.text, facts=facts)


def _existing(path: Path) -> Path:
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def _free(path: Path) -> int:
    return shutil.disk_usage(_existing(path)).free


@dataclass(frozen=True)
class Fetched:
    """Weights that are whole now, and whether anything had to be transferred for that."""

    weights: hub.Stored
    transferred: bool


def fetch(
    config: Config,
    clips: Sequence[str],
    say: Callable[[str], None],
    metrics: Sequence[str] = (),
    lock: Path | None = None,
) -> list[Fetched]:
    """Bring the prior, the scorers and metrics' weights into the Hub's cache, file by file where they are not
    there yet.

    Every weight file is read and hashed, and has to be what a `lock` says of it, if it says anything. Raises
    UserError where one cannot be had or is not the right one.
    """
    from eval.scorers import clip
    from harness.guidance import folder
    from harness.guidance.lock import Lock
    from harness.records.files import write_json

    locked = Lock.read(lock) if lock else Lock()
    cfg = config.guidance
    repo = cfg.prior if folder.is_on_hub(cfg) else None
    cfg = cfg.model_copy(update={"revision": locked.commit(repo, cfg.revision)})
    wanted: list[tuple[str | None, str | None, Sequence[str], Callable[[], hub.Stored]]] = [
        (repo, cfg.revision, folder.patterns(), lambda: folder.find(cfg).stored)
    ]
    # open_clip finds a scorer under its newest commit alone, so none is fetched at another.
    wanted += [(clip.repository(name), None, [clip.MODEL_FILE], partial(clip.find, name)) for name in clips]
    wanted += [(pin.repo, pin.commit, pin.files, pin.find) for pin in _pins(metrics)]
    done = []
    for repo, revision, patterns, find in wanted:
        got = _fetch(repo, revision, patterns, find, say)
        how = "fetched" if got.transferred else "already here"
        say(f"{how}: {_describe(got.weights)}" + ("" if done else _how_to_pin(config, got.weights)))
        if lock and repo:
            locked.hold(repo, got.weights)
            write_json(lock, locked.model_dump())
        done.append(got)
    return done


def fetch_and_tell(
    config: Config,
    clips: Sequence[str],
    as_json: bool,
    metrics: Sequence[str] = (),
    lock: Path | None = None,
) -> None:
    """`fetch`, and the environment with which jobs then run without a network."""
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    told = partial(print, file=sys.stderr if as_json else sys.stdout, flush=True)
    got = fetch(config, clips, told, metrics, lock)
    variables = hub.job_environment()
    if as_json:
        fetched = [_facts(each.weights) | {"transferred": each.transferred} for each in got]
        about = {"fetched": fetched, "environment": variables}
        print(json.dumps(about, indent=2, ensure_ascii=False))
    else:
        exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
        print(f"in jobs: export {exports}")


def _fetch(
    repo: str | None,
    revision: str | None,
    patterns: Sequence[str],
    find: Callable[[], hub.Stored],
    say: Callable[[str], None],
) -> Fetched:
    if repo is None:
        return Fetched(find(), transferred=False)
    here = hub.stored(repo, revision, patterns)
    # Damaged files go first: the Hub's client takes them for fetched ones.
    if here and not hub.drop_damaged(here, patterns):
        with suppress(UserError):
            return Fetched(find(), transferred=False)
    say(f"fetching {repo} at {revision or 'its newest commit'} …")
    damaged = hub.drop_damaged(hub.fetch(repo, revision, patterns), patterns)
    if damaged:
        raise UserError(f"{repo}: {damaged[0].name} arrived damaged; run the same command again")
    return Fetched(find(), transferred=True)
