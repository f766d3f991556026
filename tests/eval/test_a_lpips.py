"""A-LPIPS with an AlexNet of random weights in the place of torchvision's, against LPIPS written out."""

from __future__ import annotations

import sys
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from torchvision.models import alexnet

from eval.command import open_runs
from eval.metrics.a_lpips import ALPIPS, FILE
from eval.tables.made import make_tables
from harness.config import UserError
from tests.eval.conftest import PROMPTS, Sweep, picture

LAYERS = (1, 4, 7, 9, 11)  # the ReLUs of AlexNet
MEAN, DEVIATION = torch.tensor([-0.03, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.45])  # of −1…1


@pytest.fixture
def trunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch's cache with an AlexNet."""
    torch.manual_seed(0)
    path = tmp_path / "hub" / "checkpoints" / FILE
    path.parent.mkdir(parents=True)
    torch.save(alexnet(weights=None).state_dict(), path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return path


def by_definition(trunk: Path, one_HWC: np.ndarray, other_HWC: np.ndarray) -> float:
    """Weighted squares of the differences of unit features, mean over places, summed over five layers."""
    net = alexnet(weights=None)
    net.load_state_dict(torch.load(trunk))
    heads = torch.load(Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth", map_location="cpu")
    at = [torch.from_numpy(each / 127.5 - 1).float() for each in (one_HWC, other_HWC)]
    x_23HW = torch.stack([image.movedim(-1, 0) for image in at])
    x_23HW = torch.nn.functional.interpolate(x_23HW, size=(64, 64), mode="bilinear")  # they are smaller
    x_23HW = (x_23HW - MEAN[:, None, None]) / DEVIATION[:, None, None]
    total = 0.0
    with torch.no_grad():
        for index, layer in enumerate(net.features):
            x_23HW = layer(x_23HW)
            if index in LAYERS:
                one, other = x_23HW / x_23HW.norm(dim=1, keepdim=True)
                weights_C = heads[f"lin{LAYERS.index(index)}.model.1.weight"].flatten()
                total += float(((one - other).square() * weights_C[:, None, None]).sum(0).mean())
    return total


def test_it_is_the_mean_over_neighbours_of_the_ring(trunk: Path, runs: Sweep, clip_folder: Path) -> None:
    only = [path.name for path in sorted(runs.root.glob("tp_sds*s0*"))]
    found = open_runs(
        runs.root, clip=str(clip_folder), device="cpu", samples=0, only=only,
        ground_truth=lambda prompt, views: picture(prompt, 7, views.tiles),
    )  # fmt: skip
    frame = found.of(ALPIPS).frame.set_index("run")["a_lpips"]
    for run in found:
        ring = run.views(run.total)[: run.config.views.azimuths]
        pairs = zip(ring, np.roll(ring, -1, axis=0), strict=True)
        expected = np.mean([by_definition(trunk, one, other) for one, other in pairs])
        assert frame[run.run_id] == pytest.approx(expected, rel=1e-4) and expected > 0
    [table], _ = make_tables(found, ["a_lpips"])
    assert [row[0] for row in table.rows] == ["tp_sds", "ground truth (ceiling)"]
    assert any("not torchvision's" in note for note in table.notes)
    assert len(list(runs.root.glob("*/eval/a_lpips-v1.json"))) == len(only)


def test_views_that_are_alike_have_none_and_turning_the_ring_changes_nothing(
    trunk: Path, runs: Sweep, clip_folder: Path
) -> None:
    metric = ALPIPS(open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0))
    ring = picture(PROMPTS[0], 3, 8)
    assert metric._of_ring(np.repeat(ring[:1], 8, axis=0))["a_lpips"] == pytest.approx(0, abs=1e-6)
    turned = metric._of_ring(np.roll(ring, 3, axis=0))["a_lpips"]
    assert turned == pytest.approx(metric._of_ring(ring)["a_lpips"], rel=1e-4)


def test_what_is_not_here_is_told_with_what_brings_it(
    trunk: Path, runs: Sweep, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0)
    trunk.unlink()
    with pytest.raises(UserError, match=rf"{FILE}; python -c .* fetches it"):
        make_tables(found, ["a_lpips"])
    monkeypatch.setitem(sys.modules, "lpips", None)
    monkeypatch.setattr("eval.metrics.a_lpips.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'dreamtime-harness\[lpips\]'"):
        make_tables(found, ["a_lpips"])
