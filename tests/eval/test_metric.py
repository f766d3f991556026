"""The seam of metrics: one file is enough for tables, report, W&B's summary, stamps and docs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from eval.command import open_runs, write_tables
from eval.metric import definitions, known
from eval.metrics import SEAM
from eval.report.results import results
from eval.runs import Runs
from eval.tables.made import make_tables
from harness.config import UserError
from harness.console import Console
from harness.records.folder import RunFolder
from harness.records.mirror import Mirror, evaluated
from tests.eval.conftest import PROMPTS, Sweep

BRIGHTNESS = '''"""Mean brightness of the views, 0…1."""

import numpy as np

from eval.metric import VIEWS, Column, Reference, RunMetric
from harness.config import UserError

CALLS = []


class Brightness(RunMetric):
    version = 3
    title = "Brightness"
    columns = (Column("mean", "brightness", better="higher"), Column("dark", "dark, %", "%", "lower"))
    needs = (VIEWS,)
    slow = True
    remarks = ("Grey has .5.",)

    def of_run(self, run):
        CALLS.append(run.run_id)
        images = run.views(run.total) / 255
        if run.prompt == "a green chair":
            raise UserError("nobody knows how bright a chair is")
        return {"mean": float(images.mean()), "dark": float((images < 0.5).mean())}

    def references(self):
        first = Reference("paper (control)", ["1.0", "0"], first=True)
        return [first, Reference("ink (floor)", ["0.0", "100"])]
'''

SPREAD = '''"""Spread of brightness over seeds."""

import numpy as np

from eval.metric import VIEWS, Column, PromptMetric


class Spread(PromptMetric):
    title = "Spread"
    columns = (Column("spread", "spread", digits=4),)
    needs = (VIEWS,)

    def of_seeds(self, runs):
        return {"spread": float(np.std([run.views(run.total).mean() for run in runs]))}
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mine"
    made.mkdir()
    (made / "brightness.py").write_text(BRIGHTNESS)
    (made / "spread.py").write_text(SPREAD)
    return made


def opened(runs: Sweep, clip_folder: Path, *dirs: Path) -> Runs:
    return open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0, metrics_dirs=dirs)


def test_one_file_is_seen_in_tables_report_and_the_summary(
    runs: Sweep, clip_folder: Path, folder: Path, tmp_path: Path
) -> None:
    runs.add("tp_sds", PROMPTS[3], 0, end="failed")
    found = opened(runs, clip_folder, folder)
    out = tmp_path / "out"
    text = io.StringIO()
    write_tables(found, ["r_precision", "brightness", "spread"], out, Console(file=text, width=200))
    page = (out / "brightness.md").read_text()
    assert "Brightness at the final step" in page and "brightness v3 · CLIP" in page
    assert "Grey has .5." in page
    assert "brightness v3" in (out / "brightness.tex").read_text()
    lines = list(csv.DictReader((out / "brightness.csv").open()))
    assert [line["method"] for line in lines] == ["paper (control)", "uniform_sds", "tp_sds", "ink (floor)"]
    assert {line["metrics"] for line in lines} == {"brightness=3 intervals=2"}
    own = [run for run in found if run.method == "tp_sds" and not run.failure and run.prompt != PROMPTS[2]]
    by_prompt = [np.mean([r.views(20).mean() / 255 for r in own if r.prompt == p]) for p in PROMPTS[:2]]
    assert float(lines[2]["brightness"]) == pytest.approx(np.mean(by_prompt), rel=1e-4)
    assert (lines[2]["prompts"], lines[2]["failed"]) == ("2", "0"), "a metric without a miss leaves runs out"
    assert "left out of brightness" in text.getvalue() and "how bright a chair" in text.getvalue()
    [spread] = [line for line in csv.DictReader((out / "spread.csv").open()) if line["method"] == "tp_sds"]
    assert float(spread["spread"]) > 0 and spread["seeds"] == "2"

    data = results(opened(runs, clip_folder, folder))
    assert "brightness" in {table["name"] for table in data["tables"]}
    place = [measure["name"] for measure in data["measures"]].index("brightness.mean")
    assert data["measures"][place]["label"] == "brightness"
    shown = data["scores"][own[0].run_id]["values"][place]
    assert shown == pytest.approx(own[0].views(20).mean() / 255, rel=1e-3)

    kept = evaluated(own[0].folder)["brightness"]
    assert kept["version"] == 3 and kept["mean"] == pytest.approx(shown, rel=1e-3)
    mirror = Mirror.__new__(Mirror)  # its ending alone: what W&B's client is told
    mirror.folder, mirror.spec = own[0].folder, own[0].folder.spec()
    mirror._run = SimpleNamespace(dir=str(tmp_path), summary={}, save=lambda *args, **options: None)
    mirror.end()
    assert mirror._run.summary["eval"]["brightness"] == kept
    assert json.dumps(mirror._run.summary["eval"])


def test_a_slow_metric_is_computed_once_and_anew_where_what_it_rests_on_changes(
    runs: Sweep, clip_folder: Path, folder: Path
) -> None:
    def frame(*dirs: Path):
        found = opened(runs, clip_folder, *dirs)
        kind = found.metrics["brightness"]
        frame = found.of(kind).frame
        return frame, __import__("sys").modules[kind.__module__].CALLS

    first, calls = frame(folder)
    assert len(calls) == 12
    again, calls = frame(folder)
    assert len(calls) == 4, "of the chairs, which have no value to keep"
    assert again.equals(first)
    victim = RunFolder(runs.root / first["run"].iloc[0])
    victim.save_views(20, np.zeros((victim.spec().config.views.tiles, 16, 16, 3), np.uint8))
    changed, calls = frame(folder)
    assert len(calls) == 5 and changed["mean"].iloc[0] == 0
    (folder / "brightness.py").write_text(BRIGHTNESS.replace("version = 3", "version = 4"))
    assert len(frame(folder)[1]) == 12


def test_what_is_missing_or_unknown_is_told(runs: Sweep, clip_folder: Path, folder: Path) -> None:
    found = opened(runs, clip_folder, folder)
    with pytest.raises(UserError, match="no table 'brihgtness'; did you mean 'brightness'"):
        make_tables(found, ["brihgtness"])
    [table], _ = make_tables(found, ["janus"])
    assert table.name == "signatures" and table.metrics[0] == "janus", "a metric's name is its table's"
    source = BRIGHTNESS.replace("needs = (VIEWS,)", "needs = (VIEWS, PRIOR_SAMPLES)")
    (folder / "brightness.py").write_text(source.replace("import VIEWS,", "import PRIOR_SAMPLES, VIEWS,"))
    _, left_out = make_tables(opened(runs, clip_folder, folder))
    [line] = [line for line in left_out if "brightness" in line]
    assert line == (
        "no table brightness: brightness needs samples of the prior: there are no samples of the prior: "
        "--prior-samples 4"
    )
    (folder / "brightness.py").write_text('"""Nothing."""\n')
    with pytest.raises(UserError, match=r"metric brightness: .* defines 0 subclasses"):
        make_tables(opened(runs, clip_folder, folder))
    with pytest.raises(UserError, match="does not exist"):
        opened(runs, clip_folder, folder / "nowhere")


def test_every_metric_says_what_it_is() -> None:
    for metric in known():
        assert metric.version >= 1 and len({c.key for c in metric.columns}) == len(metric.columns)
    for extension in SEAM.discover().values():
        assert len(extension.summary) > 20 and "no docstring" not in extension.summary


def test_the_protocol_has_the_table_of_metrics() -> None:
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    assert definitions() in page, "write what `harness metrics --markdown` prints between its marks"
