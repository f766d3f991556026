"""A lock file: of every repository of weights its commit, the server it came from, and each file's sha256."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from harness.config import Strict, UserError, first_problem, named_line
from harness.guidance import hub


class Locked(Strict):
    """One repository as it was fetched; `source` is the Hub or the mirror that had it."""

    commit: str = Field(pattern=r"^[0-9a-f]{40}$")
    source: str
    files: dict[str, str]


class Lock(Strict):
    """What is fetched has to be what is in here; a repository that is not is added by `hold`."""

    weights: dict[str, Locked] = Field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Lock:
        """The lock of a file, an empty one where there is none; UserError for a file that is no lock."""
        if not path.exists():
            return cls()
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UserError(f"{path}: {named_line(error)}") from None
        except ValidationError as error:
            raise UserError(f"{path} is no lock of weights: {first_problem(error)}") from None

    def commit(self, repo: str | None, asked: str | None) -> str | None:
        """The locked commit, else what is asked; UserError where the two differ."""
        if repo is None or repo not in self.weights:
            return asked
        locked = self.weights[repo].commit
        if asked not in (None, locked):
            raise UserError(f"{repo} is locked at {locked}, and {asked} is asked for; set one of them anew")
        return locked

    def hold(self, repo: str, found: hub.Stored) -> None:
        """Compare what was fetched with the lock, or take it in; UserError for a file that differs."""
        from huggingface_hub import constants

        files = {str(path.relative_to(found.folder)): hub.sha256_named(path) for path in found.files}
        locked = self.weights.setdefault(
            repo, Locked(commit=found.commit or "", source=constants.ENDPOINT, files=files)
        )
        for name in sorted(locked.files.keys() | files.keys()):
            here, there = files.get(name, "missing"), locked.files.get(name, "missing")
            if here != there:
                raise UserError(f"{repo}: {name} is {here[:12]} here and {there[:12]} in the lock")
