"""Pipeline folders of published architectures with random weights: for speed and tests, never for results."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from harness.config import UserError, nearest
from harness.guidance import tokens
from harness.guidance.architectures import Architecture, Part
from harness.guidance.family import architecture
from harness.guidance.prior import quieten_libraries

DTYPES = {"float16": torch.float16, "float32": torch.float32}
SIZES = ("full", "tiny")
TOKENIZERS = ("clip", "bytes")


def make_prior(
    out: Path,
    like: str,
    *,
    size: str = "full",
    seed: int = 0,
    dtype: str = "float16",
    tokenizer: str = "clip",
) -> Path:
    """Write a pipeline folder like `like` with weights drawn from `seed`, and return it.

    `size` "tiny": the same classes and settings at toy width. `tokenizer` "bytes": every byte is a token, for
    machines without open_clip; the text encoder keeps its full vocabulary. Modules are built one after the
    other, in `dtype`: the largest is the peak of memory. card.json says that the weights are random, which
    stamps everything made with them. Raises UserError for an unknown name, and for an `out` that holds files.
    """
    quieten_libraries()
    family, arch = architecture(like)
    for name, value, known in (
        ("size", size, SIZES),
        ("dtype", dtype, DTYPES),
        ("tokenizer", tokenizer, TOKENIZERS),
    ):
        if value not in known:
            raise UserError(f"make-prior: no {name} '{value}'{nearest(value, known)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already and is not empty; name another --out")
    merges = tokens.clip_merges() if size == "full" and tokenizer == "clip" else []
    part = out.parent / f".{out.name}.part-{os.getpid()}"
    part.mkdir(parents=True)
    try:
        for name, about in arch.parts.items():
            with torch.random.fork_rng(devices=[]), _default_dtype(DTYPES[dtype]):
                torch.manual_seed(zlib.crc32(f"{seed} {name}".encode()))
                build(about, size).save_pretrained(part / name)
        for name, kind in arch.tokenizers.items():
            _tokenizer(arch, name, kind, size, merges).save_pretrained(part / name)
        _write_json(part / "model_index.json", _index(family.pipeline, arch))
        card = {"random": True, "like": like, "size": size, "seed": seed, "dtype": dtype}
        _write_json(part / "card.json", card | {"source": arch.source, "note": _note(arch, bool(merges))})
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def build(part: Part, size: str) -> Any:
    """The module or scheduler itself; its weights are what its class starts from."""
    library, name = part.kind.split(".")
    cls = getattr(importlib.import_module(library), name)
    settings = part.settings(size)
    return cls(cls.config_class(**settings)) if library == "transformers" else cls(**settings)


def _tokenizer(arch: Architecture, name: str, kind: str, size: str, merges: list[tuple[str, str]]) -> Any:
    if kind == "t5":
        return tokens.t5_tokenizer()
    encoder = arch.parts[name.replace("tokenizer", "text_encoder")].settings(size)
    length = encoder["max_position_embeddings"]
    return tokens.clip_tokenizer(merges, length, pad="!" if kind == "clip!" else tokens.END)


def _index(pipeline: str, arch: Architecture) -> dict[str, Any]:
    """model_index.json as diffusers writes it."""
    import diffusers

    classes = {"clip": "CLIPTokenizer", "clip!": "CLIPTokenizer", "t5": "T5Tokenizer"}
    return {
        "_class_name": pipeline,
        "_diffusers_version": diffusers.__version__,
        **arch.extra,
        **{name: part.kind.split(".") for name, part in arch.parts.items()},
        **{name: ["transformers", classes[kind]] for name, kind in arch.tokenizers.items()},
        **{name: [None, None] for name in arch.absent},
    }


def _note(arch: Architecture, with_merges: bool) -> str:
    stands_in = []
    if not with_merges and any(kind.startswith("clip") for kind in arch.tokenizers.values()):
        stands_in.append("CLIP's vocabulary is the bytes alone")
    if "t5" in arch.tokenizers.values():
        stands_in.append("T5's vocabulary is a stand-in of letters and a few words")
    return "; ".join(["random weights: nothing made with them is a result", *stands_in])


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Inside, torch makes floating-point tensors of that dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
