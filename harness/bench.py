"""`harness bench`: how fast, as ratios of things measured side by side in one process.

Each variant runs in short rounds, taken in turn, and its median counts: a machine that slows down for a while
slows all of them. Times are per run and step.
"""

import copy
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from harness import rng
from harness.config import Config, Execution, UserError
from harness.console import Console
from harness.device import fix_workspaces, peak_memory_mb, pick_device
from harness.distill import assemble, runner, step
from harness.distill.events import Stepped, Told
from harness.distill.method import Method
from harness.guidance.prior import Guidance
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.scene.encoders import choose_encoder
from harness.scene.kind import make_scene
from harness.threads import CHOICES, cores

R = 16
METHOD = "uniform_sds"
PROMPT = "a white cup with a red handle"


@dataclass(frozen=True)
class Figure:
    """A measured ratio and the bar it is held to."""

    name: str
    value: float
    bar: float
    at_least: bool

    @property
    def ok(self) -> bool:
        """Whether the bar is met."""
        return self.value >= self.bar if self.at_least else self.value <= self.bar


def run(
    config: Config,
    check: bool = False,
    rounds: int = 7,
    console: Console | None = None,
    requested: str = "auto",
) -> int:
    """Measure, print ratios first, and return the exit code: 1 where `check` and a bar is missed."""
    console = console or Console()
    fix_workspaces()  # one variant is deterministic
    device = torch.device(pick_device("auto"))
    encoder = choose_encoder(str(device), requested)
    guidance = Guidance.load(config.guidance, device)
    # The usual loop calls the denoiser with its own two samples, as it is, and pads nothing.
    bare, alone = Guidance.load(config.guidance, device), guidance
    bare.cfg = config.guidance.model_copy(update={"microbatch": 2})
    if config.guidance.compiled(config.steps, str(device)):
        guidance.compile()
        alone = copy.copy(guidance)  # compiled code keeps the largest batch it has met
    on_gpu = device.type == "cuda"
    turn = 10 if on_gpu else 2  # a GPU is waited for as often as the runner waits: when it logs
    packed = make_pack(config, guidance, R, encoder)
    variants: dict[str, Callable[[], float]] = {
        "packed": steps(packed, turn),
        "solo": steps(make_pack(config, alone, 1, encoder), 2 * turn),
        "solo, no padding": steps(make_pack(config, bare, 1, encoder), 2 * turn),
        "usual loop": steps(make_pack(config, bare, 1, "torch"), 4),
        "denoiser": denoiser_calls(guidance, packed, turn),
        "field, fused": field_calls(packed, encoder, 4),
        "field, reference": field_calls(packed, "torch", 1),
    }
    if on_gpu:
        variants["packed, deterministic"] = deterministically(variants["packed"])
    if guidance.is_compiled:
        variants["denoiser, not compiled"] = denoiser_calls(bare, packed, 2)
    times = in_turn(variants, rounds)
    solo = min(times["solo"], times["solo, no padding"])
    figures = [
        Figure(
            f"packed (R={R}) against solo, the faster of padded and not",
            solo / times["packed"],
            3.0 if on_gpu else 1.8,
            True,
        ),
        Figure(f"packed (R={R}) against the usual loop", times["usual loop"] / times["packed"], 5.0, True),
        Figure(
            "packed step over the denoiser alone",
            times["packed"] / times["denoiser"],
            1.3 if on_gpu else 1.7,
            False,
        ),
        Figure(
            "fused field against its reference", times["field, reference"] / times["field, fused"], 1.0, True
        ),
    ]
    if not on_gpu:  # there the books are kept while the device works
        share = bookkeeping_share(config, steps=100)
        figures.append(Figure("logging, cameras and bookkeeping, share of the loop", share, 0.03, False))
    tell(figures, times, "ms per run and step", console)
    for line in floor(guidance, packed, times):
        console.print(line, soft_wrap=True)
    threads = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads"
    how = f"{config.guidance.dtype}{', compiled' * guidance.is_compiled}, encoder {encoder}"
    console.print(f"{device} ({threads}), prior {guidance.tag}, {how}")
    return int(check and not all(figure.ok for figure in figures))


