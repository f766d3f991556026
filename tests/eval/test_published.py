"""Runs published and read back: the same tables, nothing of machines and people, nothing tampered with."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlcroissant
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.command import open_runs
from eval.published.form import COLUMNS, public
from eval.published.read import run_folders_of
from eval.published.write import name_on_hub, publish
from eval.tables.made import make_tables
from harness.config import UserError
from harness.records.files import write_json
from harness.records.folder import run_folders
from tests.eval.conftest import PROMPTS, Sweep
from tests.hubserver import Hub

HOST, USER, HOME = "gpu-node-17", "somebody", "/home/somebody/secret-project"


@pytest.fixture
def told(runs: Sweep) -> Sweep:
    """Runs that say where and by whom they were made, one of them failed."""
    failed = runs.add("tp_sds", PROMPTS[3], 0, end="failed")
    failed.path.joinpath("failure.json").write_text(
        json.dumps(
            {"reason": f"no file {HOME}/weights/unet.bin on {HOST}", "step": 13, "detail": f"at {HOME}"}
        )
    )
    runs.add("tp_sds", PROMPTS[4], 0, end="new")
    for folder in run_folders(runs.root):
        env: dict[str, Any] = folder.env() or {}
        job = {"job": "4711-cluster", "node": HOST, "owner": USER}
        write_json(folder.path / "env.json", env | {"host": HOST, "slurm": job, "cwd": HOME, "device": "cpu"})
    return runs


def test_tables_of_what_was_published_are_those_of_the_runs(
    told: Sweep, clip_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "coco-toy"
    left_out = publish(told.root, out, "A test", "CC-BY-4.0", "Planted.")
    assert len(left_out) == 1 and left_out[0].endswith(": new")
    restored = run_folders_of(str(out), tmp_path / "cache")
    both = [open_runs(root, clip=str(clip_folder), device="cpu", samples=0) for root in (told.root, restored)]
    names = ["r_precision", "r_precision_steps", "differences"]
    ours, theirs = (make_tables(each, names)[0] for each in both)
    assert [list(map(list, map(_texts, table.rows))) for table in ours] == [
        list(map(list, map(_texts, table.rows))) for table in theirs
    ]
    assert both[0].stamp.line(names[:1]) == both[1].stamp.line(names[:1])
    for folder in run_folders(restored):
        before = next(each for each in run_folders(told.root) if each.id == folder.id)
        assert folder.metrics() == before.metrics() and folder.view_steps() == before.view_steps()
        assert folder.status() == before.status()
    assert run_folders_of(str(out), tmp_path / "cache") == restored


def _texts(row: Any) -> list[str]:
    return [str(cell) for cell in row]


def test_nothing_of_machines_and_people_is_in_it(told: Sweep, tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish(told.root, out, "A test", "CC-BY-4.0")
    secrets = {HOST, USER, HOME, "4711-cluster", str(told.root), socket.gethostname(), getpass.getuser()}
    for path in out.rglob("*"):
        if path.suffix == ".parquet":
            text = "\n".join(str(row) for row in pq.read_table(path).drop_columns(
                ["image"] if "views" in path.name else []).to_pylist())  # fmt: skip
        else:
            text = path.read_text() if path.is_file() else ""
        assert not [secret for secret in secrets if secret in text], path
    (failed,) = (r for r in pq.read_table(out / "data/runs.parquet").to_pylist() if r["status"] == "failed")
    assert json.loads(failed["ending"]) == {"reason": "no file unet.bin on …", "step": 13}


def test_the_metadata_is_croissant_and_the_card_says_toy(told: Sweep, tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish(told.root, out, "A test", "CC-BY-4.0", "Planted.")
    dataset = mlcroissant.Dataset(str(out / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    assert {str(record.name) for record in dataset.metadata.record_sets} == set(COLUMNS)
    rows = list(dataset.records("runs"))
    methods = {str(row["runs/method"]) for row in rows}
    assert len(rows) == 13 and methods == {"b'tp_sds'", "b'uniform_sds'"}
    card = (out / "README.md").read_text()
    assert "**toy**" in card and "license: cc-by-4.0" in card and "six (" in card


@given(st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(
    st.text(), inner)))  # fmt: skip
def test_what_has_no_path_and_no_name_stays_and_once_is_enough(value: Any) -> None:
    once = public(value, {"gpu-node-17"})
    assert public(once, {"gpu-node-17"}) == once
    if "/" not in json.dumps(value) and "\\" not in json.dumps(value) and "node" not in json.dumps(value):
        assert once == value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/a/b.txt: gone", "b.txt: gone"),
        ("in '/data/x y/z'", "in 'x y/z'"),
        ("~/runs/one", "one"),
        ("CompVis/stable-diffusion-v1-4", "CompVis/stable-diffusion-v1-4"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("3/4 of it, and/or", "3/4 of it, and/or"),
        ("C:\\Users\\me\\file.bin", "file.bin"),
    ],
)
def test_paths_lose_their_folders(text: str, shown: str) -> None:
    assert public(text) == shown


def test_what_was_tampered_with_is_refused(told: Sweep, tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish(told.root, out, "A test", "CC-BY-4.0")
    with pytest.raises(UserError, match="holds something already"):
        publish(told.root, out, "A test", "CC-BY-4.0")
    changed = tmp_path / "changed"
    shutil.copytree(out, changed)
    with (changed / "data" / "runs.parquet").open("ab") as file:
        file.write(b"!")
    with pytest.raises(UserError, match=r"runs\.parquet is not the file that croissant\.json names"):
        run_folders_of(str(changed), tmp_path / "cache")
    about = json.loads((out / "croissant.json").read_text())
    about["distribution"][0]["@id"] = "../elsewhere"
    write_json(changed / "croissant.json", about)
    with pytest.raises(UserError, match="elsewhere lies outside of it"):
        run_folders_of(str(changed), tmp_path / "cache")
    with pytest.raises(UserError, match="is no published folder"):
        run_folders_of(str(tmp_path), tmp_path / "cache")
    with pytest.raises(UserError, match="has ended: there is nothing to publish"):
        fresh = Sweep(tmp_path / "fresh")
        fresh.add("tp_sds", PROMPTS[0], 0, end="new")
        publish(fresh.root, tmp_path / "none", "A test", "CC-BY-4.0")
    assert not (tmp_path / "none").exists() and not list((tmp_path / "cache").glob("[!.]*"))


@pytest.mark.journey
def test_runs_go_to_the_hub_and_come_back_as_they_were(told: Sweep, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    (dataset / "old.parquet").write_bytes(b"of an earlier commit")
    with Hub({"me/runs": dataset}, token="hf_secret") as hub:
        env = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}

        def harness(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "harness.cli", *words]
            return subprocess.run(command, env=env | more, capture_output=True, text=True, cwd=tmp_path)

        asked = ["publish", str(told.root), "--to", "hf:me/runs", "--private"]
        refused = harness(*asked, HF_TOKEN="")
        assert refused.returncode == 2 and "hf:me/runs cannot be written" in refused.stderr
        assert refused.stderr.endswith("or set HF_TOKEN\n") and not hub.made
        done = harness(*asked, HF_TOKEN="hf_secret")
        assert done.returncode == 0, done.stderr
        assert f"published in hf:me/runs: {hub.url}/datasets/me/runs/commit/" in done.stdout and hub.made == {
            "me/runs": True
        }
        assert not (dataset / "old.parquet").exists()
        env |= {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        code = "from eval.published.read import run_folders_of; print(run_folders_of('hf:me/runs'))"
        read = [sys.executable, "-c", code]
        back = subprocess.run(read, env=env, capture_output=True, text=True, check=True).stdout.strip()
    here = {folder.id: folder.metrics() for folder in run_folders(told.root)}
    assert {folder.id: folder.metrics() for folder in run_folders(Path(back))}.items() <= here.items()
    assert sum(folder.status() == "done" for folder in run_folders(Path(back))) == len(here) - 2
    with pytest.raises(UserError, match="is hf:OWNER/NAME"):
        name_on_hub("hf:runs")
