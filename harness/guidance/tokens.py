"""Vocabularies made on the spot: CLIP's, the byte alphabet alone, and a stand-in for T5's."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config import UserError

if TYPE_CHECKING:
    from transformers.models.clip.tokenization_clip import CLIPTokenizer
    from transformers.models.t5.tokenization_t5 import T5Tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
_CLIP_MERGES = 49408 - 2 * 256 - 2  # CLIP's vocabulary less the bytes, alone and ending a word, and the marks
_T5_WORDS = ("a", "the", "of", "on", "in", "with", "and", "red", "view", "front", "side", "back", "overhead")


def byte_symbols() -> list[str]:
    """CLIP's printable stand-ins for the 256 bytes, in the order of its vocabulary."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [b for b in range(256) if b not in kept]
    return [chr(b) for b in kept] + [chr(256 + n) for n in range(len(moved))]


def clip_merges() -> list[tuple[str, str]]:
    """CLIP's merges, from the file that open_clip ships; UserError without the package."""
    # Found, not imported: importing it takes seconds.
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise UserError(
            "CLIP's vocabulary comes with open_clip, which is not installed: take --tokenizer bytes"
        )
    with gzip.open(
        Path(package.origin).with_name("bpe_simple_vocab_16e6.txt.gz"), "rt", encoding="utf-8"
    ) as file:
        lines = file.read().split("\n")
    first, second = zip(*(line.split() for line in lines[1 : 1 + _CLIP_MERGES]), strict=True)
    return list(zip(first, second, strict=True))


def clip_vocabulary(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Token to id: bytes, bytes that end a word, merges, start, end (CLIP pools at the largest id)."""
    symbols = byte_symbols()
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(m) for m in merges] + [START, END]
    return {token: index for index, token in enumerate(tokens)}


def clip_tokenizer(merges: Sequence[tuple[str, str]], length: int, pad: str = END) -> CLIPTokenizer:
    """CLIP's tokenizer over these merges, for `length` tokens; none: every byte is a token."""
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    return CLIPTokenizer(
        vocab=clip_vocabulary(merges),
        merges=list(merges),  # type: ignore[arg-type]
        model_max_length=length,
        bos_token=START,
        eos_token=END,
        pad_token=pad,
        unk_token=END,
    )


def t5_tokenizer() -> T5Tokenizer:
    """A stand-in for T5's tokenizer: its class and special tokens, letters and a few words as its pieces."""
    from transformers.models.t5.tokenization_t5 import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -4.0) for word in _T5_WORDS]
    pieces += [(chr(code), -8.0) for code in range(ord("!"), ord("~") + 1)]
    return T5Tokenizer(vocab=pieces, model_max_length=512)
