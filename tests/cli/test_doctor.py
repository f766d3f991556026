"""`harness doctor`: what it says of this machine, and `--fetch` from a Hub of our own on loopback.

What fetches runs in processes of its own: the Hub's client reads its environment when it is imported.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from huggingface_hub.constants import DOWNLOAD_CHUNK_SIZE

from eval.scorers.clip import MODEL_FILE
from harness import doctor
from harness.config import Config, UserError
from harness.guidance import hub as cache
from harness.guidance.folder import patterns
from harness.guidance.hub import sha256_file
from harness.guidance.lock import Lock
from harness.guidance.random_prior import make_prior
from harness.presets import load, preset
from harness.records import environment as environment_of_results
from harness.sweep import experiment
from harness.sweep.plan import Plan
from harness.sweep.pool import Pace, Pool
from tests.hubserver import COMMIT, Hub

PRIOR = ["doctor", "--fetch", "--prior", "tiny/prior", "--clip", "toy-clip"]
SCORER, SCORER_REPO = "ViT-B-32-quickgelu/openai", "timm/vit_base_patch32_clip_224.openai"
UNET = "tiny/prior/unet/diffusion_pytorch_model.safetensors"
OFFLINE = {"HF_HUB_OFFLINE": "1"}
MAIN = "from harness.cli import main; main()"


def environment(home: Path, url: str, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return kept | {"HF_HOME": str(home), "HF_ENDPOINT": url, "OMP_NUM_THREADS": "1"} | more


def command(*arguments: str, code: str = MAIN) -> list[str]:
    return [sys.executable, "-c", f"import sys; sys.argv[0] = 'harness'\n{code}", *arguments]


def harness(
    home: Path, url: str, *arguments: str, code: str = MAIN, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, code=code), capture_output=True, text=True, env=environment(home, url, **more)
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The complaint of a command that refused."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stderr.startswith("harness: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    for _ in range(int(seconds / 0.05)):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it never came to hold")


@pytest.fixture(scope="module")
def repository(tiny_prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny prior as repositories keep theirs: beside files that no load needs."""
    folder = shutil.copytree(tiny_prior, tmp_path_factory.mktemp("hub") / "prior")
    (folder / "README.md").write_text("# tiny\n")
    (folder / "tiny.ckpt").write_bytes(b"the same weights once more" * 1000)
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"and once more" * 1000)
    return folder


@pytest.mark.journey
def test_a_fetched_prior_loads_without_a_network(repository: Path, tmp_path: Path):
    with Hub({"tiny/prior": repository}, cuts={UNET: 10_000}) as hub:
        done = harness(tmp_path, hub.url, *PRIOR)
        assert done.returncode == 0, done.stderr
        assert f"--set guidance.revision={COMMIT}" in done.stdout
        assert done.stdout.splitlines()[-1] == f"in jobs: export HF_HOME={tmp_path} HF_HUB_OFFLINE=1"
        places = [place for place, _, _ in hub.sent]
        assert places.count(UNET) == 2  # its connection broke once
        assert not [place for place in places if place.endswith((".bin", ".ckpt", "README.md"))]
        before = hub.requests
        again = harness(tmp_path, hub.url, *PRIOR, "--json")
        told = json.loads(again.stdout)
        assert [each["transferred"] for each in told["fetched"]] == [False, False]
        assert told["fetched"][0]["commit"] == COMMIT and hub.requests == before
        gone = hub.url
    code = (
        "import torch\n"
        "from harness.config import GuidanceConfig\n"
        "from harness.guidance.prior import Guidance\n"
        "prior = Guidance.load(GuidanceConfig(prior='tiny/prior', dtype='float32'))\n"
        "x, t = torch.zeros(1, *prior.latent_shape), torch.tensor([500])\n"
        "assert prior.predict_noise(x, t, prior.embed(['a cup']))[1].isfinite().all()\n"
        "print(prior.tag, prior.content_hash)\n" + MAIN
    )
    look = ["doctor", "--prior", "tiny/prior", "--json"]
    loaded = harness(tmp_path, gone, *look, code=code, **OFFLINE)
    assert loaded.returncode == 0, loaded.stderr
    first, _, rest = loaded.stdout.partition("\n")
    assert first.split() == [f"tiny/prior@{COMMIT[:12]}", told["fetched"][0]["sha256"]]
    checks = {check["name"]: check for check in json.loads(rest)["checks"]}
    assert checks["prior"]["facts"]["commit"] == COMMIT and checks["hub"]["facts"]["offline"] is True


