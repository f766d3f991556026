"""How a study is made: who is paired, what a rater gets, and that no file tells two methods apart."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eval.preference.app import Application
from eval.preference.design import Design, Exclusion, Pair, Question, Side, load_design
from eval.preference.making import new_study, parse_questions
from eval.preference.media import SIDE, n_frames
from eval.preference.trials import draw_trials
from eval.preference.votes import load_ballots
from harness.cli import main
from harness.config import UserError
from tests.eval.conftest import COLOURS, PROMPTS, TOY, Sweep
from tests.smallstudy import fill_runs, make_study, tokens


def design(pairs: int, ties: int, repeats: int, methods: int = 2) -> Design:
    names = [f"m{k}" for k in range(methods)]
    made = []
    for index in range(pairs + ties):
        a = names[index % methods]
        b = names[(index + 1) % methods] if index < pairs else a
        sides = (Side(method=a, run=f"{a}-{index}"), Side(method=b, run=f"{b}-{index}"))
        made.append(
            Pair(
                pair=f"p{index}",
                kind="real" if index < pairs else "tie",
                prompt=f"thing {index}",
                seed=0,
                a=sides[0],
                b=sides[1],
                media={"a": "x", "b": "y"},
            )
        )
    return Design(
        version=1,
        title="t",
        created="",
        methods=names,
        questions=[Question(id="overall", text="?")],
        consent="c",
        mark="",
        prior="",
        runs="",
        seed=0,
        repeats=repeats,
        ties=ties,
        exclusion=Exclusion(),
        pairs=made,
    )


@st.composite
def designs(draw: st.DrawFn) -> Design:
    pairs = draw(st.integers(1, 30))
    hidden = st.integers(0, pairs // 2)
    return design(pairs, draw(hidden), draw(hidden), draw(st.integers(2, 4)))


@given(designs(), st.integers(0, 2**62))
@settings(max_examples=150, deadline=None)
def test_sides_are_balanced_and_repeats_come_late_and_swapped(made: Design, seed: int):
    trials = draw_trials(made, seed, {})
    assert [trial.position for trial in trials] == list(range(len(trials)))
    first = {trial.pair: trial for trial in trials if not trial.repeat}
    assert sorted(first) == sorted(pair.pair for pair in made.pairs)
    assert len(trials) == len(first) + made.repeats
    for methods in {pair.methods for pair in made.real}:
        lefts = Counter(first[pair.pair].left for pair in made.real if pair.methods == methods)
        assert abs(lefts["a"] - lefts["b"]) <= 1
    again = [trial for trial in trials if trial.repeat]
    assert len({trial.pair for trial in again}) == made.repeats
    real = {pair.pair for pair in made.real}
    for trial in again:
        before = first[trial.pair]
        assert trial.pair in real and trial.left != before.left
        assert trial.position - before.position > len(first) // 3
    assert draw_trials(made, seed, {}) == trials


@given(st.integers(2, 20), st.integers(2, 20), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_raters_share_the_pairs_evenly(pairs: int, per_rater: int, raters: int):
    made = design(pairs, 1, 1)
    per_rater = min(per_rater, pairs)
    given_: Counter[str] = Counter()
    for seed in range(raters):
        trials = draw_trials(made, seed, given_, per_rater)
        given_.update(trial.pair for trial in trials if not trial.repeat)
        assert len(trials) == per_rater + 2
    counts = [given_[pair.pair] for pair in made.real]
    assert max(counts) - min(counts) <= 1


def test_runs_are_paired_by_prompt_and_seed_in_the_suites_order(tmp_path: Path, runs: Sweep):
    runs.add("tp_sds", PROMPTS[3], 0)  # alone
    runs.add("uniform_sds", PROMPTS[4], 0, end="failed")
    runs.add("tp_sds", PROMPTS[4], 0)
    made = new_study(runs.root, ["uniform_sds", "tp_sds"], tmp_path / "s", questions=parse_questions([]))
    assert [(pair.prompt, pair.seed) for pair in made.real] == [(p, s) for p in PROMPTS[:3] for s in (0, 1)]
    assert all(pair.methods == ("uniform_sds", "tp_sds") for pair in made.real)
    assert (made.ties, made.repeats, made.mark) == (1, 1, "toy")
    assert [pair.a == pair.b for pair in made.pairs] == [False] * 6 + [True]
    assert made == load_design(tmp_path / "s")
    fewer = new_study(
        runs.root, ["uniform_sds", "tp_sds"], tmp_path / "f", questions=made.questions, prompts=2
    )
    assert {pair.prompt for pair in fewer.real} == set(PROMPTS[:2])


def test_every_two_of_three_methods_are_compared_at_the_steps_all_have(tmp_path: Path):
    runs = fill_runs(tmp_path / "runs", PROMPTS[:2], ("a_sds", "b_sds", "c_sds"))
    runs.add("a_sds", PROMPTS[0], 0, config=TOY.model_copy(update={"steps": 40}))
    methods = ["c_sds", "a_sds", "b_sds"]
    made = new_study(runs.root, methods, tmp_path / "s", questions=parse_questions([]), ties=3)
    assert Counter(pair.methods for pair in made.real) == {
        ("c_sds", "a_sds"): 2, ("c_sds", "b_sds"): 2, ("a_sds", "b_sds"): 2,
    }  # fmt: skip
    assert {pair.a.method for pair in made.hidden} == {"a_sds", "b_sds", "c_sds"}


def test_no_file_tells_two_runs_apart(tmp_path: Path):
    study = make_study(tmp_path, PROMPTS[:3], methods=("a_sds", "b_sds", "c_sds"))
    made = load_design(study)
    files = sorted((study / "media").iterdir())
    assert len(files) == 2 * len(made.pairs)
    assert len({path.stat().st_size for path in files}) == 1
    assert len({path.read_bytes() for path in files}) == len(files)  # also of one run in several pairs
    shown: dict[str, set[bytes]] = {}
    for pair in made.pairs:
        for name, side in ((pair.media["a"], pair.a), (pair.media["b"], pair.b)):
            with Image.open(study / "media" / name) as picture:
                picture.load()
                assert picture.size == (4 * SIDE, SIDE)
                assert not {"exif", "xmp", "icc_profile"} & picture.info.keys()
                shown.setdefault(side.run, set()).add(picture.tobytes())
                middle = np.asarray(picture)[SIDE // 4 : -SIDE // 4, : SIDE // 2].mean((0, 1))
            colour = list(COLOURS.values())[made.methods.index(side.method)]
            assert np.abs(middle - colour).max() < 25
    assert all(len(looks) == 1 for looks in shown.values()) and len(shown) == 9


def test_turntables_are_shown_where_every_run_has_one(tmp_path: Path):
    runs = fill_runs(tmp_path / "runs", PROMPTS[:2])
    folders = sorted(runs.root.glob("*_sds-*"))
    out = tmp_path
    for index, folder in enumerate(folders):
        reds = [2 * k * (index == 0) for k in range(120)]  # the others do not change, so they are one frame
        frames = [Image.new("RGB", (32, 32), (red, 0, 0)) for red in reds]
        (folder / "turntable").mkdir()
        movie = folder / "turntable" / "colour.webp"
        frames[0].save(movie, save_all=True, append_images=frames[1:], lossless=True, duration=40)
        out = tmp_path / f"s{index}"
        made = new_study(runs.root, ["tp_sds", "uniform_sds"], out, questions=parse_questions([]))
        assert n_frames(out / "media" / made.pairs[0].media["a"]) == (40 if folder == folders[-1] else 4)
    [first] = [pair for pair in made.real if pair.a.run == folders[0].name]
    with Image.open(out / "media" / first.media["a"]) as strip:
        reds_F = np.asarray(strip).reshape(SIDE, 40, SIDE, 3)[SIDE // 2, :, SIDE // 2, 0]
    assert np.abs(reds_F - 6.0 * np.arange(40)).max() < 8  # every third frame, in order


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--a", "tp_sd", "--b", "uniform_sds"], "'tp_sds'"),
        (["--a", "tp_sds", "--b", "tp_sds"], "two different"),
        (["--a", "tp_sds", "--b", "uniform_sds", "--repeats", "4"], "at most 3"),
        (["--a", "tp_sds", "--b", "uniform_sds", "--question", "shap"], "'shape'"),
        (["--a", "tp_sds", "--b", "uniform_sds", "--question", "Q 1=what"], "lower-case"),
        (["--a", "tp_sds", "--b", "uniform_sds", "--consent", "no-such-file"], "no-such-file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str],
    says: str,
    runs: Sweep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    out = tmp_path / "made" / "study"
    monkeypatch.setattr(
        sys, "argv", ["harness", "study", "new", str(runs.root), "--out", str(out), *arguments]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("harness: ") and err.count("\n") == 1 and says in err
    assert not out.parent.exists()


def test_views_that_cannot_be_read_leave_no_study(runs: Sweep, tmp_path: Path):
    next(runs.root.glob("tp_sds-*/views/step_000020.png")).write_bytes(b"no picture")
    out = tmp_path / "made" / "study"
    with pytest.raises(UserError, match="cannot be read"):
        new_study(runs.root, ["tp_sds", "uniform_sds"], out, questions=parse_questions([]))
    assert list(out.parent.iterdir()) == []


def test_a_study_is_never_made_anew(tmp_path: Path):
    study = make_study(tmp_path, PROMPTS[:2])
    with pytest.raises(UserError, match="never changes"):
        new_study(tmp_path / "runs", ["tp_sds", "uniform_sds"], study, questions=parse_questions([]))


def test_a_design_is_fixed_by_the_first_link(tmp_path: Path):
    study = make_study(tmp_path, ["a red car", "a blue chair"], repeats=1, ties=1)
    asked = json.loads((study / "study.json").read_text())
    asked["exclusion"]["min_seconds"] = 9.0
    (study / "study.json").write_text(json.dumps(asked))
    tokens(study)  # until then everything may be changed
    tokens(study)
    asked["exclusion"]["min_seconds"] = 0.0
    (study / "study.json").write_text(json.dumps(asked))
    for attempt in (tokens, Application, load_ballots):
        with pytest.raises(UserError, match="changed after the first link"):
            attempt(study)
