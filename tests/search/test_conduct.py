"""A search on the toy world from its first generation to a test of its winner, killed on its way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness.config import Execution, UserError
from harness.distill.runner import advance
from harness.records.folder import RunFolder, run_folders
from harness.records.identity import RunSpec
from harness.search import definition
from harness.search.axes import settings
from harness.search.conduct import Conduct
from harness.search.journal import kept, mean
from harness.sweep.grid import Suite, read_suite, write_suite
from harness.sweep.plan import make_plan

TEXT = """
title = "a small one"
source = "here"
reads = "nothing"
plan = "none"

[toy]
preset = "toy"
steps = 30
set = ["views.azimuths=1", "views.heldout_elevation=none", "views.count=3",
    "scene.kind=image", "optim.lr=0.1"]
method = "uniform_sds@knots"
start = [["knots.at=100/0", "knots.band=0"]]
references = "uniform_sds,tp_sds:iclr"
candidates = 2
generations = 2
finalists = 2
slack = 100
train = { split = "train", prompts = 2 }
validation = { split = "validation", prompts = 2 }

[[toy.axes]]
key = "knots.at"
falling = 2

[[toy.axes]]
key = "knots.band"
high = 60

[[toy.tests]]
name = "image"
title = "elsewhere"
methods = "uniform_sds,csd,tp_sds:iclr,found,csd@found"
part = { split = "test", prompts = 2, seeds = "7" }
tables = ["r_precision"]
figures = ["r_precision"]
"""


class Killed(Exception):
    """Instead of a signal."""


class Here:
    """Advances runs in this process; from the call `dies_at` on it dies first."""

    def __init__(self, dies_at: int = 1000):
        self.calls, self.dies_at = 0, dies_at

    def __call__(self, root: Path, suite: Suite, specs: Sequence[RunSpec], execution: Execution) -> int:
        self.calls += 1
        for spec in specs:
            RunFolder.create(root, spec)
        write_suite(root, suite)
        for pack in make_plan(root, specs, 16).packs:
            if self.calls == self.dies_at:
                advance(root, pack[:1], execution)
                raise Killed
            advance(root, pack, execution)
        return 0


def conduct(where: Path, text: str = TEXT, dies_at: int = 1000) -> Conduct:
    where.mkdir(exist_ok=True)
    (where / "small.toml").write_text(text)
    asked = definition.load(str(where / "small.toml"))
    runs, out = where / "runs", where / "out"
    return Conduct("small", asked, "toy", runs, out, "cpu", wandb="disabled", advance=Here(dies_at))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Conduct:
    whole = conduct(tmp_path_factory.mktemp("search") / "whole")
    assert whole.find() == 0
    return whole


def test_it_finds_fixes_and_tests(found: Conduct, capsys: pytest.CaptureFixture[str]) -> None:
    sized = found.sized
    journal, winner = kept(found.root, sized.sha256)
    assert winner and winner.candidates == len(journal.candidates) == 4
    assert settings(sized.axes, journal.candidates[0].point) == ("knots.at=100/0", "knots.band=0")
    splits = read_suite("coco").splits
    prompts = {run.spec().prompt for run in run_folders(found.root)}
    assert prompts < {*splits["train"], *splits["validation"]}
    best = max(journal.scored("validation"), key=lambda each: mean(each.scores["validation"]))
    assert 0 < winner.validation == mean(best.scores["validation"])
    assert set(journal.references) == {"uniform_sds", "tp_sds:iclr"}

    assert found.prove("image") == 0
    told = capsys.readouterr().out
    assert "show a difference of" in told and winner.sha256[:12] in told
    tested = [run.spec() for run in run_folders(found.root.with_name("search-small-toy-image"))]
    assert {spec.prompt for spec in tested} < set(splits["test"]) and {spec.seed for spec in tested} == {7}
    assert {spec.method for spec in tested} == {
        "uniform_sds", "csd", "tp_sds", "uniform_sds@knots", "csd@knots",
    }  # fmt: skip
    journal, _ = kept(found.root, sized.sha256)
    assert set(journal.tests["image"]) == {"uniform_sds", "csd", "tp_sds:iclr", "found", "csd@found"}
    table = (found.results / "search.md").read_text()
    assert "| found |" in table and "image (2 prompts)" in table and winner.sha256[:12] in table
    assert json.loads((found.results / "search.json").read_text())["winner"]["sha256"] == winner.sha256
    assert (found.results / "search.pdf").read_bytes()[:4] == b"%PDF"
    assert (found.results / "image" / "r_precision.md").is_file()


@pytest.mark.journey
@pytest.mark.parametrize("call", [1, 2, 3])
def test_killed_anywhere_it_finds_the_same(found: Conduct, call: int, tmp_path: Path) -> None:
    killed = conduct(tmp_path / "killed", dies_at=call)
    with pytest.raises(Killed):
        killed.find()
    again = replace(killed, advance=Here())
    assert again.find() == 0
    (ours, won), (theirs, best) = (kept(each.root, each.sized.sha256) for each in (again, found))
    assert won == best and ours.candidates == theirs.candidates
    calls = again.advance.calls  # type: ignore[union-attr]
    assert again.find() == 0 and again.advance.calls == calls  # type: ignore[union-attr]


def test_the_winner_is_fixed_before_it_is_tested(found: Conduct, tmp_path: Path) -> None:
    early = conduct(tmp_path / "early")
    with pytest.raises(UserError, match="nothing to be tested yet: harness search small"):
        early.prove("image")
    with pytest.raises(UserError, match="no test 'field'; this search has image"):
        found.prove("field")
    early.root.mkdir(parents=True)
    for name in ("search.json", "winner.json"):
        (early.root / name).write_bytes((found.root / name).read_bytes())
    said = json.loads((early.root / "winner.json").read_text())
    (early.root / "winner.json").write_text(
        json.dumps(said | {"settings": ["knots.at=90/0", "knots.band=0"]})
    )
    with pytest.raises(UserError, match="was changed after it was fixed"):
        early.prove("image")
    (early.root / "winner.json").write_text("{")
    with pytest.raises(UserError, match=r"winner\.json: cannot be read; move search\.json and winner\.json"):
        early.find()
    (early.root / "winner.json").write_text(json.dumps(said))
    (early.root / "search.json").unlink()
    for each in (early.find, lambda: early.prove("image")):
        with pytest.raises(UserError, match=r"winner\.json is there without its search\.json: put that back"):
            each()
    (early.root / "search.json").write_bytes((found.root / "search.json").read_bytes())
    other = conduct(tmp_path / "early", TEXT.replace("generations = 2", "generations = 3"))
    with pytest.raises(UserError, match="of another definition of the search"):
        other.find()


@pytest.mark.journey
def test_hours_end_it_between_generations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = replace(conduct(tmp_path / "short"), hours=1e-9)
    assert short.find() == 0
    journal, _ = kept(short.root, short.sized.sha256)
    assert {each.generation for each in journal.candidates} == {0}
    assert "is spent after 1 generations" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('split = "validation"', 'split = "train"', "the splits of train, validation and tests are apart"),
        ('split = "test"', 'split = "train"', "the splits of train, validation and tests are apart"),
        (",found,csd@found", "", "'found' is not among them"),
        ('uniform_sds,tp_sds:iclr"\nc', 'tp_sds:iclr"\nc', "references: uniform_sds"),
        ("knots.at=100/0", "knots.at=100/50/0", "has 2 numbers"),
        ('key = "knots.band"', 'key = "knots.at"', "axes: each is another setting"),
        ("finalists = 2", "finalist = 2", "finalist"),
    ],
)
def test_a_definition_that_does_not_fit_is_one_line(old: str, new: str, reason: str, tmp_path: Path) -> None:
    assert old in TEXT
    with pytest.raises(UserError, match=reason):
        conduct(tmp_path / "wrong", TEXT.replace(old, new))


@pytest.mark.parametrize("name", definition.names())
def test_the_searches_that_come_with_it_resolve(name: str) -> None:
    asked = definition.load(name)
    for size in ("toy", "paper"):
        sized = asked.size(size)
        for point in sized.starts:
            assert len(sized.of_candidate(point, sized.train).resolve()[1]) > 1
        for test in sized.tests:
            for _, request in sized.of_test(test, settings(sized.axes, sized.starts[0])):
                assert request.resolve()[1]
    with pytest.raises(UserError, match=f"no search 'x{name}'; did you mean '{name}'"):
        definition.load(f"x{name}")