def tell(figures: Sequence[Figure], times: dict[str, float], unit: str, console: Console) -> None:
    """The ratios against their bars, then the times they are of."""
    table = Table("ratio", "measured", "bar", "")
    for figure in figures:
        sign = "≥" if figure.at_least else "≤"
        table.add_row(
            figure.name, f"{figure.value:.3g}", f"{sign} {figure.bar:g}", "ok" if figure.ok else "missed"
        )
    console.print(table)
    table = Table("variant", unit)
    for name, seconds in times.items():
        table.add_row(name, f"{seconds * 1e3:.2f}")
    console.print(table)


def floor(guidance: Guidance, pack: step.Pack, times: dict[str, float]) -> list[str]:
    """How far the packed step is from the arithmetic of its denoiser at the machine's measured peak."""
    device, runs = guidance.device, len(pack.keys)
    with FlopCounterMode(display=False) as counter:
        denoiser_calls(guidance, pack, 1)()
    flops = counter.get_total_flops() / runs
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(guidance.dtype) for _ in range(2))
    seconds = in_turn({"matmul": lambda: timed(lambda: a @ b, 10, 1, device)}, 3)["matmul"]
    peak = 2 * side**3 / seconds
    used = flops / times["denoiser"] / peak
    share = f"the denoiser {100 * used:.0f} % of that"
    times_floor = times["packed"] * peak / flops
    lines = [
        f"denoiser: {flops / 1e9:.2f} GFLOP per run and step; matmul: {peak / 1e12:.3g} TFLOP/s, {share}",
        f"floor: {flops / peak * 1e3:.2f} ms; the packed step is {times_floor:.2f} times that",
    ]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step.step(pack)
        lines.append(f"memory: {peak_memory_mb(device) / 1024:.1f} GiB for a pack of {runs}")
    per_run = pack.config.steps * times["packed"]
    lines.append(
        f"on this device {pack.config.steps} steps take {per_run / 60:.1f} minutes, and the 2 295 runs of "
        f"coco.txt, 3 methods and 5 seeds {2295 * per_run / 3600:.1f} hours"
    )
    return lines


def make_pack(
    config: Config, guidance: Guidance, runs: int, encoder: str, method: Method | None = None
) -> step.Pack:
    """A fresh pack of `runs` seeds of one prompt; of `METHOD` where none is given."""
    method = method or assemble.make_method(config, guidance, METHOD, {})
    keys = [rng.Key(PROMPT, seed) for seed in range(runs)]
    return assemble.make_pack(config, guidance, method, keys, encoder)


