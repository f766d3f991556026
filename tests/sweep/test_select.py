"""Choosing runs by words, and what of a folder belongs to no run."""

import json
from pathlib import Path

import pytest

from harness.config import UserError
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, SuiteRef
from harness.sweep.gc import find_waste
from harness.sweep.select import select

SUITE = SuiteRef(name="s", sha256="a" * 64, size=2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for method, variant in (("tp_sds", ""), ("tp_sds", "iclr"), ("uniform_sds", "")):
        for seed in range(3):
            params = {"preset": variant} if variant else {}
            spec = RunSpec(
                method=method,
                variant=variant,
                params=params,
                params_set=tuple(params),
                prompt="a red bus" if seed else "a green Cup",
                seed=seed,
                suite=SUITE,
            )
            RunFolder.create(tmp_path, spec)
    return tmp_path


def _count(root: Path, *words: str) -> int:
    return len(select(root, words))


def test_words_narrow_the_choice(root: Path):
    assert _count(root) == 9
    assert _count(root, "method=tp_sds") == 6
    assert _count(root, "method=tp_sds:iclr") == 3
    assert _count(root, "seed=0,2") == 6
    assert _count(root, "prompt=CUP", "method=uniform_sds") == 1
    assert _count(root, "tp_sds-*-s1-*") == 2
    assert _count(root, "uniform") == 3
    (failed,) = select(root, ["uniform_sds-a-green"])
    failed.fail("no", 3)
    assert select(root, ["state=failed"])[0].id == failed.id and _count(root, "state=new") == 8


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("metod=tp_sds", "'method'"),
        ("state=dead", "state=dead"),
        ("seed=x", "--seeds"),
        ("prompt=zebra", "fits 'prompt=zebra'"),
        ("no-such-run", "fits 'no-such-run'"),
    ],
)
def test_a_word_that_fits_nothing_is_one_line(root: Path, word: str, says: str):
    with pytest.raises(UserError, match=says) as caught:
        select(root, [word])
    assert "\n" not in str(caught.value)


def test_waste_is_what_no_spec_refers_to(root: Path):
    run = select(root, [])[0]
    for suite in ("a" * 12, "b" * 12):
        (root / "suites").mkdir(exist_ok=True)
        (root / "suites" / f"{suite}.json").write_text("{}")
    for name in (f"offline-run-20260101_000000-{run.id}", "offline-run-20260101_000000-gone", "latest-run"):
        (root / "wandb" / name).mkdir(parents=True)
    for launch, named in (("one", run.id), ("two", "gone")):
        (root / "slurm" / launch).mkdir(parents=True)
        text = json.dumps({"arrays": [{"tasks": [[named]]}]})
        (root / "slurm" / launch / "launch.json").write_text(text)
    (root / "tp_sds-a-red-bus-s7-0123abcd").mkdir()
    (root / "notes").mkdir()
    (run.path / ".state.json.1.0.tmp").write_bytes(b"12345")
    held = RunFolder(select(root, [])[1].path)
    lease = held.acquire("test")
    (held.path / ".state.json.1.0.tmp").write_bytes(b"being written")

    busy = [(root / "slurm" / "two").resolve()]
    found = {item.path.relative_to(root).as_posix(): item for item in find_waste(root)}
    assert set(found) == {
        "tp_sds-a-red-bus-s7-0123abcd",
        f"{run.id}/.state.json.1.0.tmp",
        "suites/bbbbbbbbbbbb.json",
        "wandb/offline-run-20260101_000000-gone",
        "slurm/two",
    }
    assert found[f"{run.id}/.state.json.1.0.tmp"].size == 5
    assert "slurm/two" not in {i.path.relative_to(root).as_posix() for i in find_waste(root, busy)}
    for item in found.values():
        item.remove()
    assert find_waste(root) == [] and len(select(root, [])) == 9
    assert lease and lease.held()
    lease.release()