@pytest.mark.journey
def test_a_prior_of_many_parts_in_shards_is_fetched_whole(tmp_path: Path):
    """As the large repositories keep theirs: shards, and the same weights once more in another precision."""
    from transformers import T5EncoderModel

    folder = make_prior(tmp_path / "sd3", "sd3", size="tiny")
    encoder = folder / "text_encoder_3"
    T5EncoderModel.from_pretrained(encoder).save_pretrained(encoder, max_shard_size="40KB")
    (encoder / "model.safetensors").unlink()
    shards = sorted(path.name for path in encoder.glob("model-*.safetensors"))
    assert len(shards) > 1
    for shard in shards:
        (encoder / shard.replace("model-", "model.fp16-")).write_bytes(b"once more" * 1000)
    with Hub({"tiny/prior": folder}) as server:
        done = harness(tmp_path, server.url, *PRIOR)
        assert done.returncode == 0, done.stderr
        places = {place for place, _, _ in server.sent}
        assert {f"tiny/prior/text_encoder_3/{shard}" for shard in shards} <= places
        assert not [place for place in places if "fp16" in place]
        gone = server.url
    # The card came along, so that a prior of random weights stays known as one.
    code = (
        "from harness.config import GuidanceConfig\n"
        "from harness.guidance.prior import Guidance\n"
        "prior = Guidance.load(GuidanceConfig(prior='tiny/prior'))\n"
        "print(prior.stamp, tuple(prior.embed(['a cup']).shape))\n"
    )
    loaded = harness(tmp_path, gone, code=code, **OFFLINE)
    assert loaded.stdout == "random (1, 281, 40)\n", loaded.stderr


@pytest.mark.journey
def test_a_killed_fetch_goes_on_with_the_files_it_lacks(repository: Path, tmp_path: Path):
    matching = {path for pattern in patterns() for path in repository.glob(pattern)}
    others = {path.relative_to(repository) for path in matching} - {Path(UNET).relative_to("tiny/prior")}
    snapshot = tmp_path / "hub" / "models--tiny--prior" / "snapshots" / COMMIT
    with Hub({"tiny/prior": repository}, stalls={UNET}) as hub:
        fetching = subprocess.Popen(
            command(*PRIOR), env=environment(tmp_path, hub.url), stdout=subprocess.DEVNULL
        )
        try:
            until(lambda: hub.stalled.is_set() and all((snapshot / name).exists() for name in others))
        finally:
            fetching.kill()
            fetching.wait()
        looked = harness(tmp_path, hub.url, "doctor", "--prior", "tiny/prior")
        assert looked.returncode == 1
        assert "fetch it: harness doctor --fetch --prior tiny/prior" in looked.stdout
        hub.stalls.clear()
        hub.sent.clear()
        assert harness(tmp_path, hub.url, *PRIOR).returncode == 0
        assert {place for place, _, _ in hub.sent} == {UNET}


def test_a_damaged_file_is_removed_and_fetched_again(repository: Path, tmp_path: Path):
    with Hub({"tiny/prior": repository}, spoilt={UNET}) as hub:
        assert "arrived damaged" in one_line(harness(tmp_path, hub.url, *PRIOR))
        snapshot = tmp_path / "hub" / "models--tiny--prior" / "snapshots" / COMMIT
        assert not (snapshot / Path(UNET).relative_to("tiny/prior")).exists()
        hub.spoilt.clear()
        hub.sent.clear()
        assert harness(tmp_path, hub.url, *PRIOR).returncode == 0
        assert {place for place, _, _ in hub.sent} == {UNET}


def test_a_fetched_scorer_is_the_pinned_one_and_where_open_clip_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Large enough for the client to keep what came before the connection broke.
    folder, size, cut = tmp_path / "scorer", DOWNLOAD_CHUNK_SIZE + 3000, DOWNLOAD_CHUNK_SIZE + 2000
    folder.mkdir()
    (folder / MODEL_FILE).write_bytes(os.urandom(size))
    place = f"{SCORER_REPO}/{MODEL_FILE}"
    fetch = ["doctor", "--fetch", "--clip", SCORER]
    with Hub({SCORER_REPO: folder}, cuts={place: cut}) as hub:
        refused = harness(tmp_path / "home", hub.url, *fetch)
        assert refused.returncode == 2 and "expected e6d1bd7789aa" in refused.stderr.splitlines()[-1]
        assert hub.sent == [(place, 0, cut), (place, DOWNLOAD_CHUNK_SIZE, 3000)]
        pinned = (
            "from dataclasses import replace\n"
            "from eval.scorers.clip import ALLOWED\n"
            "key = ('ViT-B-32-quickgelu', 'openai')\n"
            f"ALLOWED[key] = replace(ALLOWED[key], sha256='{sha256_file(folder / MODEL_FILE)}')\n" + MAIN
        )
        accepted = harness(tmp_path / "home", hub.url, *fetch, code=pinned)
        assert accepted.returncode == 0, accepted.stderr
        assert f"already here: {SCORER}" in accepted.stdout and len(hub.sent) == 2
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = open_clip.download_pretrained(open_clip.get_pretrained_cfg(*SCORER.split("/")))
    assert Path(found).read_bytes() == (folder / MODEL_FILE).read_bytes()


