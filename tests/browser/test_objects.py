"""Exported meshes in three.js, and turntables in the browser's own players: what is shown is the object."""

import base64
import io
import json
import mimetypes
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.objects.export import export_mesh
from harness.objects.final import latents, load, load_prior, pictures
from harness.objects.formats import FORMATS
from harness.objects.turntable import write_turntable
from harness.records.folder import RunFolder
from harness.scene.cameras import make
from tests import solids

VIEWER = Path(__file__).parent / "viewer"
AZIMUTH, ELEVATION = 20.0, 20.0  # from here a mirrored or turned box is another picture
BACKDROP = (255, 0, 255)

OpenPage = Callable[..., Any]


class Server(SimpleHTTPRequestHandler):
    """The viewer's folder, and the run's files under /run/."""

    def __init__(self, run: Path, *args: Any):
        self.run = run
        super().__init__(*args, directory=str(VIEWER))

    def translate_path(self, path: str) -> str:
        name = path.partition("?")[0]
        return (
            str(self.run / name.removeprefix("/run/"))
            if name.startswith("/run/")
            else super().translate_path(path)
        )

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = solids.make(tmp_path_factory.mktemp("runs"), solids.fitted())
    final = load(folder)
    for kind in FORMATS:
        export_mesh(final, kind, resolution=64)
    write_turntable(final, azimuths=24)
    return folder


@pytest.fixture(scope="module")
def address(run: RunFolder) -> Iterator[str]:
    if not (VIEWER / "node_modules").is_dir():
        pytest.fail("tests/browser/viewer has no node_modules: run `make browser-test`, or npm ci there")
    mimetypes.add_type("model/gltf-binary", ".glb")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, run.path)) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", FORMATS)
def test_three_js_shows_the_object_as_the_run_does(
    kind: str, run: RunFolder, address: str, open_page: OpenPage
) -> None:
    final = load(run)
    views = final.spec.config.views
    place = f"azimuth={AZIMUTH}&elevation={ELEVATION}&distance={views.distance}&fov={views.fov}"
    page = open_page(f"{address}/index.html?file=/run/mesh/object.{kind}&{place}")
    page.wait_for_function("window.picture")
    [loaded] = page.evaluate("window.loaded")
    about = json.loads((run.path / "mesh" / "mesh.json").read_text())
    assert loaded["corners"] == 3 * about["faces"] and loaded["colours"] and loaded["normals"]
    assert loaded["vertices"] == (loaded["corners"] if kind == "obj" else about["vertices"])
    assert loaded["material"] == "MeshBasicMaterial"

    data = base64.b64decode(page.evaluate("window.picture").partition(",")[2])
    shown_HWC = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((64, 64), Image.Resampling.BOX))
    camera = make([AZIMUTH], [ELEVATION], [views.distance], [views.fov])
    seen_HW = final.scene.surface(final.params, camera, 64).opacity_P.view(64, 64).numpy()
    prior = load_prior(final)
    decoded_HWC = pictures(prior, latents(final, prior, camera))[0].numpy()
    is_backdrop_HW = (np.abs(shown_HWC.astype(int) - BACKDROP) < 8).all(-1)
    assert (is_backdrop_HW == (seen_HW < 0.5)).mean() > 0.97, "the outline is the object's"
    both_HW = ~is_backdrop_HW & (seen_HW > 0.95)
    apart = np.abs(shown_HWC.astype(int) - decoded_HWC)[both_HW].mean()
    assert both_HW.mean() > 0.1 and apart < 25, apart
    red, blue = (
        np.abs(shown_HWC[both_HW] - np.array(rgb) * 255).sum(-1) < 120 for rgb in (solids.RED, solids.BLUE)
    )
    assert red.mean() > 0.2 and blue.mean() > 0.2


@pytest.mark.parametrize("name", ["colour", "depth", "normals"])
def test_the_browser_plays_the_turntable(name: str, address: str, open_page: OpenPage) -> None:
    page = open_page(f"{address}/index.html?file=/run/mesh/object.glb&fov=40&distance=3")
    size = page.evaluate(
        """async (name) => {
            const video = document.createElement("video");
            Object.assign(video, {src: `/run/turntable/${name}.mp4`, muted: true, loop: true});
            await video.play();
            await new Promise((seen) => (video.ontimeupdate = () => video.currentTime > 0.1 && seen()));
            const image = new Image();
            image.src = `/run/turntable/${name}.webp`;
            await image.decode();
            return [video.videoWidth, video.videoHeight, video.duration, image.width, image.height];
        }""",
        name,
    )
    assert size == [64, 64, pytest.approx(24 / 30), 64, 64]