def in_turn(variants: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median over rounds of what each variant returns, after one round that is not counted."""
    seen: dict[str, list[float]] = {name: [] for name in variants}
    for index in range(rounds + 1):
        for name, measure in variants.items():
            seconds = measure()
            if index:
                seen[name].append(seconds)
    return {name: statistics.median(values) for name, values in seen.items()}


def timed(call: Callable[[], Any], repeats: int, runs: int, device: torch.device) -> float:
    """Seconds per call and run."""
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / repeats / runs


def steps(pack: step.Pack, repeats: int) -> Callable[[], float]:
    """Whole steps of a pack, as the runner takes them."""
    return lambda: timed(lambda: step.step(pack), repeats, len(pack.keys), pack.guidance.device)


def denoiser_calls(guidance: Guidance, pack: step.Pack, repeats: int) -> Callable[[], float]:
    """The denoiser alone, at the pack's batch."""
    runs = len(pack.keys)
    x_t = torch.randn(runs, *guidance.latent_shape, device=guidance.device)
    t_R = torch.full((runs,), 500)
    cond_RLD = guidance.embed([key.prompt for key in pack.keys])
    return lambda: timed(lambda: guidance.predict_noise(x_t, t_R, cond_RLD), repeats, runs, guidance.device)


def field_calls(pack: step.Pack, encoder: str, repeats: int) -> Callable[[], float]:
    """Forward and backward of the field at the points of one render."""
    scene, runs, device = pack.config.scene, len(pack.keys), pack.guidance.device
    field = make_scene(scene, pack.guidance.latent_shape[0], str(device), encoder)
    x_RN3 = torch.rand(runs, scene.resolution**2 * scene.samples, 3, device=device) * 2 - 1

    def call() -> None:
        params = {name: value.detach().requires_grad_() for name, value in pack.params.items()}
        density_RN, latent_RNC = field.query(params, x_RN3)
        (density_RN.sum() + latent_RNC.sum()).backward()

    return lambda: timed(call, repeats, runs, device)


def deterministically(measure: Callable[[], float]) -> Callable[[], float]:
    """The same under torch's deterministic algorithms."""

    def measured() -> float:
        torch.use_deterministic_algorithms(True)
        try:
            return measure()
        finally:
            torch.use_deterministic_algorithms(False)

    return measured


def spread(config: Config, seeds: int = 4, console: Console | None = None) -> int:
    """How far a seed's last views are from those of its reruns, and from another seed's.

    Root mean square over pixels, as a share of full scale. Returns the exit code, 0.
    """
    console = console or Console()
    views: list[list[np.ndarray]] = []
    for pack in (seeds, seeds, 1):
        with tempfile.TemporaryDirectory() as root:
            ids = []
            for seed in range(seeds):
                spec = RunSpec(method=METHOD, params={}, prompt=PROMPT, seed=seed, config=config)
                ids.append(RunFolder.create(Path(root), spec).id)
            for start in range(0, seeds, pack):
                runner.advance(root, ids[start : start + pack], Execution(wandb="disabled"))
            folders = [RunFolder(Path(root) / run) for run in ids]
            views.append([folder.views(config.steps).astype(np.float64) / 255 for folder in folders])

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(np.mean((a - b) ** 2)))

    same, alone = (statistics.mean(distance(views[0][s], v[s]) for s in range(seeds)) for v in views[1:])
    other = statistics.mean(distance(views[0][a], views[0][b]) for a in range(seeds) for b in range(a))
    console.print(f"a seed again: {same:.5f}; again, by itself: {alone:.5f}; another seed: {other:.5f}")
    console.print(
        f"{seeds} seeds, {config.steps} steps on {pick_device('auto')}, prior {config.guidance.prior}"
    )
    return 0


def contention(config: Config, check: bool = False, rounds: int = 7, console: Console | None = None) -> int:
    """How much slower work on a CPU gets beside busy processes on half of the cores, and what it costs alone
    that threads sleep while they wait (`harness.threads`). Returns the exit code as `run`.

    Two processes that differ only in how their threads wait take turns with short pieces of work.
    """
    console = console or Console()
    if cores() < 2:
        raise UserError("bench contention needs two cores: one of them is taken by a busy process")
    busy = cores() // 2
    spinning = {name: value for name, value in os.environ.items() if name not in CHOICES}
    with Probe(config, dict(os.environ)) as ours, Probe(config, spinning) as theirs:
        variants: dict[str, Callable[[], float]] = {}
        for piece in PIECES:
            for how, probe in (("", ours), (", spinning", theirs)):
                variants[f"{piece}{how}, alone"] = functools.partial(probe.seconds, piece)
                variants[f"{piece}{how}, beside"] = functools.partial(probe.seconds, piece, busy)
        times = in_turn(variants, rounds)
    figures = []
    for piece in PIECES:
        alone, beside = times[f"{piece}, alone"], times[f"{piece}, beside"]
        figures.append(Figure(f"{piece}: beside busy processes against alone", beside / alone, 2.2, False))
        free = times[f"{piece}, spinning, alone"]
        figures.append(Figure(f"{piece}: alone, against threads that spin", alone / free, 1.05, False))
    tell(figures, times, "ms per run and step, or per image", console)
    policy = ", ".join(f"{name}={os.environ[name]}" for name in CHOICES if name in os.environ)
    console.print(f"{busy} busy of {cores()} cores; {policy}; prior {config.guidance.prior}")
    return int(check and not all(figure.ok for figure in figures))


