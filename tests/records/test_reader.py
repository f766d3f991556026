"""The reader of run folders: whatever bytes or entries there are, a value that fits or one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records import reader
from harness.records.folder import RunFolder, run_folders
from harness.records.identity import RunSpec
from harness.records.reader import RecordError, parse_json
from harness.records.schema import FORMS, read_spec

SPEC = RunSpec(method="tp_sds", prompt="a red bus", seed=0)
NUMBERS = st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner, max_size=4),
    max_leaves=20,
)
TORN = VALUES.map(lambda value: json.dumps(value).encode()[:-1])


@given(VALUES)
def test_what_json_says_comes_back(value):
    assert parse_json(json.dumps(value).encode()) == value


@given(
    st.binary(max_size=300) | VALUES.map(lambda value: json.dumps(value).encode()[:-1]),
    st.sampled_from([*FORMS]),
)
def test_any_bytes_are_a_value_that_fits_or_one_line(data: bytes, name: str):
    try:
        reader.plain(name, data, FORMS[name])
    except RecordError as error:
        assert str(error).startswith(f"{name}: ") and "\n" not in str(error) and len(str(error)) < 300


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"\xff\xfe", "is not UTF-8"),
        (b'{"step": 1', "is no whole JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 40 + b"]" * 40, "nested too deeply"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"[1e999]", "not finite"),
        (b"[" + b"7" * 400 + b"]", "64 bits"),
        (b"[" + b"7" * 5000 + b"]", "thousands of digits"),
        (b'["\\ud800"]', "half of a character"),
        (b'["\\u0000"]', "NUL"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, says: str):
    with pytest.raises(RecordError, match=says):
        parse_json(data)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("state.json", '{"step": "3", "total": 9}', "state.json: step: input should be a valid integer"),
        ("state.json", '{"step": -1, "total": 9}', "state.json: step: input should be greater"),
        ("spec.json", "{}", "spec.json: method: field required"),
        ("env.json", '{"prior": [1]}', "env.json: prior: "),
        ("result.json", "[]", "result.json: input should be"),
        ("deaths.json", '[{"pid": true}]', "deaths.json: 0.pid: "),
    ],
)
def test_a_record_of_the_wrong_form_damages_its_run(tmp_path: Path, name: str, text: str, says: str):
    folder = RunFolder.create(tmp_path, SPEC)
    folder.finish({"steps": 4})
    (folder.path / name).write_text(text)
    look = folder.look()
    assert look.status == "damaged" and look.damage is not None and look.damage.startswith(says)
    assert folder.acquire("test") is None and not folder.cancel() and not folder.forget_failure()
    assert [each.id for each in run_folders(tmp_path)] == [folder.id]


SPECS = [
    json.dumps(RunSpec(method="m", prompt=prompt, seed=7).model_dump(mode="json"), indent=indent).encode()
    for indent in (None, 2)
    for prompt in ("a bus", 'a "config": bus,', "é\\")
]
PIECES = [
    b'"config":',
    b'"suite": null',
    b'"seed": 3',
    b",",
    b"{",
    b"}",
    b'"',
    b"\\",
    b"\n",
    b"1e999",
    b" ",
    b"NaN",
    b":",
]


@given(
    st.sampled_from(SPECS),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 9), st.sampled_from(PIECES)), max_size=3),
)
def test_a_spec_read_in_two_parts_is_the_whole_one(data: bytes, edits: list[tuple[int, int, bytes]]):
    """Sharing what many specs have in common lets nothing pass and refuses nothing, whatever is there."""
    for at, length, piece in edits:
        data = data[:at] + piece + data[at + length :]
    try:
        whole, why = reader.typed("spec.json", data, FORMS["spec.json"]), None
    except RecordError as error:
        whole, why = None, str(error)
    try:
        assert read_spec(data) == whole
    except RecordError as error:
        assert str(error) == why


def test_the_same_configuration_is_parsed_once():
    specs = [read_spec(data) for data in SPECS[3:] for _ in range(2)]
    assert all(spec.config is specs[0].config for spec in specs)


def test_nothing_outside_is_read_or_touched_and_nothing_hangs(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("1")
    os.utime(outside / "secret", (1, 1))
    root = tmp_path / "runs"
    for name in (
        "state.json",
        ".lock",
        "log.txt",
        "metrics.jsonl",
        "views",
        "eval",
        "lease.json",
        "checkpoint.safetensors",
    ):
        folder = RunFolder.create(root, SPEC)
        for make in (lambda path: path.symlink_to(outside / "secret"), os.mkfifo):
            (folder.path / name).unlink(missing_ok=True)
            make(folder.path / name)
            assert folder.status() == "damaged", name
            assert folder.acquire("test") is None and not folder.cancel()
            folder.record_death(why="no")
            (folder.path / name).unlink()
    assert os.stat(outside / "secret").st_mtime == 1 and os.listdir(outside) == ["secret"]
    linked = root / "tp_sds-a-red-bus-s1-0123abcd"
    linked.symlink_to(outside)
    assert RunFolder(linked).look().damage == "is a link, not a folder"
    with pytest.raises(RecordError):
        RunFolder(linked).view_bytes(3)
    assert RunFolder.create(root, SPEC).picture("spec.json")


def test_rows_that_are_none_are_left_out_and_counted(tmp_path: Path):
    folder = RunFolder.create(tmp_path, SPEC)
    folder.append_metrics([{"step": 1, "time": 0.5, "loss": 2.0}])
    with open(folder.metrics_path, "ab") as file:
        file.write(
            b'{"step": "2"}\n[1]\n{"step": 3, "time": NaN}\nnot json\n{"step": 4, "time": 1.5, "a": [1]}\n'
        )
        file.write(b'{"step": %s}\n{"step": 5, "time": 2.5, "loss": null}\n{"step": 6' % (b"7" * 400))
    rows, lost = folder.metrics_and_losses()
    assert [row["step"] for row in rows] == [1, 5] and lost == 6


def test_watch_loads_no_pytorch(tmp_path: Path):
    RunFolder.create(tmp_path, SPEC)
    code = """
import sys
from pathlib import Path
from starlette.testclient import TestClient
from eval.report.live import application
with TestClient(application(Path(sys.argv[1]), "t" * 43), base_url="http://127.0.0.1") as client:
    client.get("/?token=" + "t" * 43)
    assert client.get("/data/runs.js").status_code == 200
assert not {"torch", "matplotlib"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[2])
