"""A byte-pair vocabulary cut to the toy world's words, as CLIPTokenizer and open_clip read it."""

import gzip
import itertools
from collections import Counter
from functools import cache
from pathlib import Path

from transformers.models.clip.tokenization_clip import CLIPTokenizer

from harness.guidance import tokens
from harness.toyworld.grammar import words

CONTEXT = 24


@cache
def learn_merges() -> tuple[tuple[str, str], ...]:
    """Merges, most frequent pair first, until every word of the language is one token."""
    spelled = [[*word[:-1], word[-1] + "</w>"] for word in words()]
    merges = []
    while True:
        pairs = Counter(pair for symbols in spelled for pair in itertools.pairwise(symbols))
        if not pairs:
            return tuple(merges)
        best = max(sorted(pairs), key=lambda pair: pairs[pair])
        merges.append(best)
        for symbols in spelled:
            at = 0
            while at < len(symbols) - 1:
                if (symbols[at], symbols[at + 1]) == best:
                    symbols[at : at + 2] = ["".join(best)]
                at += 1


def clip_tokenizer() -> CLIPTokenizer:
    """The vocabulary as the tokenizer of a diffusers pipeline."""
    return tokens.clip_tokenizer(learn_merges(), CONTEXT)


def write_open_clip_bpe(path: Path) -> None:
    """The merges as open_clip reads them: gzip, a header line, one merge a line."""
    lines = ["#version: 0.2", *(" ".join(m) for m in learn_merges())]
    with path.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as file:
        file.write("\n".join(lines).encode())


def vocabulary_size() -> int:
    """Number of tokens."""
    return len(tokens.clip_vocabulary(learn_merges()))
