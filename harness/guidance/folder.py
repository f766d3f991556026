"""A prior's folder: where it is, which of its files are used, and whether they are whole and understood.

Everything here is told before anything runs, from the files alone: no torch, no network. A setting that
changes what is computed is applied by the family, or refused here; one that is not known is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import safe_open

from harness.config import GuidanceConfig, UserError, nearest
from harness.guidance import checks, hub
from harness.guidance.checks import object_in
from harness.guidance.family import Family, families, family_of
from harness.home import WEIGHTS
from harness.text import parse_json


def stem(cls: str) -> str:
    """The name of a module's weights file: diffusers' or transformers'."""
    return "diffusion_pytorch_model" if cls.startswith("diffusers.") else "model"


def patterns() -> tuple[str, ...]:
    """The files of a repository that a prior of any family is made of."""
    parts = {part: stem(cls) for family in families().values() for part, cls in family.models.items()}
    return (
        "model_index.json",
        "card.json",
        "scheduler/*",
        "tokenizer*/*",
        *(f"{part}/config.json" for part in parts),
        *(f"{part}/{name}.safetensors" for part, name in parts.items()),
        *(f"{part}/{name}.safetensors.index.json" for part, name in parts.items()),
        *(f"{part}/{name}-*.safetensors" for part, name in parts.items()),  # the shards that the index names
    )


_TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.json", "merges.txt", "spiece.model", "added_tokens.json"),
    *("special_tokens_map.json", "tokenizer_config.json"),
)
_PICKLES = ("*.bin", "*.bin.index*.json", "*.ckpt", "*.pt", "*.pth")
# Of a configuration file: which versions wrote it and from where, and the dtype of weights that are cast.
_NOT_CONTENT = ("_diffusers_version", "transformers_version", "_name_or_path", "dtype", "torch_dtype")


