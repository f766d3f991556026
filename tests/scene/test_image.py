"""A scene that is an image: the latent is what is optimised, and there is one view of it."""

import pytest
import torch

from harness.config import Config, SceneConfig, UserError
from harness.rng import Key
from harness.scene.cameras import evaluation
from harness.scene.kind import make_scene, settle
from harness.scene.kinds.image import Image


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
