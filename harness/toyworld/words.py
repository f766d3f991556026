"""A byte-pair vocabulary cut to the toy world's words, as CLIPTokenizer and open_clip read it."""

import gzip
import itertools
from collections import Counter
from pathlib import Path

from transformers.models.clip.tokenization_clip import CLIPTokenizer

from harness.toyworld.grammar import words

CONTEXT = 24
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols() -> list[str]:
    """CLIP's printable stand-ins for the 256 bytes, in the order of its vocabulary."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [b for b in range(256) if b not in kept]
    return [chr(b) for b in kept] + [chr(256 + n) for n in range(len(moved))]


def learn_merges() -> list[tuple[str, str]]:
    """Merges, most frequent pair first, until every word of the language is one token."""
    spelled = [[*word[:-1], word[-1] + "</w>"] for word in words()]
    merges = []
    while True:
        pairs = Counter(pair for symbols in spelled for pair in itertools.pairwise(symbols))
        if not pairs:
            return merges
        best = max(sorted(pairs), key=lambda pair: pairs[pair])
        merges.append(best)
        for symbols in spelled:
            at = 0
            while at < len(symbols) - 1:
                if (symbols[at], symbols[at + 1]) == best:
                    symbols[at : at + 2] = ["".join(best)]
                at += 1


def vocabulary() -> dict[str, int]:
    """Token to id: bytes, bytes that end a word, merges, start, end (open_clip pools at the largest id)."""
    symbols = byte_symbols()
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(m) for m in learn_merges()] + [START, END]
    return {token: index for index, token in enumerate(tokens)}


def clip_tokenizer() -> CLIPTokenizer:
    """The vocabulary as the tokenizer of a diffusers pipeline."""
    return CLIPTokenizer(
        vocab=vocabulary(),
        merges=learn_merges(),  # type: ignore[arg-type]
        model_max_length=CONTEXT,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token=END,
    )


def write_open_clip_bpe(path: Path) -> None:
    """The merges as open_clip reads them: gzip, a header line, one merge a line."""
    lines = ["#version: 0.2", *(" ".join(m) for m in learn_merges())]
    with path.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as file:
        file.write("\n".join(lines).encode())


def vocabulary_size() -> int:
    """Number of tokens."""
    return len(vocabulary())
