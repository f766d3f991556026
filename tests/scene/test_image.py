"""A run whose scene is an image: the latent is what is optimised, in any pack, resumed or not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import Config, SceneConfig, UserError
from harness.distill.runner import advance
from harness.records.folder import RunFolder
from harness.rng import Key
from harness.scene.cameras import evaluation
from harness.scene.kind import make_scene, settle
from harness.scene.kinds.image import Image
from tests import tinyruns

IMAGE: dict[str, Any] = {
    "scene": {"kind": "image", "resolution": tinyruns.LATENT},
    "views": {"count": 3, "azimuths": 1, "heldout_elevation": None},
}


def test_an_image_is_a_run_like_any_other(tiny_prior: Path, tmp_path: Path) -> None:
    contents = {}
    for how in ("packed", "solo", "resumed"):
        ids = tinyruns.create(tmp_path / how, tiny_prior, runs=2, **IMAGE)
        if how == "solo":
            for run in ids:
                tinyruns.run(tmp_path / how, [run])
        if how == "resumed":
            emit, should_stop = tinyruns.stop_after(4)
            advance(tmp_path / how, ids, tinyruns.execution(), emit, should_stop)
        tinyruns.run(tmp_path / how, ids)
        contents[how] = {run: tinyruns.content(tmp_path / how, run) for run in ids}
    assert contents["packed"] == contents["solo"] == contents["resumed"]
    for run, content in contents["packed"].items():
        assert content["status"] == "done"
        assert len(RunFolder(tmp_path / "packed" / run).views(tinyruns.STEPS)) == 1
        assert "opacity" not in content["rows"][-1]


def test_the_gradient_at_the_picture_is_the_gradient_of_the_parameter() -> None:
    scene = make_scene(SceneConfig(kind="image", resolution=3), 4, "cpu")
    assert isinstance(scene, Image)
    background_RC = torch.zeros(2, 4)
    params = {
        "image": scene.init([Key("a cup", 0), Key("a cup", 1)], background_RC)["image"].requires_grad_()
    }
    assert not torch.equal(params["image"][0], params["image"][1])
    view = scene.view(params, evaluation(Config().views)[:2], background_RC, None)
    g_RCHW = torch.randn(view.x_RCHW.shape)
    (found,) = torch.autograd.grad([view.x_RCHW], [params["image"]], [g_RCHW])
    assert torch.equal(found, g_RCHW)


def test_an_image_has_one_view() -> None:
    with pytest.raises(UserError, match=r"views\.azimuths=1 and views\.heldout_elevation=none"):
        settle(Config(), ["scene.kind=image"])
    items = ["scene.kind=image", "views.azimuths=1", "views.heldout_elevation=none"]
    assert len(evaluation(settle(Config(), items).views)) == 1
