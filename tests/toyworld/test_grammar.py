"""Captions and scenes are two forms of one thing; what is outside the language is refused by name."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import UserError
from harness.guidance.views import VIEWS
from harness.prompt import normalised
from harness.toyworld.data import held_out, scene
from harness.toyworld.grammar import KINDS, caption, check, describe, parse, sample, words
from harness.toyworld.words import CONTEXT, clip_tokenizer, write_open_clip_bpe


@given(st.integers(0, 2**32), st.sampled_from([None, *VIEWS]))
def test_a_caption_parses_back_to_its_scene(seed, view):
    found = sample(random.Random(seed))
    assert parse(caption(found, view)) == found
    assert parse(caption(found, view).upper() + ".") == found


def test_the_suite_is_153_distinct_prompts_of_the_language(suite_lines):
    assert len(suite_lines("coco")) == 153
    assert len({normalised(line) for line in suite_lines("coco")}) == 153
    for line in suite_lines("coco"):
        assert caption(parse(line)) == line
    assert len(suite_lines("smoke")) == 6
    assert set(suite_lines("smoke")) <= set(suite_lines("coco"))
    assert len(KINDS) >= 32


def test_no_training_scene_has_a_caption_of_the_suite():
    captions = {normalised(caption(scene(0, index)[0])) for index in range(600)}
    assert len(captions) > 400
    assert not captions & held_out()


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a red kup", "'kup' (nearest: 'cup')"),
        ("a red mug", "'mug' (nearest: 'cup')"),
        ("a zebra drinking tea", "'zebra'"),
        ("a cup", "no colour"),
        ("red cup", "starts with 'a' or 'an'"),
        ("a red cup with a blue sail", "a cup has handle"),
        ("a spotted red chair", "a chair has no pattern"),
        ("a red apple on a blue dog", "nothing stands on a dog"),
        ("a red bus on a white table", "a bus stands on nothing"),
        ("", "starts with"),
    ],
)
def test_a_prompt_outside_the_language_is_told_in_one_line(prompt, told):
    with pytest.raises(UserError) as error:
        check(prompt)
    assert told in str(error.value)
    assert "--preset paper" in str(error.value)
    assert "\n" not in str(error.value)


def test_both_tokenizers_give_the_same_ids_one_token_a_word(tmp_path, suite_lines):
    from open_clip.tokenizer import SimpleTokenizer

    write_open_clip_bpe(tmp_path / "bpe.txt.gz")
    theirs = SimpleTokenizer(bpe_path=str(tmp_path / "bpe.txt.gz"), context_length=CONTEXT)
    ours = clip_tokenizer()
    for line in [*suite_lines("coco"), "a dragon, overhead view."]:
        ids = ours(line).input_ids
        assert [i for i in theirs([line])[0].tolist() if i] == ids
    assert len(ours(" ".join(words())).input_ids) == len(words()) + 2


def test_the_language_is_told_on_a_page():
    page = describe()
    for kind in KINDS.values():
        assert kind.noun in page
        assert all(part in page for part in kind.parts)
