"""What the runner does beside stepping: runs that leave, stop, come back, or do not fit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from harness.check.runs import content
from harness.config import Config, UserError
from harness.distill import runner
from harness.distill.events import Failed, Finished, Lost, Started, Stepped, Told
from harness.distill.runner import PackTooLarge, advance
from harness.records.files import write_json
from harness.records.folder import RunFolder, run_folders
from harness.records.identity import RunSpec, run_id
from tests import tinyruns

DIVERGES = '''"""Diverges: the run with seed 1 gets a gradient that is not finite at step 4."""

from harness.distill.method import Method


class Diverges(Method):
    def gradient(self, ctx):
        g_RCHW = super().gradient(ctx)
        for r, key in enumerate(ctx.keys):
            if key.seed == 1 and int(ctx.step_R[r]) == 4:
                g_RCHW[r] = float("nan")
        return g_RCHW
'''
LEARNS = '''"""Learns: keeps a running mean of the noise prediction, one per run."""

import torch

from harness import rng
from harness.distill.method import Method


class Learns(Method):
    def initial_state(self, keys, shapes):
        mean = rng.normal(keys, [0] * len(keys), "method", (4, 1, 1))
        return {"mean": mean, "count": torch.zeros(len(keys))}

    def state(self):
        return self.kept

    def load_state(self, tensors):
        self.kept = dict(tensors)

    def gradient(self, ctx):
        assert torch.equal(self.kept["count"].long() + 1, ctx.step_R)
        self.kept["mean"] = 0.9 * self.kept["mean"] + 0.1 * ctx.eps_RCHW.mean((2, 3), keepdim=True)
        self.kept["count"] = self.kept["count"] + 1
        return ctx.eps_RCHW - self.kept["mean"]
'''
RAISES = '''"""Raises: cannot take a gradient."""

from harness.distill.method import Method


class Raises(Method):
    def gradient(self, ctx):
        raise ZeroDivisionError("no gradient today")
'''


@pytest.fixture(scope="module")
def methods_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    for name, source in (("diverges", DIVERGES), ("learns", LEARNS), ("raises", RAISES)):
        (folder / name).mkdir()
        (folder / name / "method.py").write_text(source)
    return folder


def test_a_diverged_run_fails_and_the_others_do_not_notice(
    methods_dir: Path, tiny_prior: Path, tmp_path: Path
) -> None:
    dirs = {"methods_dirs": (str(methods_dir),)}
    for root in ("packed", "solo"):
        ids = tinyruns.create(tmp_path / root, tiny_prior, "diverges", 3, [methods_dir])
    events = tinyruns.run(tmp_path / "packed", ids, **dirs)
    failure = RunFolder(tmp_path / "packed" / ids[1]).failure()
    assert failure and failure["step"] == 4 and failure["reason"].startswith("diverged")
    assert [e.run for e in events if isinstance(e, Failed)] == [ids[1]]
    assert [len(e.runs) for e in events if isinstance(e, Stepped)] == [3, 3, 3, 3, 2, 2, 2]
    for run in (ids[0], ids[2]):
        tinyruns.run(tmp_path / "solo", [run], **dirs)
        assert content(RunFolder(tmp_path / "packed" / run)) == content(RunFolder(tmp_path / "solo" / run))


def test_what_a_method_learns_travels_with_its_run(
    methods_dir: Path, tiny_prior: Path, tmp_path: Path
) -> None:
    dirs = {"methods_dirs": (str(methods_dir),)}
    for root in ("whole", "regrouped"):
        ids = tinyruns.create(tmp_path / root, tiny_prior, "learns", 3, [methods_dir])
    tinyruns.run(tmp_path / "whole", ids, **dirs)
    emit, should_stop = tinyruns.stop_after(5)
    advance(tmp_path / "regrouped", ids[:2], tinyruns.execution(**dirs), emit, should_stop)
    # One run comes from step 5 and one from the start: a pack may mix steps.
    tinyruns.run(tmp_path / "regrouped", [ids[2], ids[0]], **dirs)
    tinyruns.run(tmp_path / "regrouped", ids, **dirs)
    for run in ids:
        assert content(RunFolder(tmp_path / "regrouped" / run)) == content(
            RunFolder(tmp_path / "whole" / run)
        )


SCENE = {"resolution": tinyruns.LATENT, "samples": 8, "levels": 4, "log2_hashmap": 8, "hidden": 8}


def test_what_is_known_to_be_empty_travels_with_its_run(tiny_prior: Path, tmp_path: Path) -> None:
    scene = SCENE | {"occupancy": 6, "occupancy_every": 4, "density_bias": 9.0, "density_radius": 0.3}
    for root in ("whole", "regrouped", "full"):
        kept = scene | ({"occupancy": 0} if root == "full" else {})
        ids = tinyruns.create(tmp_path / root, tiny_prior, runs=3, scene=kept)
        if root == "whole":
            names = ids
    ids = names
    tinyruns.run(tmp_path / "whole", ids)
    for stop in (3, 2):  # with grids of step 1, and just after a look
        emit, should_stop = tinyruns.stop_after(stop)
        advance(tmp_path / "regrouped", ids[:2], tinyruns.execution(), emit, should_stop)
    tinyruns.run(tmp_path / "regrouped", ids[::-1])
    for run in ids:
        assert content(RunFolder(tmp_path / "regrouped" / run)) == content(
            RunFolder(tmp_path / "whole" / run)
        )
    (others,) = ({folder.id for folder in run_folders(tmp_path / "full")},)
    assert not others & set(ids)  # another field: another run


def test_a_checkpoint_goes_on_with_another_back_end(tiny_prior: Path, tmp_path: Path) -> None:
    for root in ("whole", "moved"):
        ids = tinyruns.create(tmp_path / root, tiny_prior, runs=2)
    tinyruns.run(tmp_path / "whole", ids, encoder="numba")
    emit, should_stop = tinyruns.stop_after(4)
    advance(tmp_path / "moved", ids, tinyruns.execution(encoder="numba"), emit, should_stop)
    tinyruns.run(tmp_path / "moved", ids, encoder="torch")
    for run in ids:
        one, other = (RunFolder(tmp_path / root / run) for root in ("whole", "moved"))
        assert other.status() == "done" and (other.env() or {})["encoder"] == "torch"
        views = [folder.views(tinyruns.STEPS).astype(int) for folder in (one, other)]
        assert abs(views[0] - views[1]).max() <= 2


def test_an_error_in_a_method_fails_a_run_only_when_it_is_alone(
    methods_dir: Path, tiny_prior: Path, tmp_path: Path
) -> None:
    ids = tinyruns.create(tmp_path, tiny_prior, "raises", 2, [methods_dir])
    with pytest.raises(ZeroDivisionError):
        tinyruns.run(tmp_path, ids, methods_dirs=(str(methods_dir),))
    assert [RunFolder(tmp_path / run).status() for run in ids] == ["new", "new"]
    tinyruns.run(tmp_path, ids[:1], methods_dirs=(str(methods_dir),))
    failure = RunFolder(tmp_path / ids[0]).failure()
    assert failure and failure["reason"] == "ZeroDivisionError: no gradient today" and failure["step"] == 1
    assert "in gradient" in failure["detail"]


def test_a_lost_lease_is_left_to_its_new_holder(tiny_prior: Path, tmp_path: Path) -> None:
    ids = tinyruns.create(tmp_path, tiny_prior, runs=2)
    events = []

    def emit(event: Told) -> None:
        events.append(event)
        if isinstance(event, Stepped) and len(events) == 5:
            lease = tmp_path / ids[0] / "lease.json"
            lease.write_text(json.dumps(json.loads(lease.read_text()) | {"token": "somebody else's"}))

    advance(tmp_path, ids, tinyruns.execution(), emit)
    taken, other = (RunFolder(tmp_path / run) for run in ids)
    assert [e.run for e in events if isinstance(e, Lost)] == [ids[0]]
    assert not (taken.path / "result.json").exists() and not (taken.path / "failure.json").exists()
    assert json.loads((taken.path / "lease.json").read_text())["token"] == "somebody else's"
    assert max(row["step"] for row in taken.metrics()) <= 3 and other.status() == "done"


def test_runs_that_are_done_or_held_are_passed_over(tiny_prior: Path, tmp_path: Path) -> None:
    ids = tinyruns.create(tmp_path, tiny_prior, runs=2)
    lease = RunFolder(tmp_path / ids[0]).acquire("somebody")
    tinyruns.run(tmp_path, ids)
    assert [RunFolder(tmp_path / run).status() for run in ids] == ["running", "done"]
    assert lease is not None
    lease.release()
    before = content(RunFolder(tmp_path / ids[1]))
    events = tinyruns.run(tmp_path, ids)
    assert {e.run for e in events if isinstance(e, Started | Finished)} == {ids[0]}
    assert content(RunFolder(tmp_path / ids[1])) == before


def test_a_pack_that_does_not_fit_says_so_and_costs_nothing(
    tiny_prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = tinyruns.create(tmp_path, tiny_prior, runs=3)
    real_step = runner.step

    def hungry(pack):
        if len(pack.keys) > 1 and int(pack.step_R.max()) == 4:
            torch.empty(1 << 60)  # the allocator's own error
        return real_step(pack)

    monkeypatch.setattr(runner, "step", hungry)
    with pytest.raises(PackTooLarge) as caught:
        tinyruns.run(tmp_path, ids)
    assert caught.value.runs == 3
    assert [RunFolder(tmp_path / run).status() for run in ids] == ["resume"] * 3
    tinyruns.run(tmp_path, ids[:1])
    assert RunFolder(tmp_path / ids[0]).status() == "done"


def test_a_torn_checkpoint_fails_its_run_alone(tiny_prior: Path, tmp_path: Path) -> None:
    ids = tinyruns.create(tmp_path, tiny_prior, runs=2)
    (tmp_path / ids[0] / "checkpoint.safetensors").write_bytes(b"torn")
    tinyruns.run(tmp_path, ids)
    assert [RunFolder(tmp_path / run).status() for run in ids] == ["failed", "done"]


def test_a_pack_of_torn_checkpoints_alone_ends(tiny_prior: Path, tmp_path: Path) -> None:
    ids = tinyruns.create(tmp_path, tiny_prior, runs=2)
    for run in ids:
        (tmp_path / run / "checkpoint.safetensors").write_bytes(b"torn")
    events = tinyruns.run(tmp_path, ids)
    assert [event.event for event in events] == ["failed", "failed"]
    assert not any((tmp_path / run / "lease.json").exists() for run in ids)


def test_evaluations_go_on_from_a_checkpoint_that_counts_none(tiny_prior: Path, tmp_path: Path) -> None:
    (run,) = tinyruns.create(tmp_path, tiny_prior, runs=1)
    emit, should_stop = tinyruns.stop_after(4)
    advance(tmp_path, [run], tinyruns.execution(), emit, should_stop)
    path = tmp_path / run / "checkpoint.safetensors"
    kept = {name: value for name, value in load_file(path).items() if name != "cost.nfe"}
    with safe_open(path, "pt") as file:
        about = file.metadata()
    save_file(kept, path, about)
    tinyruns.run(tmp_path, [run])
    assert [row["nfe"] for row in RunFolder(tmp_path / run).metrics()] == [2, 4, 8, 10, 12, 14]


def test_only_runs_of_one_kind_make_a_pack(tiny_prior: Path, tmp_path: Path) -> None:
    ids = tinyruns.create(tmp_path, tiny_prior, "tp_sds", 1) + tinyruns.create(
        tmp_path, tiny_prior, "uniform_sds", 1
    )
    with pytest.raises(UserError, match="cannot be in one pack"):
        tinyruns.run(tmp_path, ids)
    assert [RunFolder(tmp_path / run).status() for run in ids] == ["new", "new"]


def test_a_scene_of_another_size_than_the_prior_looks_at_is_refused(tiny_prior: Path, tmp_path: Path) -> None:
    scene = tinyruns.config(tiny_prior).scene.model_copy(update={"resolution": 16})
    ids = tinyruns.create(tmp_path, tiny_prior, runs=1, scene=scene)
    with pytest.raises(UserError, match=r"16, and tiny-sd looks at 8 × 8: add --set scene\.resolution=8"):
        tinyruns.run(tmp_path, ids)


def test_a_run_of_other_random_streams_is_not_continued_and_nothing_of_it_is_touched(
    tiny_prior: Path, tmp_path: Path
) -> None:
    (run,) = tinyruns.create(tmp_path, tiny_prior, runs=1)
    emit, should_stop = tinyruns.stop_after(4)
    advance(tmp_path, [run], tinyruns.execution(), emit, should_stop)
    old = RunFolder(tmp_path / run).spec().model_copy(update={"spec_version": 1})
    folder = RunFolder((tmp_path / run).rename(tmp_path / run_id(old)))
    write_json(folder.path / "spec.json", old.model_dump(mode="json"))
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"streams of version 1, these are of version 2: .* under another id"):
        tinyruns.run(tmp_path, [folder.id])
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before
    assert folder.status() == "resume" and folder.spec() == old


@pytest.mark.parametrize("background", ["learned", "constant"])
def test_backgrounds(background: str, tiny_prior: Path, tmp_path: Path) -> None:
    scene = {
        "resolution": 8,
        "samples": 8,
        "levels": 4,
        "log2_hashmap": 8,
        "hidden": 8,
        "background": background,
    }
    scene |= {"sparsity": 0.1, "orientation": 0.1}
    ids = tinyruns.create(tmp_path, tiny_prior, runs=1, scene=scene)
    tinyruns.run(tmp_path, ids)
    kept = content(RunFolder(tmp_path / ids[0]))
    assert kept["status"] == "done"
    assert ("params.background" in kept["parameters"]) == (background == "learned")
    assert {"loss_entropy", "loss_sparsity", "loss_orientation"} <= set(kept["rows"][0])


def test_the_number_of_threads_changes_nothing(tmp_path: Path):
    """On the embedded prior, whose tensors are large enough to be split among threads."""
    spec = RunSpec(method="tp_sds", prompt="a red car", seed=0, config=Config(steps=3))
    for threads in (1, 2):
        folder = RunFolder.create(tmp_path / str(threads), spec)
        tinyruns.run(tmp_path / str(threads), [folder.id], threads=threads)
    assert content(RunFolder(tmp_path / "1" / folder.id)) == content(RunFolder(tmp_path / "2" / folder.id))
