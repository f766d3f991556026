"""Who rates, what each was given, and every answer: one SQLite file per study. No torch.

A write is on disk before it is reported: WAL with synchronous=FULL. Writes of one moment share a commit, so
that many raters do not wait for a sync each. The rules of what may be answered are here, inside the
transaction, where two requests at once cannot slip past them.
"""

from __future__ import annotations

import hashlib
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.config import UserError

Choice = Literal["left", "right", "tie"]
Name = Literal["a", "b"]  # of a pair's two runs
OTHER: dict[Name, Name] = {"a": "b", "b": "a"}
CHOICES: tuple[Choice, ...] = ("left", "tie", "right")
DATABASE = "study.db"
BUSY_SECONDS = 10.0  # how long a write waits for another process (`harness study links`) to end its own

SCHEMA = """
CREATE TABLE IF NOT EXISTS raters(
    rater TEXT PRIMARY KEY, token_sha256 TEXT UNIQUE, kind TEXT CHECK(kind IN ('human','judge')), name TEXT,
    seed INTEGER, created REAL, consented REAL, finished REAL);
CREATE TABLE IF NOT EXISTS trials(
    rater TEXT, position INTEGER, pair TEXT, repeat INTEGER, left TEXT CHECK(left IN ('a','b')), shown REAL,
    PRIMARY KEY(rater, position));
CREATE TABLE IF NOT EXISTS answers(
    rater TEXT, position INTEGER, question TEXT, choice TEXT CHECK(choice IN ('left','right','tie')),
    seconds REAL, time REAL, PRIMARY KEY(rater, position, question));
CREATE TABLE IF NOT EXISTS design(sha256 TEXT);
CREATE TRIGGER IF NOT EXISTS people_or_judges BEFORE INSERT ON raters
    WHEN EXISTS(SELECT 1 FROM raters WHERE kind IS NOT NEW.kind)
    BEGIN SELECT RAISE(ABORT, 'people and judges never share a file'); END;
"""


@dataclass(frozen=True)
class Rater:
    """What is read of a row of `raters`; times are seconds since the epoch, None for what never happened."""

    rater: str
    consented: float | None
    finished: float | None


@dataclass(frozen=True)
class Trial:
    """One comparison of one rater: which pair, and which of its runs stands left."""

    position: int
    pair: str
    repeat: bool  # a real pair that this rater has seen before, with its sides swapped
    left: Name
    shown: float | None = None


class Refused(Exception):
    """An answer that may not be taken; the message is for the rater."""


def token_hash(token: str) -> str:
    """What is kept of a link's token."""
    return hashlib.sha256(token.encode()).hexdigest()


