"""A W&B workspace for a project of the harness's runs: `python docs/wandb_workspace.py ENTITY PROJECT`.

It needs `pip install wandb-workspaces` and WANDB_API_KEY. Runs are grouped by method; a workspace can be
changed by hand afterwards, and made anew under the same name.
"""

from __future__ import annotations

import sys

import wandb_workspaces.reports.v2 as panels
import wandb_workspaces.workspaces as ws

SCORES = ("eval.r_precision.majority", "eval.shapes.aligned_iou", "last.nfe")  # in the summary, after `eval`
CURVES = ("residual", "grad_norm", "opacity", "t")  # in the history


def workspace(entity: str, project: str) -> ws.Workspace:
    """Objects first, then scores by method, then the optimisation over steps and over NFE."""
    method = panels.Config("label")
    return ws.Workspace(
        entity=entity,
        project=project,
        name="Methods side by side",
        sections=[
            ws.Section("Objects", [panels.MediaBrowser(media_keys=["views"], num_columns=4)], is_open=True),
            ws.Section(
                "Scores, mean over prompts and seeds",
                [
                    panels.BarPlot(
                        title=name,
                        metrics=[panels.SummaryMetric(name)],
                        groupby=method,
                        groupby_aggfunc="mean",
                    )
                    for name in SCORES
                ],
                is_open=True,
            ),
            ws.Section(
                "Optimisation over steps",
                [
                    panels.LinePlot(title=name, y=[name], groupby=method, groupby_aggfunc="mean")
                    for name in CURVES
                ],
            ),
            ws.Section(
                "At equal denoiser evaluations",
                [panels.LinePlot(title="residual", x="nfe", y=["residual"], groupby=method)],
            ),
        ],
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Config("label")],
            order=[ws.Ordering(ws.Summary(SCORES[0]), ascending=False)],
        ),
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(workspace(*sys.argv[1:]).save().url)