def test_weights_of_a_metric_are_fetched_at_their_commit(repository: Path, tmp_path: Path):
    repo, folder = "xswu/HPSv2", tmp_path / "hps"
    folder.mkdir()
    weights = folder / "HPS_v2.1_compressed.pt"
    weights.write_bytes(os.urandom(4000))
    code = (
        "from eval.metrics.hps import WEIGHTS\n"
        f"for key, value in dict(commit='{COMMIT}', sha256='{sha256_file(weights)}').items():\n"
        "    object.__setattr__(WEIGHTS, key, value)\n" + MAIN
    )
    with Hub({"tiny/prior": repository, repo: folder}) as hub:
        done = harness(tmp_path / "home", hub.url, *PRIOR, "--metrics", "hps", code=code)
    assert done.returncode == 0, done.stderr
    assert f"fetched: hps {sha256_file(weights)[:12]} in {tmp_path / 'home'}" in done.stdout
    for names, told in (("hsp", "hsp is no metric; did you mean 'hps'"), ("geometry", "needs no weights")):
        with pytest.raises(UserError, match=told):
            doctor.fetch(Config(), [], print, [names])


def test_a_lock_takes_the_commit_and_refuses_other_files(repository: Path, tmp_path: Path):
    lock = tmp_path / "weights.lock.json"
    with Hub({"tiny/prior": repository}) as hub:
        done = harness(tmp_path / "home", hub.url, *PRIOR, "--lock", f"{lock}")
        assert done.returncode == 0, done.stderr
        held = json.loads(lock.read_text())["weights"]["tiny/prior"]
        unet = "unet/diffusion_pytorch_model.safetensors"
        assert (held["commit"], held["source"]) == (COMMIT, hub.url)
        assert held["files"][unet] == sha256_file(repository / unet)
        # Another home, where nothing is: what comes is not what the lock says.
        lock.write_text(lock.read_text().replace(held["files"][unet], "0" * 64))
        told = one_line(harness(tmp_path / "other", hub.url, *PRIOR, "--lock", f"{lock}"))
        assert f"tiny/prior: {unet} is {held['files'][unet][:12]} here and 000000000000 in the lock" in told
    with pytest.raises(UserError, match=f"tiny/prior is locked at {COMMIT}, and v2 is asked for"):
        Lock.read(lock).commit("tiny/prior", "v2")
    assert Lock.read(lock).commit("tiny/prior", None) == COMMIT
    assert Lock.read(lock).commit("another/prior", None) is None
    for text in ("{", '{"weights": {"a/b": {"commit": "main"}}}'):
        lock.write_text(text)
        with pytest.raises(UserError, match="is no lock of weights"):
            Lock.read(lock)


def test_what_cannot_be_fetched_is_told_in_one_line(repository: Path, tmp_path: Path):
    nobody = "http://127.0.0.1:9"
    told = one_line(harness(tmp_path, nobody, *PRIOR))
    assert f"tiny/prior cannot be fetched from {nobody}" in told and "on a machine with internet" in told
    assert "HF_HUB_OFFLINE is set" in one_line(harness(tmp_path, nobody, *PRIOR, **OFFLINE))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    code = (
        "from harness.config import UserError\n"
        "from harness.guidance import hub\n"
        "for repo, revision in [('no/body', None), ('tiny/prior', 'v9'), ('tiny/a b', None)]:\n"
        "    try: hub.fetch(repo, revision, ['*'])\n"
        "    except UserError as error: print(error)\n"
    )
    with Hub({"tiny/prior": repository}) as hub:
        lines = harness(tmp_path, hub.url, code=code).stdout.splitlines()
    assert len(lines) == 3
    assert "no such repository" in lines[0] and "tiny/prior@v9" in lines[1] and "no id of the Hub" in lines[2]


def test_hashes_are_by_the_name_of_the_blob_not_of_a_shared_store(tmp_path: Path):
    store, blobs, snapshot = (tmp_path / name for name in ("store", "blobs", "snapshots"))
    for folder in (store, blobs, snapshot):
        folder.mkdir()
    name, elsewhere = "a" * 64, "b" * 64
    (store / elsewhere).write_bytes(b"weights")
    (blobs / name).symlink_to(store / elsewhere)
    (snapshot / "model.safetensors").symlink_to(Path("..") / "blobs" / name)
    assert cache.sha256_named(snapshot / "model.safetensors") == name
    assert cache.drop_damaged(snapshot, ["*"]) == [snapshot / "model.safetensors"]
    assert not [path for path in tmp_path.rglob("*") if not path.is_dir()]
    plain = tmp_path / name
    plain.write_bytes(b"weights")
    assert cache.sha256_named(plain) == hashlib.sha256(b"weights").hexdigest()
    assert cache.drop_damaged(tmp_path, ["*"]) == [] and plain.exists()


