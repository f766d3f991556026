"""What text encoders take of a text: they read so many tokens, and the rest is lost. No torch at import."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import GuidanceConfig, UserError
from harness.guidance import hub
from harness.guidance.family import family_of
from harness.guidance.folder import WEIGHTS
from harness.guidance.views import VIEWS, view_prompt
from harness.text import parse_json


@dataclass(frozen=True)
class Reader:
    """A text encoder: `ids` are the tokens of a text with the marks round it, `length` those it takes."""

    name: str
    ids: Callable[[str], Sequence[int]]
    length: int

    def read(self, text: str) -> tuple[int, ...]:
        """The tokens that count."""
        ids = tuple(self.ids(text))
        return ids if len(ids) <= self.length else (*ids[: self.length - 1], ids[-1])

    def lost(self, text: str) -> str:
        """The words at its end that are not read to their ends; "" where all are."""
        words = text.split()
        return " ".join(words[self._whole(words) :])

    def _whole(self, words: Sequence[str]) -> int:
        counts = range(len(words) + 1)
        return bisect_right(counts, self.length, key=lambda k: len(self.ids(" ".join(words[:k])))) - 1


def alike(readers: Sequence[Reader], texts: Sequence[str]) -> list[tuple[str, str]]:
    """Each text that all readers read as one before it, with that one."""
    first: dict[tuple[tuple[int, ...], ...], str] = {}
    pairs = []
    for text in texts:
        before = first.setdefault(tuple(reader.read(text) for reader in readers), text)
        if before is not text:
            pairs.append((before, text))
    return pairs


def why_alike(readers: Sequence[Reader], pair: tuple[str, str]) -> str:
    """Two texts that are read alike, told by the words that are lost of them."""
    reader = max(readers, key=lambda reader: reader.length)
    lost = " and ".join(f"'… {reader.lost(text)}'" for text in pair)
    return (
        f"{reader.name} reads {reader.length} tokens, and two texts are the same to it, since it loses their "
        f"ends: {lost}; both begin '{pair[0][:40]}…'"
    )


def check_prompts(cfg: GuidanceConfig, prompts: Sequence[str]) -> list[str]:
    """What of these prompts, with the words for the view, the prior that `cfg` names does not read: a line
    each for words of prompts and words for views.

    Nothing where no prompt is long enough for it, or where the prior is not on this machine. Raises UserError
    where two prompts are the same to it.
    """
    texts = {p: [view_prompt(cfg.view_prompt, p, view) for view in VIEWS] for p in prompts}
    most = max((len(text.encode()) for each in texts.values() for text in each), default=0)
    folder = _folder(cfg)
    try:
        fewest = min(_length(folder, part) for part in _tokenizers(folder)) if folder else 0
    except (OSError, ValueError, KeyError, AttributeError):
        return []
    if folder is None or most + 3 <= fewest:  # a token is a byte or more, and two are marks
        return []
    readers = readers_of(folder, cfg.prior)
    if not readers:
        return []
    if pairs := alike(readers, list(prompts)):
        raise UserError(f"prior {why_alike(readers, pairs[0])}")
    told = []
    blind = [p for p, each in texts.items() if alike(readers, each)]
    if blind:
        told.append(
            f"the views of {len(blind)} prompts are all the same to it, such as those of '{blind[0]}'"
        )
    reader = min(readers, key=lambda reader: reader.length)
    cut = {p: reader.lost(each[0]) for p, each in texts.items() if reader.lost(each[0])}
    if cut:
        prompt, lost = next(iter(cut.items()))
        told.append(f"the ends of {len(cut)} prompts are lost, such as '… {lost}' of '{prompt[:40]}…'")
    return [f"prior {reader.name} reads {reader.length} tokens: {line}" for line in told]


def readers_of(folder: Path, name: str) -> list[Reader]:
    """The text encoders of a pipeline folder; [] where one cannot be read, which whoever loads it tells."""
    import transformers

    transformers.logging.set_verbosity_error()  # it would say of each text what is said here
    found = []
    try:
        for part in _tokenizers(folder):
            about = parse_json((folder / part / "tokenizer_config.json").read_bytes())
            cls = getattr(transformers, about["tokenizer_class"].removesuffix("Fast"))
            take: Any = cls.from_pretrained(folder / part, local_files_only=True)
            found.append(Reader(name, lambda text, take=take: take(text).input_ids, _length(folder, part)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError):
        return []
    return found


def _folder(cfg: GuidanceConfig) -> Path | None:
    for folder in (WEIGHTS / cfg.prior, Path(cfg.prior).expanduser()):
        if (folder / "model_index.json").is_file():
            return folder
    if not hub.is_hub_id(cfg.prior):
        return None
    return hub.stored(cfg.prior, cfg.revision, ["model_index.json"])


def _tokenizers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("tokenizer*") if path.is_dir())


def _length(folder: Path, tokenizer: str) -> int:
    """As many tokens as a CLIP encoder has places; what the family takes of a T5."""
    encoder = parse_json(
        (folder / tokenizer.replace("tokenizer", "text_encoder") / "config.json").read_bytes()
    )
    places = encoder.get("max_position_embeddings")
    if places is None:
        index = parse_json((folder / "model_index.json").read_bytes())
        return family_of(index).text_tokens
    most = parse_json((folder / tokenizer / "tokenizer_config.json").read_bytes()).get("model_max_length")
    return int(min(places, most or places))
