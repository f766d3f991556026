from __future__ import annotations

import collections
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eval.metrics.r_precision import score_run
from eval.scorers.clip import Clip
from eval.scorers.features import cache_key
from eval.scorers.retrieval import Pool, Scorer, cut_captions, load_pool, retrieve
from eval.sources.load import load_runs
from harness.config import UserError
from tests.eval.conftest import PROMPTS, Sweep

similarities = st.tuples(st.integers(2, 9), st.integers(1, 12)).flatmap(
    lambda shape: hnp.arrays(np.float32, shape, elements=st.sampled_from([k / 4 for k in range(-4, 5)]))
)


def brute_force(rows: list[list[float]], target: int) -> dict[str, float]:
    """The definition, word by word, without numpy."""

    def first_best(values: list[float]) -> int:
        return max(range(len(values)), key=lambda i: (values[i], -i))

    ring = rows[:-1]
    means = [sum(row[p] for row in ring) / len(ring) for p in range(len(rows[0]))]
    winners = [first_best(row) for row in ring]
    votes = collections.Counter(winners)
    most = max(votes.values())
    majority = max((p for p in votes if votes[p] == most), key=lambda p: (means[p], -p))
    return {
        "majority": float(majority == target),
        "per_view": sum(winner == target for winner in winners) / len(ring),
        "mean_sim": float(first_best(means) == target),
        "held_out": float(first_best(rows[-1]) == target),
    }


@settings(max_examples=200, deadline=None)
@given(similarities)
def test_equals_a_brute_force_implementation(similarity_VP: np.ndarray) -> None:
    for target in range(similarity_VP.shape[1]):
        score = retrieve(similarity_VP, len(similarity_VP) - 1).score(target)
        assert vars(score) == pytest.approx(brute_force(similarity_VP.tolist(), target))


@settings(max_examples=50, deadline=None)
@given(similarities, st.randoms())
def test_the_order_of_the_ring_does_not_matter(similarity_VP: np.ndarray, shuffle) -> None:
    order = list(range(len(similarity_VP) - 1))
    shuffle.shuffle(order)
    other = similarity_VP[[*order, len(similarity_VP) - 1]]
    for target in range(similarity_VP.shape[1]):
        assert retrieve(similarity_VP, len(similarity_VP) - 1).score(target) == retrieve(
            other, len(other) - 1
        ).score(target)


@settings(max_examples=50, deadline=None)
@given(similarities)
def test_exactly_one_caption_is_retrieved(similarity_VP: np.ndarray) -> None:
    scores = [
        retrieve(similarity_VP, len(similarity_VP) - 1).score(target)
        for target in range(similarity_VP.shape[1])
    ]
    for name in ("majority", "per_view", "mean_sim", "held_out"):
        values = [getattr(score, name) for score in scores]
        assert sum(values) == pytest.approx(1) and all(0 <= value <= 1 for value in values)


def test_a_tied_vote_goes_to_the_higher_mean_similarity() -> None:
    similarity_VP = np.array([[0.9, 0.1, 0.8], [0.9, 0.1, 0.8], [0.0, 0.7, 0.6], [0.0, 0.7, 0.6], [0, 0, 1]])
    got = retrieve(similarity_VP, 4)
    assert got.ring == (0, 0, 1, 1) and got.held_out == 2
    assert got.majority == 0, "caption 2 has the highest mean but no vote"
    assert got.mean_sim == 2


def test_noise_retrieves_at_chance() -> None:
    pool, rng = 10, np.random.default_rng(0)
    hits = [retrieve(rng.standard_normal((9, pool)), 8).score(3).majority for _ in range(4000)]
    assert np.mean(hits) == pytest.approx(1 / pool, abs=0.02)


def test_without_a_held_out_view_its_score_is_missing() -> None:
    score = retrieve(np.array([[0.2, 0.9]]), 1).score(1)
    assert (score.majority, score.per_view, score.mean_sim) == (1, 1, 1) and np.isnan(score.held_out)


@pytest.mark.parametrize(("views", "ring"), [(1, 0), (3, 1), (1, 2)])
def test_another_number_of_views_is_refused(views: int, ring: int) -> None:
    with pytest.raises(ValueError, match="at most one more"):
        retrieve(np.zeros((views, 4)), ring)