PIECES = ("packed step", "embedding")  # of a sweep, and of an evaluation


class Probe:
    """A process of its own for `contention`, since OpenMP reads its settings once."""

    def __init__(self, config: Config, environment: dict[str, str]):
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from harness.bench import serve_probe; serve_probe()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._ask(config.model_dump_json())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _ask(self, line: str) -> str:
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the measured process ended with code {self._process.wait()}")
        return answer

    def seconds(self, piece: str, busy: int = 0) -> float:
        """Seconds that a piece took, beside so many processes that do nothing but spin."""
        command = [sys.executable, "-S", "-c", "print(flush=True)\nwhile True: pass"]
        spinners = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(busy)]
        try:
            for spinner in spinners:
                assert spinner.stdout
                spinner.stdout.readline()
            return float(self._ask(piece))
        finally:
            for spinner in spinners:
                spinner.kill()
                spinner.communicate()


def serve_probe() -> None:
    """The process of a `Probe`: a config on stdin, then names of `PIECES`; seconds on stdout."""
    from eval.scorers.clip import load_clip

    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print must not write among the answers
    config, device = Config.model_validate_json(sys.stdin.readline()), torch.device("cpu")
    guidance, clip = Guidance.load(config.guidance, device), load_clip("toy-clip", "cpu")
    images_NHWC = np.random.default_rng(0).integers(0, 256, (64, 64, 64, 3), dtype=np.uint8)
    step_, embedding = PIECES
    pieces: dict[str, Callable[[], float]] = {
        step_: steps(make_pack(config, guidance, R, choose_encoder("cpu")), 2),
        embedding: lambda: timed(lambda: clip.embed_images(images_NHWC), 2, len(images_NHWC), device),
    }
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        print(pieces[line.strip()](), file=out, flush=True)


def bookkeeping_share(config: Config, steps: int) -> float:
    """Share of the runner's loop that is neither rendering, denoising nor updating.

    A real pack of R runs with its log, W&B mirror and checkpoint; clocks stand around the draws, the cameras,
    the prompts and everything after a step.
    """
    spent = 0.0
    began = ended = 0.0
    done = 0

    def emit(event: Told) -> None:
        nonlocal began, ended, done
        if isinstance(event, Stepped):
            done, ended = done + 1, time.perf_counter()
            if done == 1:
                began = ended

    def add(seconds: float) -> None:
        nonlocal spent
        spent += seconds if done else 0.0

    # Views are results, not books: their only point here is the last step, which is not reached.
    config = config.model_copy(update={"views": config.views.model_copy(update={"count": 1})})
    with tempfile.TemporaryDirectory() as folder, clocks(add):
        ids = []
        for seed in range(R):
            spec = RunSpec(method=METHOD, params={}, prompt=PROMPT, seed=seed, config=config)
            ids.append(RunFolder.create(Path(folder), spec).id)
        execution = Execution(wandb="offline", checkpoint_every=steps)
        runner.advance(folder, ids, execution, emit, lambda: done > steps)
    return spent / (ended - began)


@contextmanager
def clocks(add: Callable[[float], None]) -> Iterator[None]:
    """Report the seconds spent in the functions that keep the books."""
    places: list[tuple[Any, str]] = [
        (rng, "uniform"),
        (rng, "normal"),
        (step, "sample"),
        (step, "camera_views"),
        (runner._Stretch, "_record"),
    ]

    def clocked(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                add(time.perf_counter() - started)

        return call

    originals = [(place, name, getattr(place, name)) for place, name in places]
    for place, name, function in originals:
        setattr(place, name, clocked(function))
    try:
        yield
    finally:
        for place, name, function in originals:
            setattr(place, name, function)
