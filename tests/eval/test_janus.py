"""The signs on made-up scores, and the whole metric on the toy world: right objects and two-faced ones."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.janus import Janus, applicable, count_peaks, floor, janus, view_scores
from eval.scorers.clip import load_clip
from harness.config import ViewsConfig
from harness.guidance.views import VIEWS
from harness.toyworld.data import suite_prompts
from harness.toyworld.grammar import parse
from harness.toyworld.kinds import primitives
from harness.toyworld.render import ground_truth, render

VIEWS_CFG = ViewsConfig()
RING = [360 * k / VIEWS_CFG.azimuths for k in range(VIEWS_CFG.azimuths)]
NO_TEXTS = np.empty((0, 0))


def ring_of(faces: int, turn: float = 0.0) -> np.ndarray:
    """Features of an object with that many fronts: each view is the angle to the nearest one."""
    angle = np.deg2rad(np.array(RING) - turn)
    return np.stack([np.cos(faces * angle), np.sin(faces * angle), np.full(len(RING), 2.0)], axis=1)


# ---- made-up features and scores


def test_a_right_object_against_its_own_truth() -> None:
    assert janus(ring_of(1), NO_TEXTS, RING, ring_of(1)) == Janus(0.0, 1, False)


def test_an_object_that_stands_the_wrong_way_round_is_not_janus() -> None:
    assert janus(ring_of(1, turn=180), NO_TEXTS, RING, ring_of(1)) == Janus(1.0, 1, False)


def test_two_faces_are() -> None:
    assert janus(ring_of(1)[[0, 1, 2, 7, 0, 1, 6, 7]], NO_TEXTS, RING, ring_of(1)) == Janus(1.0, 2, True)


def test_the_front_all_around_has_no_peak_and_is_flagged() -> None:
    assert janus(ring_of(1)[[0] * 8], NO_TEXTS, RING, ring_of(1)) == Janus(1.0, 0, True)
    assert janus(ring_of(1)[[4] * 8], NO_TEXTS, RING, ring_of(1)) == Janus(0.0, 0, False)


def test_texts_stand_for_front_side_and_back() -> None:
    front, side, back, overhead = np.eye(4)
    texts_KD = np.stack([front, side, back, overhead])
    views_VD = np.stack([front, front, side, back, back, back, side, front]) + 0.9 * overhead
    assert janus(views_VD, texts_KD, RING) == janus(views_VD, texts_KD[:3], RING) == Janus(0.0, 1, False)
    views_VD[4] = front
    assert janus(views_VD, texts_KD, RING) == Janus(1 / 3, 2, True)


def test_scores_are_cosines() -> None:
    rng = np.random.default_rng(0)
    views_VD, texts_KD = rng.normal(size=(8, 5)), rng.normal(size=(3, 5))
    expected = [[v @ t / np.linalg.norm(v) / np.linalg.norm(t) for t in texts_KD] for v in views_VD]
    assert view_scores(views_VD, texts_KD) == pytest.approx(np.array(expected))


rings = st.lists(st.integers(-20, 20), min_size=4, max_size=12).map(lambda xs: np.array(xs, dtype=float))


@given(rings, st.integers(0, 11))
def test_peaks_do_not_ask_where_the_ring_starts_and_which_way_it_goes(
    scores_V: np.ndarray, turn: int
) -> None:
    found = count_peaks(scores_V)
    assert count_peaks(np.roll(scores_V, turn)) == count_peaks(scores_V[::-1]) == found
    assert count_peaks(3 * scores_V) == found
    assert 0 <= found <= len(scores_V) // 2


def test_peaks_by_hand() -> None:
    assert count_peaks(np.array([4, 2, -1, -3, -4, -3, -1, 2.0])) == 1
    assert count_peaks(np.array([4, 2, -4, 2, 4, 2, -4, 2.0])) == 2
    assert count_peaks(np.array([4, 2, -1, -3, -2.5, -3, -1, 2.0])) == 1  # the second does not stand out
    assert count_peaks(np.array([4, 0, -4, -2, -0.1, -2, -4, 0.0])) == 1  # the second is no front
    assert count_peaks(np.array([4, 4, -4, -4, 4, 4, -4, -4.0])) == 2  # a plateau is one peak
    assert count_peaks(np.full(8, 3.0)) == 0


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="8 views at 4 azimuths"):
        janus(ring_of(1), NO_TEXTS, RING[:4], ring_of(1))
    with pytest.raises(ValueError, match="2 anchors at 3"):
        janus(ring_of(1), ring_of(1)[:2], RING)
    with pytest.raises(ValueError, match="a front and a back half is needed"):
        janus(ring_of(1)[:2], ring_of(1)[:3], [0.0, 45.0])


# ---- the toy world, with its own scorer


def turned(rows: np.ndarray) -> np.ndarray:
    """The object turned by 180° about the vertical."""
    half = np.diag([-1.0, -1.0, 1.0])
    rows = rows.copy()
    rows[:, 1:4] = rows[:, 1:4] @ half
    rows[:, 4:13] = (rows[:, 4:13].reshape(-1, 3, 3) @ half).reshape(-1, 9)
    return rows


def two_faced(rows: np.ndarray, ahead: float = 0.15) -> np.ndarray:
    """The object moved ahead and, where it was, once more turned round: a front on both sides, no back."""
    rows = rows.copy()
    rows[:, 1] += ahead
    rows[:, [1, 2, 3, 13, 14, 15, 16, 25]] *= 1 / (1 + ahead)  # back into the unit ball
    return np.concatenate([rows, turned(rows)])


@dataclass(frozen=True)
class World:
    """Features of a share of the suite: ground truth of all, and objects made anew of those with a front."""

    prompts: list[str]
    truth: np.ndarray  # [P, V, D]
    texts: np.ndarray  # [P, K, D]
    front: list[int]  # the prompts that are applicable
    anew: np.ndarray  # [n, V, D] the objects of `front` with other sizes, colours and places
    two_faced: np.ndarray  # [n, V, D]


@pytest.fixture(scope="module")
def world() -> World:
    clip = load_clip("toy-clip", "cpu")
    prompts = suite_prompts()[::5]

    def features(images_NVHWC: np.ndarray) -> np.ndarray:
        rows = clip.embed_images(list(images_NVHWC.reshape(-1, *images_NVHWC.shape[2:]))).numpy()
        return rows.reshape(*images_NVHWC.shape[:2], -1)

    def rendered(scenes: list[np.ndarray]) -> np.ndarray:
        cameras = np.array(
            [[azimuth, VIEWS_CFG.elevation, VIEWS_CFG.distance, VIEWS_CFG.fov] for azimuth in RING]
        )
        images = render([rows for rows in scenes for _ in RING], np.tile(cameras, (len(scenes), 1)))
        return images.reshape(len(scenes), len(RING), *images.shape[1:])

    truth = features(np.stack([ground_truth(prompt, VIEWS_CFG)[: len(RING)] for prompt in prompts]))
    texts = clip.embed_texts([f"{prompt}, {view} view" for prompt in prompts for view in VIEWS]).numpy()
    front = [n for n, rows_VD in enumerate(truth) if applicable(rows_VD, RING)]
    anew = [primitives(parse(prompts[n]), random.Random(prompts[n])) for n in front]
    return World(
        prompts,
        truth,
        texts.reshape(len(prompts), len(VIEWS), -1),
        front,
        features(rendered(anew)),
        features(rendered([two_faced(rows) for rows in anew])),
    )


def by_reference(world: World, features_NVD: np.ndarray) -> list[Janus]:
    truth = world.truth[world.front]
    return [janus(rows, NO_TEXTS, RING, own) for rows, own in zip(features_NVD, truth, strict=True)]


def by_text(world: World, features_NVD: np.ndarray) -> list[Janus]:
    texts = world.texts[world.front]
    return [janus(rows, own, RING) for rows, own in zip(features_NVD, texts, strict=True)]


def rates(found: list[Janus]) -> tuple[float, float, float]:
    """Mean false front rate, share with two or more peaks, share flagged."""
    signs = np.array([(one.false_front_rate, one.peaks >= 2, one.flagged) for one in found])
    return tuple(signs.mean(axis=0))


def test_only_objects_with_a_front_are_applicable(world: World) -> None:
    nouns = [parse(prompt).thing.noun for prompt in world.prompts]
    found = {nouns[n] for n in world.front}
    with_front = {"truck", "train", "couch", "bed", "tv", "laptop", "clock", "dog", "bird", "sheep"}
    round_ones = {"bottle", "vase", "bowl", "plate", "donut", "pizza", "frisbee", "traffic cone", "table"}
    assert len(with_front & set(nouns)) >= 4 and len(round_ones & set(nouns)) >= 4
    assert with_front & set(nouns) <= found
    assert not round_ones & found


def test_ground_truth_is_not_janus(world: World) -> None:
    assert by_reference(world, world.truth[world.front]) == [Janus(0.0, 1, False)] * len(world.front)
    rate, double, flagged = rates(by_reference(world, world.anew))
    assert rate <= 0.05 and double <= 0.1 and flagged <= 0.1


def test_two_faced_objects_are_janus(world: World) -> None:
    rate, double, flagged = rates(by_reference(world, world.two_faced))
    assert rate >= 0.5 and double >= 0.5 and flagged >= 0.7


def test_views_of_two_fronts_are_janus(world: World) -> None:
    # What is seen from behind is what is seen from the front.
    views = world.anew[:, [0, 1, 2, 7, 0, 1, 6, 7]]
    rate, double, flagged = rates(by_reference(world, views))
    assert rate >= 0.85 and double >= 0.85 and flagged >= 0.9


def test_turned_objects_are_not_janus(world: World) -> None:
    rate, double, flagged = rates(by_reference(world, np.roll(world.anew, 4, axis=1)))
    assert rate >= 0.85 and double <= 0.1 and flagged <= 0.1


def test_the_toy_scorers_words_do_not_serve(world: World) -> None:
    # Why ground truth is used where it exists: by texts, right objects are flagged too.
    right, wrong = (rates(by_text(world, rows)) for rows in (world.truth[world.front], world.two_faced))
    assert right[2] > 0.1
    assert right[0] > 0.1 and wrong[0] < 0.6


def test_the_floor_of_random_features_rises_with_the_azimuths() -> None:
    rng = np.random.default_rng(0)
    found = {}
    for views in (4, 8, 16):
        azimuths = [360 * k / views for k in range(views)]
        asked = [(np.ones((1, 64)), rng.normal(size=(views, 64))) for _ in range(60)]
        found[views] = floor(asked, azimuths).janus
    assert found[4] < 0.25 < 0.35 < found[8] < 0.6 < 0.75 < found[16]


def test_the_floor_of_other_objects_is_far_above_that_of_their_own(world: World) -> None:
    asked = [(NO_TEXTS, world.truth[n]) for n in world.front]
    own = floor(asked, RING, [[world.truth[n]] for n in world.front])
    others = floor(asked, RING, [[rows for k, rows in enumerate(world.truth) if k != n] for n in world.front])
    assert (own.janus, own.false_front_rate, own.peaks) == (0, 0, 1)
    assert 0.3 < others.janus < 0.6, "perfect renders of something else"
