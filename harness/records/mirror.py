"""One run's copy in W&B: its rows with their views, and how it ended; always a prefix of the run folder.

Conventions: project = study, group = sweep, job_type = the method's label, id and name = the run's id,
config = the spec. A history row is a row of metrics.jsonl under its own step, with the sheet of views under
"views" where the run has one; a run that ended has RECORD among its files, and its ending in its summary.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from harness.config import UserError
from harness.records import suites
from harness.records.files import read_json, write_json
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, canonical_json
from harness.records.schema import SPEC, VALUES
from harness.records.stamp import mark

Mode = Literal["online", "offline", "disabled"]
VIEWS = "views"
RECORD = "harness.json"  # what a run folder is rebuilt from, besides rows and views
INIT_SECONDS = 30
FINISH_SECONDS = 25  # that the end of a run, or of all runs of a process, waits for its last bytes


PLACE = "tracking.json"  # beside run folders: the project and the group of their copies
PROJECT = "dreamtime"
# Of W&B's variables only these are read: who and where the server is, how it is reached, and where the client
# keeps its own files. The others would move or change runs.
_USERS = re.compile(
    r"WANDB_(API_KEY|IDENTITY_TOKEN_FILE|CREDENTIALS_FILE|BASE_URL|APP_URL|ENTITY|MODE|DISABLED|SILENT|QUIET"
    r"|ERROR_REPORTING|(CORE_)?DEBUG|INSECURE_DISABLE_SSL|HTTPS?_PROXY|(HTTP|FILE_PUSHER)_TIMEOUT"
    r"|(CONFIG|DATA|CACHE|ARTIFACT)_DIR|_?SERVICE.*|X_(EXTRA_HTTP|PROXIES|FILE_|GRAPHQL_|SERVICE|EXECUTABLE).*)"
)


@dataclass(frozen=True)
class Place:
    """Where in W&B the copies of a folder of runs are."""

    project: str
    group: str

    @classmethod
    def of(cls, root: Path, project: str | None = None, group: str = "") -> Place:
        """That asked for, else the one kept beside the runs, else the default.

        Raises UserError for a project that W&B does not take.
        """
        found = read_json(root / PLACE)
        kept = found if isinstance(found, dict) else {}
        place = cls(
            kept.get("project", PROJECT) if project is None else project,
            group or kept.get("group") or root.resolve().name,
        )
        _check_name("project", place.project)
        if group:
            _check_name("group", place.group)
        return place

    @classmethod
    def to_sweep(cls, root: Path, project: str | None, group: str = "") -> Place:
        """Where a sweep's runs go; UserError where those of the folder are in another project or group."""
        place, kept = cls.of(root, project, group), cls.of(root)
        for option, asked, there in (("study", project, kept.project), ("wandb-group", group, kept.group)):
            if asked and (root / PLACE).exists() and there != asked:
                what = "project" if option == "study" else "group"
                raise UserError(
                    f"--{option} {asked}: the runs of {root} are in W&B {what} {there}; "
                    f"leave --{option} out, or take another --out"
                )
        return place

    def keep(self, root: Path) -> Place:
        """The place kept beside the runs, which is this one where there was none."""
        if not (root / PLACE).exists():
            write_json(root / PLACE, asdict(self), durable=False)
        return Place.of(root)


def _check_name(what: str, name: str) -> None:
    wrong = sorted({c for c in name if c in "/\\#?%:" or not c.isprintable()})
    if wrong or not name.strip() or len(name) > 128:
        raise UserError(
            f"W&B takes no {what} '{name}': up to 128 characters, none of / \\ # ? % :, and not blank"
        )


def client() -> Any:
    """The wandb package, imported late, and quiet: its telemetry, too, would wait for a silent server.

    What it would read of the user's environment beyond _USERS is taken out first.
    """
    for name in [name for name in os.environ if name.startswith("WANDB_") and not _USERS.fullmatch(name)]:
        del os.environ[name]
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    return wandb


def steps_of(folder: RunFolder) -> list[int]:
    """The steps of a run that W&B has a row of, rising; imported runs have views without rows."""
    return sorted({row["step"] for row in folder.metrics()}.union(folder.view_steps()))


def picture_of(folder: RunFolder, step: int) -> Path | None:
    """The views of a step as a file that may be sent; None where there is none, or a link."""
    path = folder.views_path(step)
    return path if folder.has(str(path.relative_to(folder.path))) else None


def columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a row of metrics.jsonl a mirror has under its step: all that has a value."""
    return {key: value for key, value in row.items() if key != "step" and value is not None}


def fingerprint(folder: RunFolder) -> str:
    """Hex sha256 over how a run ended and what evaluation said of it: another one is to be sent again."""
    values = evaluated(folder)
    digest = hashlib.sha256(record(folder, folder.spec()))
    digest.update(canonical_json(values).encode() if values else b"")
    return digest.hexdigest()


def said(spec: RunSpec, step: int) -> str:
    """The caption of a picture of a run."""
    return f"{spec.prompt} · {spec.label}, seed {spec.seed}, step {step}"


def suite_path(folder: RunFolder, spec: RunSpec) -> Path | None:
    """Where the suite of a run is kept beside it, or None for a run of no suite."""
    return suites.path_of(folder.path.parent, spec.suite.sha256) if spec.suite else None


def record(folder: RunFolder, spec: RunSpec) -> bytes:
    """The content of RECORD: {spec, env, result | failure, suite} as the files of these names hold it."""
    suite = suite_path(folder, spec)
    found = {"spec": folder.json(SPEC), "env": folder.env(), "result": folder.result()}
    found["failure"] = folder.failure()
    found["suite"] = read_json(suite) if suite else None
    kept = {name: value for name, value in found.items() if value is not None}
    return json.dumps(kept, indent=1, ensure_ascii=False).encode()


def evaluated(folder: RunFolder) -> dict[str, Any]:
    """Metric → its values of a run, as evaluation keeps them: "eval" of the summary; {} before it did."""
    values = folder.json(VALUES)
    return values if isinstance(values, dict) else {}


def last_metrics(folder: RunFolder) -> dict[str, Any]:
    """The last row that a run logged: "last" of the summary."""
    rows = folder.metrics()
    return {name: value for name, value in rows[-1].items() if value is not None} if rows else {}


class Mirror:
    """A run's copy in W&B, open for writing; whoever owns it is the only one to call it.

    `step` is the last step that W&B has, -1 before the first. Every method but the constructor may raise what
    W&B raises, and block as long as `finish_seconds` or INIT_SECONDS; the server then has a shorter prefix.
    """

    def __init__(
        self,
        folder: RunFolder,
        spec: RunSpec,
        mode: Mode,
        place: Place,
        *,
        entity: str | None = None,
        scratch: Path | None = None,
        finish_seconds: float | None = None,
    ):
        wandb = client()
        self.folder, self.spec = folder, spec
        stamp = mark(folder.prior(), spec.config.guidance.prior)
        # init changes the Settings it is given, so each run needs its own.
        settings = wandb.Settings(
            x_disable_stats=True,
            x_save_requirements=False,  # env.json has what matters
            console="off",
            silent=True,
            disable_git=True,
            save_code=False,
            init_timeout=INIT_SECONDS,
            finish_timeout=finish_seconds or FINISH_SECONDS,
            finish_timeout_raises=True,
        )
        self._run = wandb.init(
            entity=entity,
            project=place.project,
            group=place.group,
            job_type=spec.label,
            id=folder.id,
            name=folder.id,
            dir=str(scratch or folder.path.parent),
            config=spec.model_dump(mode="json") | {"label": spec.label},
            tags=[stamp] if stamp else None,
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=settings,
        )
        self._run.define_metric("*", summary="none")
        self.step = self._run.starting_step - 1
        self._run.summary["status"] = "running"

    def follow(self, through: int) -> None:
        """Tell W&B the steps after `step` up to `through`: their rows and their views."""
        from wandb import Image

        rows = {row["step"]: row for row in self.folder.metrics()}
        for step in steps_of(self.folder):
            if not self.step < step <= through:
                continue
            data = columns(rows.get(step, {}))
            if views := picture_of(self.folder, step):
                # Of a path: the file goes up as it is.
                data[VIEWS] = Image(str(views), caption=said(self.spec, step))
            self._run.log(data, step=step)
            self.step = step

    def restore(self, name: str, views: Path) -> None:
        """Send a picture that a row names, and that never reached the server."""
        target = Path(self._run.dir) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(views.read_bytes())
        self._save(target)

    def end(self) -> None:
        """Tell W&B how the run ended, and what its folder is rebuilt from."""
        path = Path(self._run.dir) / RECORD
        path.write_bytes(record(self.folder, self.spec))
        self._save(path)
        status = self.folder.status()
        self._run.summary["status"] = status
        self._run.summary["ending"] = self.folder.result() if status == "done" else self.folder.failure()
        if last := last_metrics(self.folder):
            self._run.summary["last"] = last
        if values := evaluated(self.folder):
            self._run.summary["eval"] = values

    def close(self) -> None:
        """Wait until all is at the server; raises TimeoutError where that takes longer than it may."""
        self._run.finish(exit_code=1 if self.folder.status() == "failed" else 0)

    def _save(self, path: Path) -> None:
        self._run.save(str(path), base_path=self._run.dir, policy="now")


def picture_hash(path: Path) -> str:
    """The part of a picture's name in W&B that follows from its bytes, 20 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:20]
