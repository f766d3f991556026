"""The CLIP judge on real run folders: its answers, that they stay apart from people's, and the claims."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from eval.command import open_runs
from eval.preference.design import load_design
from eval.preference.judge import judge_by_clip
from eval.preference.making import new_study, parse_questions
from eval.preference.results import write_results
from eval.preference.store import DATABASE, Store
from eval.preference.trials import add_raters
from eval.preference.votes import judges, load_ballots
from eval.tables import claims
from harness.cli import app
from harness.config import UserError
from harness.records.folder import run_folders
from harness.reproduce import judged
from harness.sweep.experiment import StudyAsk
from tests.eval.conftest import PROMPTS, Sweep

JUDGE = "clip-toy-tiny"


def made(root: Path, *questions: str, name: str = "one") -> Path:
    folder = root / "studies" / name
    new_study(
        root, ["tp_sds", "uniform_sds"], folder, questions=parse_questions(questions), repeats=2, ties=2
    )
    return folder


@pytest.fixture
def study(runs: Sweep) -> Path:
    return made(runs.root)


def test_the_more_similar_result_wins_and_a_result_ties_with_itself(
    study: Path, runs: Sweep, clip_folder: Path
) -> None:
    assert judge_by_clip(study, str(clip_folder), "cpu") == JUDGE
    ballots = load_ballots(study, "clip")
    assert ballots.questions == ["alignment", "overall"] and len(ballots.answers) == 2 * (6 + 2 + 2)
    votes = ballots.votes()
    by_place = {place: set(own["winner"]) for place, own in votes.groupby(["prompt", "seed"])}
    # There the baseline shows another colour than its prompt's; elsewhere the two show the same.
    assert by_place.pop((PROMPTS[0], 1)) == {"a"} and set().union(*by_place.values()) == {"tie"}
    assert set(ballots.hidden_ties()["winner"]) == {"tie"} and all(ballots.checks()["consistent"])


def test_it_answers_the_same_each_time_and_people_are_left_alone(study: Path, clip_folder: Path) -> None:
    before = (study / DATABASE).read_bytes()
    judge_by_clip(study, str(clip_folder), "cpu")
    once = load_ballots(study, JUDGE).answers
    judge_by_clip(study, str(clip_folder), "cpu")
    assert load_ballots(study, JUDGE).answers.equals(once)
    assert (study / DATABASE).read_bytes() == before and judges(study) == [JUDGE]
    assert {path.name for path in study.iterdir()} == {"study.json", "media", DATABASE, f"judge-{JUDGE}.db"}


def test_its_results_are_labelled_and_name_what_it_cannot_answer(study: Path, clip_folder: Path) -> None:
    judge_by_clip(study, str(clip_folder), "cpu")
    [table] = write_results(load_ballots(study, "clip"))
    assert (
        table.columns[:4] == ["methods", "question", "win rate, %", "Wilson's"]
        and "raters" not in table.columns
    )
    folder = study / f"results-judge-{JUDGE}"
    for name in ("results.md", "preference.md", "preference.csv", "preference.tex", "results.json"):
        assert "CLIP judge toy-tiny" in (folder / name).read_text(), name
    page = (folder / "results.md").read_text()
    assert "No person voted" in page and "not answered by CLIP judge toy-tiny" in page
    assert "shape, texture" in page and "toy · " in page and "people" not in page.replace("no people", "")


def test_no_judge_can_enter_the_study_of_people(study: Path, clip_folder: Path) -> None:
    judge_by_clip(study, str(clip_folder), "cpu")
    with Store(study / DATABASE) as store, pytest.raises(ValueError, match=r"no place in study\.db"):
        store.add_rater("x", 0, [], kind="judge").result()
    with Store(study / f"judge-{JUDGE}.db") as store, pytest.raises(ValueError, match="a human has no place"):
        store.add_rater("x", 0, []).result()
    judged = (study / f"judge-{JUDGE}.db").read_bytes()
    with sqlite3.connect(study / DATABASE) as db:
        db.execute("INSERT INTO raters(rater, kind) VALUES ('forged', 'judge')")
    with pytest.raises(UserError, match=r"not a human's \(rater forged\)"):
        load_ballots(study)
    for path in study.glob(f"{DATABASE}*"):
        path.unlink()
    (study / DATABASE).write_bytes(judged)
    with pytest.raises(UserError, match="never counted together"):
        load_ballots(study)


def test_what_a_judge_cannot_do_is_told(study: Path, runs: Sweep, clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no judge has seen"):
        load_ballots(study, "clip")
    with pytest.raises(UserError, match="alignment and overall only; the study asks shape"):
        judge_by_clip(made(runs.root, "shape", name="two"), str(clip_folder), "cpu")
    judge_by_clip(study, str(clip_folder), "cpu")
    with pytest.raises(UserError, match="no judge 'clop'"):
        load_ballots(study, "clop")
    moved = tmp_path / "elsewhere" / "study"
    moved.parent.mkdir()
    study.rename(moved)
    runs.root.rename(tmp_path / "moved")
    with pytest.raises(UserError):
        judge_by_clip(moved, str(clip_folder), "cpu")
    assert not list(moved.glob("tmp*"))
    assert judge_by_clip(moved, str(clip_folder), "cpu", tmp_path / "moved") == JUDGE
    victim = next((tmp_path / "moved").glob("tp_sds-*/views/*20.png"))
    victim.write_bytes(b"no picture")
    with pytest.raises(UserError, match="cannot be judged"):
        judge_by_clip(moved, str(clip_folder), "cpu", tmp_path / "moved")


def test_claims_ask_people_first_then_a_judge_and_nobody_else(
    runs: Sweep, study: Path, clip_folder: Path
) -> None:
    def said() -> str:
        opened = open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0)
        [row] = [row for row in claims.table(opened).rows if "80.2" in str(row[2])]
        untested = str(row[5]).startswith(claims.NOT_TESTED)
        assert row[6] == (claims.NOT_TESTED if untested else claims.NOT_DECIDED)
        return str(row[5])

    assert said() == "not tested by these runs: nobody was asked (`harness study`)"
    judge_by_clip(study, str(clip_folder), "cpu")
    assert said().startswith("58.3 [") and "% of votes (CLIP judge toy-tiny" in said(), said()
    assert ", no people; 6 pairs, “overall”, one)" in said()
    design = load_design(study)
    questions = [question.id for question in design.questions]
    with Store(study / DATABASE) as store:
        found = [store.rater_of(token) for token in add_raters(design, store, 3)]
        for rater in [each.rater for each in found if each]:
            store.consent(rater).result()
            for trial in store.next_trials(rater, 99):
                choice = "left" if trial.left == "a" else "right"
                store.answer(rater, trial.position, dict.fromkeys(questions, choice)).result()
    # Nobody is that quick: the rule that was fixed before excludes all three.
    assert "CLIP judge" in said()
    with sqlite3.connect(study / DATABASE) as db:
        db.execute("UPDATE answers SET seconds = 3")
        db.execute("UPDATE answers SET choice = 'tie' WHERE (rater, position) IN (SELECT rater, position "
                   "FROM trials WHERE pair IN ('p0006', 'p0007'))")  # the hidden ties  # fmt: skip
    assert said() == "100.0 [43.9, 100.0] % of votes (3 people; 6 pairs, “overall”, one)"


def call(*arguments: object) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


def test_from_runs_to_the_judges_results_by_commands(
    runs: Sweep, clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("study", "new", runs.root, "--a", "tp_sds", "--b", "uniform_sds", "--title", "Red or blue?")
    study = runs.root / "studies" / "red-or-blue"
    call("study", "judge", study, "--clip", clip_folder, "--device", "cpu")
    printed = capsys.readouterr().out
    assert "Preference of CLIP judge toy-tiny" in printed and "tp_sds over uniform_sds" in printed
    call("study", "results", study, "--judge", "clip", "--out", tmp_path / "out")
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    default = study / f"results-judge-{JUDGE}"
    assert written == {path.name: path.read_bytes() for path in default.iterdir()} and len(written) == 5
    call("study", "export", study, "--judge", "clip", "--out", tmp_path / "votes.csv")
    assert "CLIP" not in capsys.readouterr().err
    lines = (tmp_path / "votes.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * (6 + 1 + 1) and all("toy-tiny" in line for line in lines[1:])
    for wrong in (["results", study], ["export", study]):
        with pytest.raises(UserError, match="nobody has answered"):
            call("study", *wrong)


def test_an_experiments_study_is_made_once_and_judged_each_time(runs: Sweep, clip_folder: Path) -> None:
    ask = StudyAsk(methods=("tp_sds", "uniform_sds"), questions=("overall",))
    folder = runs.root / "studies" / "preference"
    own = {run.id for run in run_folders(runs.root) if run.spec().seed == 0}
    assert judged(folder, runs.root, own, ask, [str(clip_folder)], "cpu") == [JUDGE]
    first = (folder / "study.json").read_bytes()
    assert {pair.seed for pair in load_design(folder).pairs} == {0}
    (folder / f"judge-{JUDGE}.db").unlink()
    assert judged(folder, runs.root, own, ask, [str(clip_folder)], "cpu") == [JUDGE]
    assert (folder / "study.json").read_bytes() == first and judges(folder) == [JUDGE]
