"""From a study's database to its results: simulated raters of known preference through the real store."""

from __future__ import annotations

import io
import json
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats as scipy_stats
from starlette.testclient import TestClient

from eval.preference.app import Application
from eval.preference.results import export_votes, preference, study_tables, write_results
from eval.preference.store import Store
from eval.preference.trials import draw_trials
from eval.preference.votes import Ballots, load_ballots
from eval.tables.table import Number, Table
from harness.config import UserError
from tests.eval.preference.simulation import SECONDS, Simulated, design, prefers
from tests.smallstudy import METHODS, begin, make_study, pictures, reply, tokens

SHARE, TIES, RATERS = 0.75, 0.1, 30
WIN_RATE = SHARE * (1 - TIES) + TIES / 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 attentive raters of 24 pairs, and four who are not, each in another way; one link is unused."""
    study = Simulated(tmp_path_factory.mktemp("studies") / "one", design())
    study.rate([f"r{index:02d}" for index in range(RATERS)], prefers(SHARE, TIES))
    study.rate(["one-side"], prefers(SHARE), always="left")
    study.rate(["hasty"], prefers(SHARE), seconds=0.2)
    study.rate(["leaver"], prefers(SHARE), stops_after=5)
    study.rate(["wavers"], prefers(SHARE), wavers=True)
    study.rate(["idle"], prefers(SHARE), stops_after=0)
    return study.folder


@pytest.fixture(scope="module")
def ballots(folder: Path) -> Ballots:
    return load_ballots(folder)


def named(tables: list[Table]) -> dict[str, Table]:
    return {table.name: table for table in tables}


def test_votes_are_in_terms_of_the_pair_whatever_side_it_stood_on(folder: Path, ballots: Ballots) -> None:
    with sqlite3.connect(folder / "study.db") as db:
        rows = db.execute(
            "SELECT a.rater, a.position, a.question, a.choice, t.left FROM answers a "
            "JOIN trials t ON a.rater = t.rater AND a.position = t.position"
        ).fetchall()
    other = {"a": "b", "b": "a"}
    told = {
        (rater, position, question): "tie" if choice == "tie" else left if choice == "left" else other[left]
        for rater, position, question, choice, left in rows
    }
    key = zip(*(ballots.answers[name] for name in ("rater", "position", "question")), strict=True)
    ours = dict(zip(key, ballots.answers["winner"], strict=True))
    assert ours == told and len(ours) == (RATERS + 3) * 30 * 2 + 5 * 2
    assert set(ballots.answers["left"]) == {"a", "b"}


def test_every_rule_excludes_the_one_who_breaks_it_and_nobody_else(ballots: Ballots) -> None:
    excluded = ballots.excluded
    assert {rater: why.split()[0] for rater, why in excluded.items()} == {
        "one-side": "min_repeat_consistency",
        "hasty": "min_seconds",
        "leaver": "min_answered",
        "wavers": "min_repeat_consistency",
    }
    assert excluded["one-side"] == (
        "min_repeat_consistency 0.5: 0.00; max_same_side 0.9: 1.00; max_decided_ties 0.9: 1.00"
    )
    assert "idle" not in ballots.raters and ballots.given["idle"] == 30
    attentive = ballots.raters["r07"]
    assert (attentive.answered, attentive.given, attentive.seconds) == (30, 30, SECONDS)
    assert attentive.consistent == attentive.repeats == 6 and (attentive.decided, attentive.ties) == (0, 6)


def test_the_win_rate_is_the_known_one_within_its_intervals(ballots: Ballots) -> None:
    for question in ("alignment", "overall"):
        found = preference(ballots, question, "tp_sds", "uniform_sds")
        assert found is not None
        assert (found.n_raters, found.n_pairs, found.both.n_runs, found.both.n_prompts) == (30, 24, 720, 12)
        for low, high in (
            (found.both.low, found.both.high),
            found.wilson,
            (found.raters.low, found.raters.high),
        ):
            assert low < found.both.value < high and low < WIN_RATE < high
        assert scipy_stats.binomtest(found.n_ties, 720, TIES).pvalue > 1e-3
        mirrored = preference(ballots, question, "uniform_sds", "tp_sds")
        assert mirrored is not None and mirrored.both.value == pytest.approx(1 - found.both.value)
        assert mirrored.both.low == pytest.approx(1 - found.both.high)


def test_repeats_and_hidden_ties_are_no_votes(ballots: Ballots) -> None:
    votes = ballots.votes(kept=False)
    assert not any(votes["repeat"]) and not any(votes["tie"])
    assert not any(votes.duplicated(["rater", "pair", "question"]))
    assert len(ballots.checks()) == RATERS * 3 * 2 == len(ballots.hidden_ties())


def test_results_say_who_was_left_out_and_what_they_would_have_changed(
    ballots: Ballots, tmp_path: Path
) -> None:
    tables = named(write_results(ballots, tmp_path / "out"))
    assert list(tables) == ["preference", "preference_all", "agreement", "raters"]
    kept, everyone = (tables[name].rows for name in ("preference", "preference_all"))
    assert [row[5] for row in kept] == [30, 30] and [row[5] for row in everyone] == [34, 34]
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert {f"{name}.{kind}" for name in tables for kind in ("md", "csv", "tex")} <= set(written)
    assert "excluded: hasty (min_seconds 1: 0.20)" in written["results.md"]
    assert "toy · preference v2 · 34 people answered, 4 excluded" in written["results.md"]
    assert "links without an answer: 1" in written["results.md"]
    data = json.loads(written["results.json"])
    assert data["exclusion"]["min_seconds"] == 1 and data["judge"] is None and data["rests on"]["toy"] == 1
    row = next(row for row in data["tables"]["preference"] if row["question"] == "overall")
    found = preference(ballots, "overall", "tp_sds", "uniform_sds")
    assert found and row["win rate, %"]["low"] == found.both.low and row["votes"] == 720
    assert not any("name of" in text for text in written.values())


def test_agreement_repeats_and_hidden_ties_are_told(ballots: Ballots) -> None:
    table = named(study_tables(ballots)[0])["agreement"]
    [alignment, _] = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    alpha, consistent = alignment["alpha"], alignment["repeats: same, %"]
    # Raters who choose alike and independently agree by chance alone.
    assert isinstance(alpha, Number) and abs(alpha.value) < 0.05 and alpha.low <= alpha.value <= alpha.high
    assert isinstance(consistent, Number) and consistent.value == 1
    same = alignment["same vote, %"]
    expected = TIES**2 + (1 - TIES) ** 2 * (SHARE**2 + (1 - SHARE) ** 2)
    assert isinstance(same, Number) and same.value == pytest.approx(expected, abs=0.03)


def test_the_same_votes_give_the_same_files(ballots: Ballots, folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_results(load_ballots(folder), tmp_path / name)
    assert {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "two").iterdir()
    }


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_export_is_tidy_and_anonymous(ballots: Ballots, tmp_path: Path, kind: str) -> None:
    out = tmp_path / f"votes.{kind}"
    export_votes(ballots, out)
    frame = pd.read_csv(out, keep_default_na=False) if kind == "csv" else pd.read_parquet(out)
    assert len(frame) == len(ballots.answers) and set(frame["winner"]) == {"a", "b", "tie"}
    assert set(frame.loc[frame["excluded"] != "", "rater"]) == {"one-side", "hasty", "leaver", "wavers"}
    assert not {"name", "token_sha256", "time", "shown"} & set(frame.columns)
    assert b"name of" not in out.read_bytes()
    with pytest.raises(UserError, match=r"\.parquet or a \.csv"):
        export_votes(ballots, tmp_path / "votes.xlsx")


def test_three_methods_are_ranked(tmp_path: Path) -> None:
    methods = ("good", "middling", "poor")
    study = Simulated(tmp_path / "s", design(methods, ("overall",), prompts=6, seeds=1, ties=0, repeats=0))
    study.rate([f"r{index}" for index in range(20)], prefers(0.75, 0))
    ballots = load_ballots(study.folder)
    tables = named(study_tables(ballots)[0])
    assert [row[0] for row in tables["ranking"].rows] == list(methods)
    assert len(tables["preference"].rows) == 3 and "preference_all" not in tables
    strengths = [cell.value for _, _, cell, *_ in tables["ranking"].rows if isinstance(cell, Number)]
    assert sum(strengths) == pytest.approx(0, abs=1e-8)


def test_a_method_that_never_wins_has_no_strength_and_the_rest_is_told(tmp_path: Path) -> None:
    study = Simulated(
        tmp_path / "s", design(("a", "b", "c"), ("overall",), prompts=4, seeds=1, ties=0, repeats=0)
    )
    study.rate(["r1", "r2"], lambda pair, question, rng: "a", seconds=9)
    tables, notes = study_tables(load_ballots(study.folder))
    assert "ranking" not in named(tables) and any("no ranking: no Bradley–Terry" in note for note in notes)


def test_where_everybody_is_excluded_it_says_so(tmp_path: Path) -> None:
    study = Simulated(tmp_path / "s", design(prompts=4, ties=1, repeats=1))
    study.rate(["r1", "r2"], prefers(0.5), seconds=0.1)
    tables, notes = study_tables(load_ballots(study.folder))
    assert list(named(tables)) == ["preference_all", "raters"] and "no vote is left" in notes


def test_a_study_without_answers_or_without_a_study(tmp_path: Path) -> None:
    study = Simulated(tmp_path / "s", design())
    with pytest.raises(UserError, match=r"no study\.db"):
        load_ballots(study.folder)
    study.rate([], prefers(0.5))
    with pytest.raises(UserError, match="nobody has answered"):
        study_tables(load_ballots(study.folder))
    with pytest.raises(UserError, match="no study"):
        load_ballots(tmp_path)
    text = (study.folder / "study.json").read_text()
    (study.folder / "study.json").write_text(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(UserError, match="version"):
        load_ballots(study.folder)


def test_answers_of_another_study_are_refused(tmp_path: Path, folder: Path) -> None:
    small = Simulated(tmp_path / "s", design(prompts=2))
    with Store(folder / "study.db"):  # the log is folded into the file when the last one lets go
        pass
    (small.folder / "study.db").write_bytes((folder / "study.db").read_bytes())
    with pytest.raises(UserError, match="not of this study"):
        load_ballots(small.folder)
    (small.folder / "study.db").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match="cannot be read"):
        load_ballots(small.folder)


def test_a_study_is_read_while_it_goes_on_and_is_left_as_it_is(folder: Path, ballots: Ballots) -> None:
    with Store(folder / "study.db") as store:
        assert load_ballots(folder).answers.equals(ballots.answers)
        store.add_rater("late", 0, draw_trials(ballots.design, 0, {})).result()
        assert load_ballots(folder).given["late"] == 30
        store.write(lambda db: db.execute("DELETE FROM raters WHERE rater = 'late'") and None).result()
        store.write(lambda db: db.execute("DELETE FROM trials WHERE rater = 'late'") and None).result()
    now = (folder / "study.db").read_bytes()
    assert load_ballots(folder).answers.equals(ballots.answers)
    assert (folder / "study.db").read_bytes() == now


def test_who_looks_at_the_pictures_and_prefers_red_prefers_the_method_that_is_red(tmp_path: Path) -> None:
    study = make_study(tmp_path, ("a cup", "a car", "a chair"), ties=1, repeats=1)
    links = tokens(study, 2)
    with TestClient(Application(study).asgi, base_url="http://study") as client:
        for token in links:
            page = begin(client, token)
            while "Thank you" not in page.text:
                left, right = (redness(client.get(address).content) for address in pictures(page))
                page = reply(
                    client, page, "tie" if abs(left - right) < 5 else "left" if left > right else "right"
                )
    ballots = load_ballots(study)
    votes, (method, other) = ballots.votes(kept=False), METHODS
    assert len(votes) == 2 * 3 * 2 and set(votes["winner"]) == {"a"} and set(votes["method_a"]) == {method}
    found = preference(ballots, "overall", method, other, kept=False)
    assert found is not None and found.both.value == 1
    assert all(
        r.consistent == r.repeats == 2 and (r.decided, r.ties) == (0, 2) for r in ballots.raters.values()
    )


def redness(picture: bytes) -> float:
    """How much more red than blue a picture is."""
    with Image.open(io.BytesIO(picture)) as image:
        mean_C = np.asarray(image.convert("RGB"), dtype=np.float64).mean(axis=(0, 1))
    return float(mean_C[0] - mean_C[2])
