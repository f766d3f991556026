"""A run goes on with the prior that it began with, wherever that lies; another one is refused, and told."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from eval.sources.load import load_run
from harness.config import UserError
from harness.distill.runner import advance
from harness.guidance import prior as held_prior
from harness.guidance.folder import pinned
from harness.guidance.random_prior import make_prior
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, run_id
from harness.sweep.plan import check_priors, make_plan
from tests import tinyruns

IMAGE = {
    "scene": {"kind": "image", "resolution": tinyruns.LATENT},
    "views": {"count": 1, "azimuths": 1, "heldout_elevation": None},
}


def begun(root: Path, prior: Path, is_pinned: bool) -> RunSpec:
    """A run that was stopped at its third step."""
    config = tinyruns.config(prior, **IMAGE)
    if is_pinned:
        config = config.model_copy(update={"guidance": pinned(config.guidance)})
    spec = RunSpec(method="uniform_sds", prompt="a red mug", seed=0, config=config)
    folder = RunFolder.create(root, spec)
    emit, should_stop = tinyruns.stop_after(3)
    advance(root, [folder.id], tinyruns.execution(), emit, should_stop)
    assert folder.status() == "resume"
    return spec


def content(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def other_weights(prior: Path, tmp_path: Path) -> None:
    shutil.rmtree(prior)
    make_prior(tmp_path / "new", "sd14", size="tiny", dtype="float32", seed=1).rename(prior)


def other_betas(prior: Path, tmp_path: Path) -> None:
    path = prior / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"beta_end": 0.02}))


@pytest.mark.parametrize("change", [other_weights, other_betas])
@pytest.mark.parametrize("is_pinned", [True, False])
def test_a_run_goes_on_only_with_what_it_began_with(
    is_pinned: bool, change: Any, tiny_prior: Path, tmp_path: Path
) -> None:
    prior, root = Path(shutil.copytree(tiny_prior, tmp_path / "P")), tmp_path / "runs"
    spec = begun(root, prior, is_pinned)
    check_priors(root, [spec])
    shutil.copytree(prior, tmp_path / "kept")
    change(prior, tmp_path)
    before = content(root)
    asked = spec
    if is_pinned:  # as the same command resolves it now
        guidance = pinned(spec.config.guidance.model_copy(update={"content": None}))
        asked = spec.model_copy(update={"config": spec.config.model_copy(update={"guidance": guidance})})
        assert run_id(asked) != run_id(spec)
    with pytest.raises(
        UserError, match=r"begun with other files of the prior .*name another --out"
    ) as caught:
        check_priors(root, [asked])
    assert "\n" not in str(caught.value)
    held_prior._held.clear()  # another process
    with pytest.raises(UserError, match="other files"):  # whoever else advances it finds out as well
        tinyruns.run(root, [run_id(spec)])
    assert content(root) == before
    shutil.rmtree(prior)
    (tmp_path / "kept").rename(prior)
    held_prior._held.clear()
    check_priors(root, [spec])
    tinyruns.run(root, [run_id(spec)])
    assert RunFolder(root / run_id(spec)).status() == "done"


def test_a_prior_that_was_moved_is_the_same_and_found_where_it_is(tiny_prior: Path, tmp_path: Path) -> None:
    prior, root = Path(shutil.copytree(tiny_prior, tmp_path / "P")), tmp_path / "runs"
    spec = begun(root, prior, is_pinned=True)
    folder = RunFolder(root / run_id(spec))
    hashed = load_run(folder).config_hash
    (tmp_path / "elsewhere").mkdir()
    prior.rename(tmp_path / "elsewhere" / "P")
    guidance = pinned(spec.config.guidance.model_copy(update={"prior": str(tmp_path / "elsewhere" / "P")}))
    moved = spec.model_copy(update={"config": spec.config.model_copy(update={"guidance": guidance})})
    assert run_id(moved) == folder.id and make_plan(root, [moved], 1).resume == [folder.id]
    check_priors(root, [moved])
    RunFolder.create(root, moved)
    assert folder.spec().config.guidance.prior == str(tmp_path / "elsewhere" / "P")
    assert load_run(folder).config_hash == hashed
    tinyruns.run(root, [folder.id])
    assert folder.status() == "done"


def test_a_prior_that_is_not_whole_is_told_before_anything_is_written(
    tiny_prior: Path, tmp_path: Path
) -> None:
    prior = Path(shutil.copytree(tiny_prior, tmp_path / "P"))
    spec = RunSpec(method="uniform_sds", prompt="a mug", seed=0, config=tinyruns.config(prior))
    for path in (prior / "tokenizer").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="incomplete"):
        check_priors(tmp_path / "runs", [spec])
    hub = spec.config.guidance.model_copy(update={"prior": "nobody/nothing"})
    config = spec.config.model_copy(update={"guidance": hub})
    check_priors(tmp_path / "runs", [spec.model_copy(update={"config": config})])  # left to who fetches it
    assert not (tmp_path / "runs").exists()


def test_records_of_old_are_compared_by_their_weights(tiny_prior: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    spec = begun(root, tiny_prior, is_pinned=False)
    folder = RunFolder(root / run_id(spec))
    env = folder.env() or {}
    old = {key: value for key, value in env["prior"].items() if key != "content_hash"}
    folder.save_env(env | {"prior": old})
    check_priors(root, [spec])
    assert load_run(folder).prior_hash == old["weights_hash"]
    folder.save_env(env | {"prior": old | {"weights_hash": "0" * 64}})
    with pytest.raises(UserError, match="000000000000"):
        check_priors(root, [spec])