@dataclass(frozen=True)
class PriorFolder:
    """A whole prior on this machine; `weights` are its modules' files, `fp16` the modules that only have
    that variant, `scheduler` the class of its noise schedule."""

    path: Path
    tag: str
    index: Mapping[str, Any]
    family: type[Family]
    scheduler: str
    weights: tuple[Path, ...]
    fp16: frozenset[str]
    stamp: str
    _hashes: dict[Path, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def files(self) -> list[Path]:
        """Every file that what is computed depends on."""
        models, tokenizers = self.family.here(self.index)
        small = ["model_index.json", "scheduler/scheduler_config.json", *(f"{m}/config.json" for m in models)]
        words = (self.path / part / name for part in tokenizers for name in _TOKENIZER_FILES)
        return [*(self.path / name for name in small), *(p for p in words if p.is_file()), *self.weights]

    @property
    def stored(self) -> hub.Stored:
        """As the doctor tells it, with the hash of all files."""
        return hub.Stored(self.tag, self.path, tuple(self.files), self.content_hash)

    @property
    def record(self) -> dict[str, Any]:
        """What a run's records keep of its prior: `content_hash` is of all files that are used. Older records
        have `weights_hash`, of the weights alone, and those before there was a stamp `is_toy`."""
        hashes = {"weights_hash": self.weights_hash, "content_hash": self.content_hash}
        return {"tag": self.tag, **hashes, "stamp": self.stamp, "is_toy": self.stamp == "toy"}

    @cached_property
    def weights_hash(self) -> str:
        """One sha256 over the weight files."""
        lines = (f"{path.parent.name}:{self._hash(path)}\n" for path in self.weights)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @cached_property
    def content_hash(self) -> str:
        """One sha256 over all `files`; neither their place nor the spelling of a configuration counts."""
        lines = sorted(
            f"{path.relative_to(self.path).as_posix()}:{self._hash(path)}\n" for path in self.files
        )
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            is_config = path.name in ("config.json", "model_index.json", "scheduler_config.json")
            self._hashes[path] = _settings_hash(path) if is_config else hub.sha256_named(path)
        return self._hashes[path]


def _settings_hash(path: Path) -> str:
    kept = {key: value for key, value in object_in(path).items() if key not in _NOT_CONTENT}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def find(cfg: GuidanceConfig, *, local_only: bool = True) -> PriorFolder:
    """The prior that `cfg` names, whole; fetched from the Hub where it may be and is not here.

    Raises UserError, with the command that fetches it, where it is missing or incomplete, and where something
    of it is not understood.
    """
    path, tag = _locate(cfg, local_only)
    return look(cfg, path, tag)


def pinned(cfg: GuidanceConfig) -> GuidanceConfig:
    """`cfg` with a folder's prior named by its resolved path and its content, however it was spelled.

    Embedded priors and those of the Hub stay as they are. Raises as `find`.
    """
    path = Path(cfg.prior).expanduser()
    if cfg.prior in _embedded() or not path.is_dir():
        return cfg
    path = path.resolve()
    if path.parent == WEIGHTS and path.name in _embedded():
        return cfg.model_copy(update={"prior": path.name})
    named = cfg.model_copy(update={"prior": str(path)})
    found = find(named)
    check_content(named, found)
    return named.model_copy(update={"content": found.content_hash})


def check_content(cfg: GuidanceConfig, found: PriorFolder) -> None:
    """UserError where the folder's files are not those that `cfg` was pinned to."""
    if cfg.content is not None and cfg.content != found.content_hash:
        raise UserError(
            f"prior {cfg.prior} holds other files ({found.content_hash[:12]}) than was asked for "
            f"({cfg.content[:12]}): put those back, or name another --out"
        )


def is_on_hub(cfg: GuidanceConfig) -> bool:
    """Whether the prior is a repository of the Hub, neither embedded nor a folder."""
    return not Path(cfg.prior).expanduser().is_dir() and hub.is_hub_id(cfg.prior)


def fetch_command(cfg: GuidanceConfig) -> str:
    """The shell command that brings the prior here."""
    if is_on_hub(cfg):
        revision = f" --set guidance.revision={cfg.revision}" if cfg.revision else ""
        return f"harness doctor --fetch --prior {cfg.prior}{revision}"
    if cfg.prior == "toy-sd":
        return "harness toyworld train all"
    return f"copy a whole diffusers pipeline folder to {cfg.prior}"


def _embedded() -> list[str]:
    return [index.parent.name for index in WEIGHTS.glob("*/model_index.json")]


def _locate(cfg: GuidanceConfig, local_only: bool) -> tuple[Path, str]:
    """The prior's folder on disk, and its tag."""
    known = _embedded()
    if cfg.prior in known:
        return WEIGHTS / cfg.prior, cfg.prior
    path = Path(cfg.prior).expanduser()
    if path.is_dir():
        return path.resolve(), path.resolve().name
    if not hub.is_hub_id(cfg.prior):
        if cfg.prior == "toy-sd":
            raise UserError(f"prior toy-sd is not in {WEIGHTS}; make it: {fetch_command(cfg)}")
        raise UserError(
            f"prior '{cfg.prior}' is no embedded prior, no folder, no Hub id (owner/name)"
            + nearest(cfg.prior, known)
        )
    found = hub.stored(cfg.prior, cfg.revision, patterns())
    if found is None and not (local_only or hub.is_offline()):
        found = hub.fetch(cfg.prior, cfg.revision, patterns())
    if found is None:
        raise UserError(f"prior {cfg.prior} is not on this machine; fetch it: {fetch_command(cfg)}")
    return found, f"{cfg.prior}@{found.name[:12]}"


# ---- whether it is whole


def look(cfg: GuidanceConfig, path: Path, tag: str) -> PriorFolder:
    """The prior in a folder; UserError where a file is missing or torn, or something is not understood."""
    try:
        index = object_in(path / "model_index.json")
    except ValueError:
        raise _incomplete(path, cfg, ["model_index.json"], _single_file(path)) from None
    try:
        family = family_of(index)
    except UserError as error:
        raise UserError(f"prior {cfg.prior}: {error}") from None
    models, tokenizers = family.here(index)
    weights: list[Path] = []
    fp16: set[str] = set()
    missing: list[str] = []
    pickled: list[str] = []
    for part, cls in models.items():
        found, is_fp16 = _files(path, part, cls)
        lacking = [each for each in found if not _is_whole(each)]
        pickles = sorted(p for pattern in _PICKLES for p in (path / part).glob(pattern))
        if pickles and not any(each.exists() for each in found):
            pickled.append(f"{part}/{pickles[0].name}")
        else:
            missing += [f"{part}/{each.name}" for each in lacking]
        weights += found
        fp16 |= {part} if is_fp16 else set()
    if pickled and not missing:
        raise _only_pickles(cfg, path, pickled)
    small = ["scheduler/scheduler_config.json", *(f"{part}/config.json" for part in models)]
    settings: dict[str, dict[str, Any]] = {}
    for name in small:
        try:
            settings[name.partition("/")[0]] = object_in(path / name)
        except ValueError:
            missing.append(name)
    for part, cls in tokenizers.items():
        missing += checks.missing_words(path / part, cls)
    if missing:
        raise _incomplete(path, cfg, missing)
    try:
        family.check(index, settings)
        for part, cls in tokenizers.items():
            encoder = part.replace("tokenizer", "text_encoder")
            checks.words(path / part, cls, settings[encoder], models[encoder])
    except UserError as error:
        raise UserError(f"prior {cfg.prior}: {error}") from None
    scheduler = f"diffusers.{settings['scheduler']['_class_name']}"
    return PriorFolder(path, tag, index, family, scheduler, tuple(weights), frozenset(fp16), _stamp(path))


def _incomplete(path: Path, cfg: GuidanceConfig, missing: Sequence[str], hint: str = "") -> UserError:
    return UserError(
        f"prior {cfg.prior}: {path} is incomplete ({', '.join(missing)} missing or cut short){hint}; "
        f"fetch it: {fetch_command(cfg)}"
    )


def _single_file(path: Path) -> str:
    files = [each.name for kind in ("*.safetensors", "*.ckpt") for each in sorted(path.glob(kind))]
    return f": {files[0]} is a checkpoint in one file, which diffusers converts" if files else ""


def _only_pickles(cfg: GuidanceConfig, path: Path, pickled: Sequence[str]) -> UserError:
    convert = f"P.from_pretrained('{path}').save_pretrained('{path.name}-safetensors')"
    return UserError(
        f"prior {cfg.prior}: {', '.join(pickled)}: pickled weights are not loaded, since a pickle may run "
        f"code; where you trust it, convert it: "
        f'python -c "from diffusers import DiffusionPipeline as P; {convert}"'
    )


def _files(path: Path, part: str, cls: str) -> tuple[list[Path], bool]:
    """A module's weight files, there or not: one, or the shards that an index names; and whether they are the
    fp16 variant, which is taken where there is no other."""
    name = stem(cls)
    for variant in ("", ".fp16"):
        whole = path / part / f"{name}{variant}.safetensors"
        if whole.is_file():
            return [whole], bool(variant)
        index = path / part / f"{name}.safetensors.index{variant}.json"
        if index.is_file():
            return _shards(index), bool(variant)
    return [path / part / f"{name}.safetensors"], False


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        return [index]  # which is no file of weights: it is told as the one that is cut short
    return [index.with_name(name) for name in names]


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(path, framework="numpy") as tensors:  # checks the header against the file's length
            return bool(tensors.keys())
    except Exception:  # safetensors' own error type is private to its version
        return False


def _stamp(path: Path) -> str:
    """What everything made with a prior is stamped: its card says what this project made it of, if it did."""
    card = path / "card.json"
    if not card.is_file():
        return ""
    try:
        return "random" if object_in(card).get("random") else "toy"
    except ValueError:
        raise UserError(f"{card} is no card of a prior; remove it, or copy the folder again") from None
