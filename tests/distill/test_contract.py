"""What a method may and may not return, and that nothing it does to its arguments reaches the run."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.check.runs import content
from harness.distill.events import Stepped
from harness.distill.runner import advance
from harness.records.folder import RunFolder
from tests import tinyruns

HEAD = '"""{name}."""\nimport numpy as np\nimport torch\nfrom harness.distill.method import Method\n'


def method(folder: Path, name: str, body: str) -> tuple[str, ...]:
    """A method of that body in a folder of its own; the directories to look for it in."""
    (folder / "methods" / name).mkdir(parents=True)
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    (folder / "methods" / name / "method.py").write_text(
        HEAD.format(name=name) + f"class M(Method):\n{lines}"
    )
    return (str(folder / "methods"),)


TIMESTEPS = "def timesteps(self, step_R, total_R, draws_R):\n    "
WEIGHT = "def weight(self, t_R):\n    "
GRADIENT = "def gradient(self, ctx):\n    "
BEGIN = "def initial_state(self, seeds, shapes):\n    "
STATE = BEGIN + "return {'a': torch.zeros(len(seeds), 2)}\ndef state(self):\n    "
IMAGE = {  # the quickest scene there is
    "scene": {"kind": "image", "resolution": tinyruns.LATENT},
    "views": {"count": 1, "azimuths": 1, "heldout_elevation": None},
}

WRONG = {
    "float_t": (TIMESTEPS + "return self.noise.t_max * (1 - step_R / total_R)", r"float32 \[2\] on cpu, and"),
    "short_t": (TIMESTEPS + "return step_R[:1] + 100", r"int64 \[1\] on cpu, and must return int64 \[2\]"),
    "wide_t": (TIMESTEPS + "return (step_R + 100)[:, None]", r"timesteps returned int64 \[2, 1\]"),
    "narrow_t": (TIMESTEPS + "return (step_R + 100).int()", r"timesteps returned int32 \[2\]"),
    "numpy_t": (TIMESTEPS + "return np.asarray(step_R) + 100", "timesteps returned a ndarray"),
    "no_t": (TIMESTEPS + "pass", "timesteps returned a NoneType"),
    "negative_t": (TIMESTEPS + "return 3 - step_R * 2", "t = 1 at step 1, outside 20…980"),
    "late_t": (TIMESTEPS + "return 979 + step_R", "t = 981 at step 2, outside 20…980"),
    "refusing_t": (
        "def timesteps(self, *args):\n    from harness.config import UserError\n    raise UserError('never')",
        "never",
    ),
    "one_weight": (WEIGHT + "return super().weight(t_R)[:1]", r"weight returned float32 \[1\]"),
    "double_weight": (WEIGHT + "return super().weight(t_R).double()", r"weight returned float64 \[2\]"),
    "plain_weight": (WEIGHT + "return 1.0", "weight returned a float, and must return float32"),
    "tall_weight": (WEIGHT + "return super().weight(t_R)[:, None]", r"weight returned float32 \[2, 1\]"),
    "nan_weight": (WEIGHT + "return super().weight(t_R) / 0 * 0", "diverged"),
    "half_gradient": (GRADIENT + "return super().gradient(ctx).half()", "gradient returned float16"),
    "mean_gradient": (
        GRADIENT + "return super().gradient(ctx).mean(0)",
        r"float32 \[4, 8, 8\] on cpu",
    ),
    "thin_gradient": (GRADIENT + "return super().gradient(ctx)[:, :1]", r"float32 \[2, 1, 8, 8\]"),
    "no_gradient": (GRADIENT + "return None", "gradient returned a NoneType"),
    "endless_gradient": (GRADIENT + "return super().gradient(ctx) * float('inf')", "diverged"),
    "listed_state": (
        "def initial_state(self, seeds, shapes):\n    return [torch.zeros(2)]",
        "initial_state returned a list",
    ),
    "flat_state": (
        BEGIN + "return {'a': torch.tensor(1.0)}",
        r"initial_state returned a as float32 \[\] on cpu, and must return \[2, …\]",
    ),
    "forgotten_state": (STATE + "return {}", r"state returned a as nothing, .* made as float32 \[2\]"),
    "grown_state": (STATE + "return {'a': torch.zeros(2, 3)}", r"state returned a as float32 \[3\]"),
    "widened_state": (
        STATE + "return {'a': torch.zeros(2, 2).double()}",
        r"state returned a as float64 \[2\]",
    ),
    "undefined_state": (
        STATE + "return {'a': torch.full((2, 2), float('nan'))}",
        "diverged: non-finite a in the method's state",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_method_returns_wrongly_fails_its_runs_with_the_reason(
    name: str, tiny_prior: Path, tmp_path: Path
) -> None:
    body, reason = WRONG[name]
    dirs = method(tmp_path, name, body)
    ids = tinyruns.create(tmp_path / "runs", tiny_prior, name, 2, [Path(dirs[0])], **IMAGE)
    tinyruns.run(tmp_path / "runs", ids, methods_dirs=dirs)
    for run in ids:
        failure = RunFolder(tmp_path / "runs" / run).failure()
        assert failure is not None
        assert re.search(reason, failure["reason"]), failure["reason"]


def test_only_the_run_whose_timestep_is_outside_fails(tiny_prior: Path, tmp_path: Path) -> None:
    body = TIMESTEPS + "t = super().timesteps(step_R, total_R, draws_R)\n"
    body += "    t[(draws_R > draws_R.min()) & (step_R == 3)] = 1000\n    return t"
    dirs = method(tmp_path, "half", body)
    ids = tinyruns.create(tmp_path / "runs", tiny_prior, "half", 2, [Path(dirs[0])], **IMAGE)
    for _ in range(2):  # the other one is to be advanced again, from its checkpoint
        try:
            tinyruns.run(tmp_path / "runs", ids, methods_dirs=dirs)
        except Exception as error:
            assert "t = 1000 at step 3" in str(error)
    assert sorted(RunFolder(tmp_path / "runs" / run).status() for run in ids) == ["done", "failed"]


VANDAL = """def __init__(self, *args):
    super().__init__(*args)
    self.kept = []
