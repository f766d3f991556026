"""Weights from the Hugging Face Hub: what is in its cache on this machine, and how it gets there."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.config import UserError, first_line


@dataclass(frozen=True)
class Stored:
    """Weights that are whole on this machine: their tag, folder, files, and one sha256 over them (hex)."""

    tag: str
    folder: Path
    files: tuple[Path, ...]
    sha256: str

    @property
    def commit(self) -> str | None:
        """The Hub's commit of a folder in its cache, else None."""
        return self.folder.name if self.folder.parent.name == "snapshots" else None


def is_hub_id(name: str) -> bool:
    """Whether `name` reads as owner/name."""
    owner, slash, rest = name.partition("/")
    return bool(slash and owner and rest) and "/" not in rest and owner not in (".", "..", "~")


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """The same of a file of gigabytes, read once; one that is written anew has another size or time."""
    about = path.stat()
    return _sha256(path, about.st_size, about.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    return sha256_file(path)


def sha256_named(path: Path) -> str:
    """Hex sha256 of a file; in the Hub's cache by the name it has there, without reading gigabytes again."""
    return _cached_name(path) or sha256_file(path)


def _cached_name(path: Path) -> str | None:
    # snapshots/<commit>/<file> links to blobs/<sha256>. One link and no further: what that may link to in
    # turn, a store that repositories share, is named by another hash.
    if not path.is_symlink():
        return None
    target = Path(os.readlink(path))
    name = target.name
    is_hash = len(name) == 64 and set(name) <= set("0123456789abcdef")
    return name if is_hash and target.parent.name == "blobs" else None


def drop_damaged(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of a snapshot whose bytes are not what their names say, removed so that they are fetched
    again."""
    files = sorted(path for pattern in patterns for path in folder.glob(pattern))
    damaged = [path for path in files if (name := _cached_name(path)) and sha256_file(path) != name]
    for path in damaged:
        blob = path.parent / os.readlink(path)
        for place in (path.resolve(), blob, path):
            place.unlink(missing_ok=True)
    return damaged


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to contact the Hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def stored(repo: str, revision: str | None, patterns: Sequence[str]) -> Path | None:
    """The repository's snapshot folder in the cache, or None; contacts nobody."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            repo, revision=revision, allow_patterns=list(patterns), local_files_only=True
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return Path(found)


def fetch(repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Download the files that match `patterns` and are not in the cache; the snapshot's folder.

    Raises UserError where the Hub is not reached or refuses, and where the disk does.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    where = f"{repo}{f'@{revision}' if revision else ''} cannot be fetched from {constants.ENDPOINT}"
    if is_offline():
        raise UserError(f"{where}: HF_HUB_OFFLINE is set; unset it, on a machine with internet")
    try:
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    except errors.HFValidationError as error:
        raise UserError(f"'{repo}' is no id of the Hub: {first_line(error)}") from error
    except errors.GatedRepoError as error:
        raise UserError(f"{where}: accept its licence there, then set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{where}: it has no such revision; choose a commit, a branch or a tag") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{where}: there is no such repository, or it is private (set HF_TOKEN)") from error
    except Exception as error:  # the client raises its own, requests', httpx's and OSError's, by version
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"no space left in {constants.HF_HUB_CACHE}; free some or set HF_HOME") from error
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"cannot write to {constants.HF_HUB_CACHE}; set HF_HOME") from error
        how = f"on a machine with internet: harness doctor --fetch --prior {repo}"
        raise UserError(f"{where} ({first_line(error)}); {how}") from error


def job_environment() -> dict[str, str]:
    """The variables with which a job finds what is in the cache, and contacts nobody."""
    from huggingface_hub import constants

    default = Path(constants.HF_HOME) / "hub"
    cache = Path(constants.HF_HUB_CACHE)
    elsewhere = {} if cache == default else {"HF_HUB_CACHE": str(cache.absolute())}
    return {"HF_HOME": str(Path(constants.HF_HOME).absolute()), **elsewhere, "HF_HUB_OFFLINE": "1"}
