"""A sweep on this machine: planned, measured, run to its end or to Ctrl-C, and told."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.config import Execution
from harness.console import busy, say
from harness.faults import INTERRUPTED
from harness.records import suites
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, run_id
from harness.sweep.display import Display, duration, speed
from harness.sweep.grid import Suite, write_suite
from harness.sweep.plan import check_priors
from harness.sweep.pool import Pool
from harness.sweep.status import blame
from harness.sweep.versions import Others, settle


def sweep(
    root: Path,
    suite: Suite,
    specs: Sequence[RunSpec],
    execution: Execution,
    dry_run: bool = False,
    retry_failed: bool = False,
    others: Others = "refuse",
) -> int:
    """Run every run that is not done; the exit code: 0, 1 where some failed or are left, or INTERRUPTED.

    The first Ctrl-C checkpoints and leaves, a second one ends at once. `others` is what becomes of runs that
    were made with other code of their method. Raises UserError before anything is written.
    """
    check_priors(root, specs)
    presses = 0
    by_id = {run_id(spec): spec for spec in specs}
    with Pool(root, specs, execution, lambda: presses > 0, scratch=dry_run) as pool:

        def on_signal(signum: int, _: object) -> None:
            nonlocal presses
            presses += 1
            if presses > 1:
                pool.kill()

        plan = pool.plan(retry_failed, asked=True)
        if settle(root, plan, others, None if dry_run else print):
            plan = pool.plan(retry_failed, asked=True)
        print(plan.summary(), flush=True)
        tell_damaged(plan.damaged)
        if not dry_run:
            for run in (*plan.specless, *plan.unlabelled):
                RunFolder.create(root, by_id[run])
        if not plan.packs and not plan.running:
            return _report(plan.done, plan.failed, [], root, suite)
        before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            if plan.packs:
                first = " (the first start on a machine also compiles)" if pool.is_new_here else ""
                with busy(f"measuring speed: loading the prior{first}, then a few steps"):
                    pace = pool.pace(plan)
                for note in pace.notes:
                    print(note, flush=True)
                if pace.rate and not presses:
                    left = duration(sum(plan.steps_left.values()) / pace.rate)
                    print(f"about {left} at {speed(pace.rate)} steps/s ({pace.how})", flush=True)
            if dry_run or presses:
                return INTERRUPTED if presses else 0
            for run in plan.todo:
                folder = RunFolder.create(root, by_id[run])
                folder.uncancel()
                if retry_failed:
                    folder.forget_failure()
            write_suite(root, suite)
            display = Display(plan.total, sum(plan.steps_left.values()), work=pool.work(plan))
            display.runs_done = len(plan.done) + len(plan.failed) + len(plan.damaged)
            try:
                outcome = pool.run(display)
            finally:
                display.close()
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
    if outcome.interrupted:
        print(f"stopped: {len(outcome.left)} runs left; the same command continues them", flush=True)
        return INTERRUPTED
    return _report(outcome.done, outcome.failed, outcome.left, root, suite)


def tell_damaged(damaged: Mapping[str, str]) -> None:
    """Runs that the sweep leaves alone, and what is to be done about them."""
    for run, damage in list(damaged.items())[:10]:
        print(f"damaged, and left as it is: {run}: {damage}", flush=True)
    if damaged:
        more = f"… and {len(damaged) - 10} more; " if len(damaged) > 10 else ""
        print(f"{more}move a damaged folder away, and the same command makes its run anew", flush=True)


def _report(done: Sequence[str], failed: Sequence[str], left: Sequence[str], root: Path, suite: Suite) -> int:
    text = f"{len(done)} done"
    if failed:
        failure = RunFolder(root / failed[0]).failure() or {"reason": "unknown"}
        where = "".join(f" (at {place})" for name, place in blame(failure.get("detail", "")) if name == "at")
        text += f", {len(failed)} failed (--retry-failed tries again), such as {failed[0]}: "
        text += f"{failure['reason']}{where}"
    if left:
        text += f", {len(left)} left unfinished, such as {left[0]}"
    own = suites.beside_others(root, suite.name, suite.sha256)
    then = f"eval {root}{own}" if done else f"status {root} --why {failed[0]}" if failed else ""
    say(text + (f"; next: harness {then}" if then else ""))
    return 1 if failed or left else 0
