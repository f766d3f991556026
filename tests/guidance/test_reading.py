"""What a text encoder loses of a text, and that it is told before anything runs."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import GuidanceConfig, UserError
from harness.guidance.reading import Reader, alike, check_prompts

LONG = " and ".join(["a red apple with a green leaf"] * 11)
LETTERS = Reader("letters", lambda text: [0, *map(ord, text), 1], 12)


@settings(deadline=None)
@given(st.text("ab ", max_size=30))
def test_what_is_lost_is_what_is_not_read(text: str) -> None:
    words = text.split()
    lost = LETTERS.lost(text).split()
    kept = words[: len(words) - len(lost)]
    assert [*kept, *lost] == words and len(" ".join(kept)) <= 10
    assert not lost or len(" ".join([*kept, lost[0]])) > 10
    assert LETTERS.read(text) == (0, *map(ord, text[:10]), 1)


def test_texts_are_alike_where_every_encoder_reads_them_alike() -> None:
    longer = Reader("more", LETTERS.ids, 16)
    texts = ["a red apple", "a red apple pie", "a cup"]
    assert alike([LETTERS], texts) == [("a red apple", "a red apple pie")]
    assert alike([LETTERS, longer], texts) == []


def guidance(prior: Path, view: str = "{prompt}, {view} view") -> GuidanceConfig:
    return GuidanceConfig(prior=str(prior), view_prompt=view)


def test_prompts_that_the_prior_cannot_tell_apart_are_refused(tiny_prior: Path) -> None:
    with pytest.raises(UserError) as told:
        check_prompts(guidance(tiny_prior), [f"{LONG} in the morning", f"{LONG} in the evening", "a cup"])
    assert "reads 24 tokens" in str(told.value) and "in the morning'" in str(told.value)
    assert "in the evening'" in str(told.value) and "\n" not in str(told.value)


def test_words_that_the_prior_does_not_read_are_told(tiny_prior: Path) -> None:
    cup = "a cup"
    assert check_prompts(guidance(tiny_prior), [cup]) == []
    views, ends = check_prompts(guidance(tiny_prior), [f"{LONG} at dawn", cup])
    assert "the views of 1 prompts are all the same to it" in views and "reads 24 tokens" in views
    assert "the ends of 1 prompts are lost" in ends and "front view'" in ends
    (only,) = check_prompts(guidance(tiny_prior, "{view} view of {prompt}"), [f"{LONG} at dawn", cup])
    assert "the ends of 1 prompts are lost" in only and "at dawn'" in only


def test_a_prior_that_cannot_be_read_is_left_to_its_loader(tiny_prior: Path, tmp_path: Path) -> None:
    prompts = [f"{LONG} in the morning", f"{LONG} in the evening"]
    assert check_prompts(guidance(tmp_path / "nowhere"), prompts) == []
    torn = shutil.copytree(tiny_prior, tmp_path / "torn")
    (torn / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "NoSuch"}))
    assert check_prompts(guidance(torn), prompts) == []
