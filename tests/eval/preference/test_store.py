"""The study's database: an answer is taken once, in order, and whole."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from eval.preference.store import CHOICES, DATABASE, Choice, Refused, Store, Trial, token_hash
from harness.config import UserError

TRIALS = [Trial(0, "p0", False, "a"), Trial(1, "p1", False, "b"), Trial(2, "p0", True, "b")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / DATABASE, create=True) as made:
        made.add_rater("r1", 7, TRIALS, token="secret").result()
        yield made


def stored(store: Store) -> list[tuple]:
    with sqlite3.connect(store.path) as db:
        return db.execute("SELECT rater, position, question, choice FROM answers ORDER BY 1, 2, 3").fetchall()


def test_answers_are_taken_in_order_once_and_until_the_end(store: Store):
    both: dict[str, Choice] = {"shape": "left", "overall": "tie"}
    changed: dict[str, Choice] = {"shape": "right", "overall": "tie"}
    with pytest.raises(Refused, match="agree"):
        store.answer("r1", 0, both).result()
    store.consent("r1").result()
    with pytest.raises(Refused, match="not the next"):
        store.answer("r1", 1, both).result()
    store.answer("r1", 0, both).result()
    store.answer("r1", 0, both).result()  # the same again: a retry
    with pytest.raises(Refused, match="first answer stands"):
        store.answer("r1", 0, changed).result()
    assert stored(store) == [("r1", 0, "overall", "tie"), ("r1", 0, "shape", "left")]
    assert store.next_trials("r1", 5) == TRIALS[1:]
    for position in (1, 2):
        store.answer("r1", position, both).result()
    rater = store.rater_of("secret")
    assert rater and rater.finished and store.next_trials("r1") == []
    store.answer("r1", 2, both).result()  # a retry of the last
    with pytest.raises(Refused):
        store.answer("r1", 2, {"shape": "right"}).result()
    assert len(stored(store)) == 6


def test_of_two_answers_at_once_one_stands(store: Store):
    store.consent("r1").result()
    refused, barrier = [], threading.Barrier(8)

    def post(choice: Choice) -> None:
        barrier.wait()
        try:
            store.answer("r1", 0, {"shape": choice}).result()
        except Refused as error:
            refused.append(error)

    threads = [threading.Thread(target=post, args=(CHOICES[k % 2],)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stored(store)) == 1 and len(refused) == 4  # who said the same is content


def test_a_job_that_fails_is_undone_alone(store: Store):
    def fails(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO answers VALUES ('r1', 0, 'shape', 'left', 0, 0)")
        db.execute("INSERT INTO answers VALUES ('r1', 0, 'overall', 'best', 0, 0)")

    hold = threading.Event()
    store.write(lambda db: hold.wait())  # so that the next two share a commit
    failed, consented = store.write(fails), store.consent("r1")
    hold.set()
    with pytest.raises(sqlite3.IntegrityError):
        failed.result()
    consented.result()
    rater = store.rater_of("secret")
    assert rater and rater.consented and stored(store) == []


def test_seconds_are_no_more_than_passed_since_the_trial_was_shown(store: Store):
    store.consent("r1").result()
    for position, told in enumerate((0.25, 1e9, float("inf"))):
        store.show("r1", position).result()
        if position == 0:
            store.write(lambda db: db.execute("UPDATE trials SET shown = shown - 60 WHERE position = 0"))
        store.answer("r1", position, {"shape": "tie"}, told).result()
    with sqlite3.connect(store.path) as db:
        seconds = [row[0] for row in db.execute("SELECT seconds FROM answers ORDER BY position")]
    assert seconds[0] == 0.25 and all(0 <= took < 30 for took in seconds[1:])


def test_only_a_hash_of_the_token_is_kept(store: Store):
    assert store.rater_of("secret") and not store.rater_of("secres") and not store.rater_of("")
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert db.execute("SELECT token_sha256 FROM raters").fetchone() == (token_hash("secret"),)
    assert b"secret" not in store.path.read_bytes()


def test_people_and_judges_never_share_a_file(store: Store, tmp_path: Path):
    with pytest.raises(ValueError, match="judge"):
        store.add_rater("j", 0, TRIALS, kind="judge")
    with pytest.raises(sqlite3.IntegrityError, match="never share"):
        store.write(lambda db: db.execute("INSERT INTO raters(rater, kind) VALUES ('j', 'judge')")).result()
    with Store(tmp_path / "judge-clip.db", create=True) as judges:
        judges.add_rater("j", 0, TRIALS, kind="judge", name="clip").result()
        with pytest.raises(ValueError, match="human"):
            judges.add_rater("r", 0, TRIALS, token="t")


def test_what_is_no_database_is_told(tmp_path: Path):
    with pytest.raises(UserError, match="study new"):
        Store(tmp_path / DATABASE)
    (tmp_path / DATABASE).write_bytes(b"no database at all, but long enough to be looked at" * 20)
    with pytest.raises(UserError, match="cannot be used"):
        Store(tmp_path / DATABASE)