def spoil(self):
    for tensor in self.kept:
        tensor.mul_(0).sub_(3)
def timesteps(self, step_R, total_R, draws_R):
    self.spoil()
    t = super().timesteps(step_R, total_R, draws_R).clone()
    step_R -= 1
    total_R += 100
    draws_R.zero_()
    self.kept = [step_R, total_R, draws_R, t]
    return t
def weight(self, t_R):
    w = super().weight(t_R)
    t_R.zero_()
    return w
def initial_state(self, seeds, shapes):
    state = {'a': torch.zeros(len(seeds))}
    seeds.clear()
    self.kept.append(state['a'])
    return state
def state(self):
    return self.mine
def load_state(self, tensors):
    self.mine = dict(tensors)
def gradient(self, ctx):
    assert torch.equal(self.mine['a'].long() + 1, ctx.step_R), 'the state went on'
    self.mine['a'] = self.mine['a'] + 1
    g = super().gradient(ctx).clone()
    self.kept += [ctx.x_RCHW, ctx.x_t_RCHW, ctx.noise_RCHW, ctx.t_R, ctx.eps_RCHW, ctx.cond_RLD]
    self.kept += [ctx.eps_uncond_RCHW, ctx.eps_cond_RCHW, ctx.step_R, ctx.total_R]
    self.kept += [self.noise.alphas_on(ctx.t_R.device)]
    self.spoil()
    self.noise._copies.clear()
    return g.requires_grad_()"""


def test_what_a_method_does_to_its_arguments_changes_nothing(tiny_prior: Path, tmp_path: Path) -> None:
    dirs = method(tmp_path, "vandal", VANDAL)
    method(tmp_path, "plain", "pass")
    for name in ("vandal", "plain"):
        ids = tinyruns.create(tmp_path / name, tiny_prior, name, 2, [Path(dirs[0])], **IMAGE)
        emit, should_stop = tinyruns.stop_after(3)
        advance(tmp_path / name, ids, tinyruns.execution(methods_dirs=dirs), emit, should_stop)
        events = tinyruns.run(tmp_path / name, ids, methods_dirs=dirs)
        assert sum(isinstance(event, Stepped) for event in events) == tinyruns.STEPS - 3

    def outcomes(name: str) -> Iterator[tuple]:
        for path in sorted((tmp_path / name).glob(f"{name}-*")):
            found = content(RunFolder(tmp_path / name / path.name))
            yield found["status"], found["rows"], found["views"]

    assert list(outcomes("vandal")) == list(outcomes("plain"))
    assert [status for status, *_ in outcomes("plain")] == ["done", "done"]