def examined(config: Config, out: Path) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.examine(config, load(config.preset).scorers, out)}


def test_the_toy_preset_needs_nothing_but_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "secret" * 8)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.tell(Config(), ["toy-clip"], tmp_path / "a" / "b", as_json=False)
    shown = capsys.readouterr().out
    assert "secret" not in shown and "online, WANDB_API_KEY is set" in shown
    checks = examined(Config(), tmp_path)
    assert checks["slurm"].status == "missing" and "this machine alone" in checks["slurm"].text
    assert checks["prior"].facts["commit"] is None and len(checks["prior"].facts["sha256"]) == 64
    assert "no CUDA device" in checks["encoder tinycudann"].text or torch.cuda.is_available()
    assert checks["metric geometry"].facts["needs"] == ["parameters of the last step"]
    assert checks["metric hps"].status == "missing" and not checks["metric hps"].needed
    assert "fetch them: harness doctor --fetch --metrics hps" in checks["metric hps"].text
    assert all("\n" not in str(check) for check in checks.values())
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not shutil.which("scontrol"), reason="Slurm is not installed")
def test_a_controller_that_is_down_is_a_problem_but_not_the_presets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = {
        "ClusterName": "nobody",
        "SlurmctldHost": "localhost(127.0.0.1)",
        "SlurmctldPort": "9",
        "NodeName": "n1",
        "PartitionName": "p Nodes=n1",
    }
    (tmp_path / "slurm.conf").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    check = examined(Config(), tmp_path)["slurm"]
    assert check.status == "problem" and not check.needed
    assert "controller does not answer" in check.text and "DOWN" in check.text


def test_what_does_not_load_is_told_before_anything_fails_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert list(examined(Config(), tmp_path)) == ["packages", "code", "torch"]
    monkeypatch.setattr("harness.records.environment.PACKAGES", ("dreamtime-harness", "no-such-package"))
    environment_of_results.packages.cache_clear()
    checks = examined(Config(), tmp_path)
    environment_of_results.packages.cache_clear()
    assert list(checks) == ["packages", "code"] and "no-such-package: pip install" in checks["packages"].text


def test_the_presets_scorers_are_those_of_the_experiments():
    for name in experiment.names():
        asked = experiment.load(name)
        for sized in (asked.toy, asked.paper):
            assert sized is None or set(sized.clips) <= set(load(sized.preset).scorers), name


def test_what_is_missing_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "file").touch()
    config = doctor.resolve("paper", None, ["guidance.revision=main"])
    assert not doctor.tell(config, doctor.scorers("paper", ""), tmp_path / "file", as_json=True)
    told = json.loads(capsys.readouterr().out)
    lacking = [check for check in told["checks"] if check["needed"] and check["status"] != "ok"]
    assert [check["name"] for check in lacking] == ["prior", "scorer", "scorer", "scorer", "disk"]
    assert (
        "doctor --fetch --prior CompVis/stable-diffusion-v1-4 --set guidance.revision=main"
        in (lacking[0]["text"])
    )
    assert not told["ok"] and not (tmp_path / "cache").exists()


def test_an_estimate_that_cannot_be_measured_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "__init__", lambda self, *_, **__: None)
    monkeypatch.setattr(Pool, "__enter__", lambda self: self)
    monkeypatch.setattr(Pool, "__exit__", lambda *_: None)
    monkeypatch.setattr(Pool, "plan", lambda _: Plan())
    monkeypatch.setattr(Pool, "measure", lambda *_: Pace(0.0, 0.0, ("uniform_sds cannot be measured: why",)))
    found = doctor.cost(preset("toy"))
    assert (found.status, found.text) == ("problem", "uniform_sds cannot be measured: why")


@pytest.mark.journey
def test_an_estimate_is_measured_on_this_machine(tiny_prior: Path, tmp_path: Path) -> None:
    settings = [
        f"--set={item}" for item in ("guidance.dtype=float32", "scene.resolution=8", "scene.samples=4")
    ]
    arguments = ["doctor", "--estimate", "--json", "--prior", str(tiny_prior), *settings]
    done = harness(tmp_path, "http://127.0.0.1:9", *arguments)
    cost = next(check for check in json.loads(done.stdout)["checks"] if check["name"] == "cost")
    facts = cost["facts"]
    assert facts["rate"] > 0 and facts["memory_mb"] > 100 and facts["pack"] > 1
    assert facts["seconds"] == pytest.approx(2295 * 400 / facts["rate"])
    assert "2295 runs" in cost["text"]
