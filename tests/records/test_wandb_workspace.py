"""docs/wandb_workspace.py against a server, and that it charts what the harness logs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from eval.metric import known
from harness.distill.context import LOGGED
from tests.wandb_server import Server, server

__all__ = ["server"]  # a fixture

SCRIPT = Path(__file__).parents[2] / "docs" / "wandb_workspace.py"


def test_a_workspace_is_saved_and_charts_what_is_logged(server: Server) -> None:
    made = subprocess.run(
        [sys.executable, SCRIPT, "me", "dreamtime"], capture_output=True, text=True, timeout=300, check=False
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("http") and "me/dreamtime" in made.stdout
    (view,) = server.views
    assert (view["entityName"], view["projectName"]) == ("me", "dreamtime")
    sections = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    panels = [panel["config"] for section in sections for panel in section["panels"]]
    names = {name for panel in panels for name in panel.get("metrics", [])}
    columns = {f"{metric.name}.{column.key}" for metric in known() for column in metric.columns}
    for name in names:
        kind, _, rest = name.removeprefix("summary_metrics.").partition(".")
        assert rest in {"eval": columns, "last": set(LOGGED)}.get(kind, set()) or name in (
            *LOGGED,
            "opacity",
        ), name
    assert {media for panel in panels for media in panel.get("mediaKeys", [])} == {"views"}


def test_without_arguments_it_says_how_it_is_called() -> None:
    made = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=300, check=False)
    assert made.returncode == 1 and "ENTITY PROJECT" in made.stderr