class Store:
    """The study's database; reads are free for every thread, writes go through one.

    `create` makes the file where there is none; raises UserError for a file that is missing or is none of
    ours. Close it, or use it as a context manager.
    """

    def __init__(self, path: Path, *, create: bool = False):
        if not create and not path.exists():
            raise UserError(f"no file {path}: make the study with `harness study new`")
        self.path = path
        try:
            self._writer = self._connect()
            self._writer.executescript(SCHEMA)
            self._reader = self._connect()
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path} cannot be used as a study's database ({error})") from error
        self._jobs: queue.SimpleQueue[tuple[Callable[[sqlite3.Connection], Any], Future] | None]
        self._jobs = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"writer of {path.name}", daemon=True)
        self._thread.start()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish the writes that were asked for and let go of the file."""
        self._jobs.put(None)
        self._thread.join()
        self._writer.close()
        self._reader.close()

    # ---- writing

    def write(self, job: Callable[[sqlite3.Connection], Any]) -> Future:
        """Have `job` run in a transaction; the future has what it returned or raised once that is on disk."""
        future: Future = Future()
        self._jobs.put((job, future))
        return future

    def _work(self) -> None:
        open_ = True
        while open_:
            batch = [self._jobs.get()]
            while not self._jobs.empty():
                batch.append(self._jobs.get())
            open_ = None not in batch
            self._commit([entry for entry in batch if entry is not None])

    def _commit(self, batch: Sequence[tuple[Callable[[sqlite3.Connection], Any], Future]]) -> None:
        """All jobs in one transaction; one that raises is undone alone."""
        came: list[tuple[Future, Any, BaseException | None]] = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for job, future in batch:
                self._writer.execute("SAVEPOINT job")
                try:
                    came.append((future, job(self._writer), None))
                except Exception as error:
                    self._writer.execute("ROLLBACK TO job")
                    came.append((future, None, error))
                self._writer.execute("RELEASE job")
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            came = [(future, None, error) for _, future in batch]
        for future, value, error in came:
            future.set_exception(error) if error else future.set_result(value)

    def add_rater(
        self,
        rater: str,
        seed: int,
        trials: Sequence[Trial],
        *,
        token: str | None = None,
        kind: Literal["human", "judge"] = "human",
        name: str = "",
    ) -> Future:
        """A rater with all trials, fixed from now on; only a hash of `token` is kept.

        Raises ValueError for a judge in the file of a study, and for a human anywhere else.
        """
        if (kind == "human") != (self.path.name == DATABASE):
            raise ValueError(f"a {kind} has no place in {self.path.name}")

        def job(db: sqlite3.Connection) -> None:
            hashed = token and token_hash(token)
            row = (rater, hashed, kind, name, seed, time.time())
            db.execute("INSERT INTO raters VALUES (?, ?, ?, ?, ?, ?, NULL, NULL)", row)
            rows = [(rater, t.position, t.pair, int(t.repeat), t.left) for t in trials]
            db.executemany("INSERT INTO trials VALUES (?, ?, ?, ?, ?, NULL)", rows)

        return self.write(job)

    def fix_design(self, digest: str) -> Future:
        """Keep the digest of the study's design, unless one is kept already; the future has the one kept."""

        def job(db: sqlite3.Connection) -> str:
            db.execute("INSERT INTO design SELECT ? WHERE NOT EXISTS (SELECT 1 FROM design)", (digest,))
            return db.execute("SELECT sha256 FROM design").fetchone()[0]

        return self.write(job)

    def consent(self, rater: str) -> Future:
        """The rater has read the text and agreed; the first time counts."""
        sql = "UPDATE raters SET consented = ? WHERE rater = ? AND consented IS NULL"
        return self.write(lambda db: db.execute(sql, (time.time(), rater)) and None)

    def show(self, rater: str, position: int) -> Future:
        """A trial was sent to the rater; the first time counts."""
        sql = "UPDATE trials SET shown = ? WHERE rater = ? AND position = ? AND shown IS NULL"
        return self.write(lambda db: db.execute(sql, (time.time(), rater, position)) and None)

    def answer(
        self, rater: str, position: int, choices: Mapping[str, Choice], seconds: float = math.inf
    ) -> Future:
        """All answers of one trial, at once or not at all; `seconds` is what the rater's page measured.

        Kept is the smaller of that and the time since the trial was first shown. The same answers again
        change nothing. Raises Refused for other answers to an answered trial, for a trial out of order,
        without consent, and after the end.
        """

        def job(db: sqlite3.Connection) -> None:
            sql = "SELECT question, choice FROM answers WHERE rater = ? AND position = ?"
            before = dict(db.execute(sql, (rater, position)))
            if before == dict(choices):
                return
            if before:
                raise Refused("This comparison was answered before. The first answer stands.")
            about = db.execute("SELECT consented, finished FROM raters WHERE rater = ?", (rater,)).fetchone()
            if about is None or about[0] is None:
                raise Refused("Please read the first page and agree to it before you answer.")
            if about[1] is not None:
                raise Refused("You have finished. Nothing more is taken.")
            open_ = db.execute(f"{_OPEN} LIMIT 2", (rater,)).fetchall()
            if not open_ or open_[0][0] != position:
                raise Refused("This comparison is not the next one.")
            now, shown = time.time(), open_[0][4]
            took = min(max(seconds, 0.0), max(now - shown, 0.0) if shown else 0.0)
            rows = [(rater, position, question, choice, took, now) for question, choice in choices.items()]
            db.executemany("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)", rows)
            if len(open_) == 1:
                db.execute("UPDATE raters SET finished = ? WHERE rater = ?", (now, rater))

        return self.write(job)

    # ---- reading

    def rater_of(self, token: str) -> Rater | None:
        """Whose link holds `token`."""
        sql = "SELECT rater, consented, finished FROM raters WHERE token_sha256 = ?"
        row = self._reader.execute(sql, (token_hash(token),)).fetchone()
        return row and Rater(*row)

    def next_trials(self, rater: str, count: int = 1) -> list[Trial]:
        """The first `count` trials that the rater has not answered, in order."""
        rows = self._reader.execute(f"{_OPEN} LIMIT ?", (rater, count)).fetchall()
        return [_trial(row) for row in rows]

    def n_trials(self, rater: str) -> int:
        """How many trials the rater was given."""
        return self._reader.execute("SELECT COUNT(*) FROM trials WHERE rater = ?", (rater,)).fetchone()[0]

    def trial(self, rater: str, position: int) -> Trial | None:
        """One trial of a rater, answered or not."""
        sql = "SELECT position, pair, repeat, left, shown FROM trials WHERE rater = ? AND position = ?"
        row = self._reader.execute(sql, (rater, position)).fetchone()
        return row and _trial(row)

    def design(self) -> str | None:
        """The digest that `fix_design` kept."""
        row = self._reader.execute("SELECT sha256 FROM design").fetchone()
        return row and row[0]

    def times_given(self) -> dict[str, int]:
        """Pair → how many raters were given it, repeats aside."""
        sql = "SELECT pair, COUNT(*) FROM trials WHERE repeat = 0 GROUP BY pair"
        return dict(self._reader.execute(sql).fetchall())


_OPEN = """SELECT position, pair, repeat, left, shown FROM trials t WHERE rater = ? AND NOT EXISTS
    (SELECT 1 FROM answers a WHERE a.rater = t.rater AND a.position = t.position) ORDER BY position"""


def _trial(row: tuple) -> Trial:
    position, pair, repeat, left, shown = row
    return Trial(position, pair, bool(repeat), left, shown)
