"""The notebooks of docs/, executed by a kernel of their own on a small sweep."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from harness.config import Execution
from harness.distill.runner import advance
from harness.records.folder import RunFolder
from harness.sweep.grid import write_suite
from harness.sweep.request import Request

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


def swept(root: Path) -> None:
    """Two methods on one prompt of the toy world, a few steps."""
    request = Request(
        Path("coco"), methods="uniform_sds,tp_sds", limit=1, steps=(20,), settings=("views.count=2",)
    )
    suite, specs = request.resolve()
    write_suite(root, suite)
    for spec in specs:
        advance(root, [RunFolder.create(root, spec).id], Execution(device="cpu", wandb="disabled"))


@pytest.mark.journey
@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_it_runs_to_its_end(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "committed without outputs"
    swept(tmp_path / "runs")
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("STEPS", "5")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    done = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [
        output
        for cell in done.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 2