def test_a_pool_must_tell_its_captions_apart() -> None:
    with pytest.raises(UserError, match="twice"):
        Pool("p", "0", ("a red cup", "A red cup."))
    with pytest.raises(UserError, match="empty"):
        Pool("p", "0", ())
    assert Pool("p", "0", PROMPTS).index("A blue CAR.") == 1


@pytest.fixture
def scorer(clip: Clip, runs: Sweep) -> Scorer:
    return Scorer.over(clip, load_pool(runs.root, runs.suite.sha256))


def test_scores_equal_similarities_taken_one_by_one(runs: Sweep, scorer: Scorer) -> None:
    for run in load_runs(runs.root)[0][:4]:
        scores, problems = score_run(run, scorer)
        assert not problems and list(scores) == [10, 20]
        for step, score in scores.items():
            image_rows = [scorer.clip.embed_images([view])[0] for view in run.views(step)]
            text_rows = [scorer.clip.embed_texts([caption])[0] for caption in PROMPTS]
            rows = [[float(image @ text) for text in text_rows] for image in image_rows]
            assert vars(score) == pytest.approx(brute_force(rows, PROMPTS.index(run.prompt)))


def test_the_cache_is_used_and_follows_the_views(runs: Sweep, scorer: Scorer, monkeypatch) -> None:
    run = load_runs(runs.root)[0][0]
    first = score_run(run, scorer)
    [cache] = (run.path / "eval").glob("features-*.safetensors")

    calls: list[int] = []
    embed = Clip.embed_images
    monkeypatch.setattr(
        Clip, "embed_images", lambda self, images: calls.append(len(images)) or embed(self, images)
    )
    assert score_run(run, scorer) == first and not calls
    shutil.copyfile(run.folder.views_path(10), run.folder.views_path(20))
    again, _ = score_run(run, scorer)
    assert calls == [5] and again[20] == again[10] == first[0][10]
    cache.write_text("{")
    assert score_run(run, scorer)[0] == again and calls == [5, 5, 5]


def test_another_scorer_is_another_cache(clip: Clip) -> None:
    other = Clip(clip.tag, "0" * 64, clip.model, clip.tokenizer, clip.device)
    assert cache_key(clip) != cache_key(other)


@pytest.mark.parametrize("damage", [b"", b"not a picture", None, 200, "tiles"])
def test_damaged_views_are_that_runs_failure(runs: Sweep, scorer: Scorer, damage) -> None:
    run = load_runs(runs.root)[0][0]
    path = run.folder.views_path(20)
    if damage is None:
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        path.mkdir()
    elif damage == "tiles":
        run.folder.save_views(20, np.zeros((3, 16, 16, 3), np.uint8))
    else:
        path.write_bytes(path.read_bytes()[:damage] if isinstance(damage, int) else damage)
    scores, problems = score_run(run, scorer)
    assert 20 not in scores and "step 20" in problems[20] and "\n" not in problems[20]


def test_a_prompt_outside_the_pool_is_that_runs_failure(runs: Sweep, scorer: Scorer) -> None:
    folder = runs.add("tp_sds", "a purple clock", 0, shows=PROMPTS[0])
    run = next(run for run in load_runs(runs.root)[0] if run.run_id == folder.id)
    scores, problems = score_run(run, scorer)
    assert not scores and "not in the pool" in problems[20]


def test_a_missing_pool_is_one_line(runs: Sweep) -> None:
    shutil.rmtree(runs.root / "suites")
    with pytest.raises(UserError, match="pool of these runs"):
        load_pool(runs.root, runs.suite.sha256)


def test_captions_that_are_the_same_to_the_scorer_are_refused(clip: Clip, clip_folder: Path) -> None:
    long = " ".join(["a red cup"] * 12)
    prompts = (f"{long} at dawn", f"{long} at dusk", "a blue car")
    with pytest.raises(UserError, match="reads 24 tokens, and two texts are the same to it") as told:
        Scorer.over(clip, Pool("three", "", prompts))
    assert "at dawn'" in str(told.value) and "at dusk'" in str(told.value)
    refused, cut = (cut_captions(each, [str(clip_folder)]) for each in (prompts, prompts[1:]))
    assert len(refused) == 1 and "R-Precision will be refused: scorer" in refused[0]
    assert len(cut) == 1 and "loses the ends of 1 captions" in cut[0] and "at dusk'" in cut[0]
    assert cut_captions(PROMPTS, [str(clip_folder)]) == []
    Scorer.over(clip, Pool("two", "", prompts[1:]))
