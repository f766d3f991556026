"""Every experiment of experiments/ resolves at both sizes and asks for tables and figures that exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.figures.write import FIGURES
from eval.metric import known
from eval.preference.judge import ANSWERS
from eval.preference.making import parse_questions
from eval.tables.made import table_names
from harness.config import UserError
from harness.distill.method import discover, load_method
from harness.prompt import normalised
from harness.records.identity import RunSpec, hashed_config, run_id
from harness.sweep import experiment, grid
from harness.sweep.request import Request, choose, parse_steps

TWO_HOURS = 360_000  # denoiser evaluations, of those with a plan: two cores make 50 a second
THIRTY_MINUTES = {"field": 95_000, "image": 130_000}  # run-steps: two cores take 55 or 75 a second


@pytest.mark.parametrize("name", experiment.names())
def test_an_experiment_resolves(name: str) -> None:
    asked = experiment.load(name)
    assert set(asked.tables) <= set(table_names({metric.name: metric for metric in known()})) and set(
        asked.figures
    ) <= set(FIGURES)
    assert (asked.toy is None) == (asked.paper is None)
    if asked.toy is None or asked.paper is None:
        return
    suite, specs = asked.resolve(asked.toy)
    # Settings are chosen on the baseline, at each method's own timesteps, on prompts that no comparison uses.
    if name.startswith("settings"):
        baselines = {"uniform_sds"} | ({"csd", "ism", "vsd"} if name == "settings_transfer" else set())
        assert suite.name == "tuning" and {spec.label for spec in specs} == baselines
    else:
        assert suite.name == "coco" and len(suite.prompts) == 153
    steps = sum(spec.config.steps for spec in specs)
    if asked.plan:
        assert _evaluations(asked.toy, specs) <= TWO_HOURS
        plan = " ".join(asked.plan.split())
        assert all(word in plan for word in ("Hypothesis:", "Primary measure:", "n:", "Rule:", "Cost:"))
    else:
        assert steps <= THIRTY_MINUTES[specs[0].config.scene.kind]
    labels = {spec.label for spec in specs}
    assert "tp_sds" not in labels or "tp_sds:iclr" in labels, "schedules are compared as v1 and v2 have them"
    assert {name for pair in asked.contrasts for name in pair} <= labels
    assert bool(asked.contrasts) == ("contrasts" in asked.tables)
    composed = {
        left for left, at, right in (label.partition("@") for label in labels) if right == "uniform_sds"
    }
    assert "schedules" not in asked.tables or composed, "a@b is held against a@uniform_sds there"
    if asked.study:
        assert set(asked.study.methods) <= {spec.label for spec in specs}
        assert set(ANSWERS) & {question.id for question in parse_questions(asked.study.questions)}
    _, specs = asked.resolve(asked.paper)
    assert {spec.config.guidance.prior for spec in specs} == {"CompVis/stable-diffusion-v1-4"}
    if asked.runs:  # some of its runs are the other's but for their steps, and the folder is the other's own
        other = experiment.load(asked.runs)
        assert other.toy is not None and other.runs is None
        sizes = ((asked, asked.toy), (other, other.toy))
        ours, theirs = (
            {
                (spec.label, spec.prompt, spec.seed, str(hashed_config(spec.config) | {"steps": 0}))
                for spec in specs
            }
            for specs in (each.resolve(size)[1] for each, size in sizes)
        )
        assert ours & theirs
        assert asked.keep_params <= other.keep_params


def _evaluations(size: experiment.Size, specs: list[RunSpec]) -> float:
    """Of all runs; a method whose declared NFE is a range takes the size's mean, or the range's middle."""
    if size.nfe:
        return size.nfe * len(specs)
    per_step = {name: sum(load_method(name).nfe_range()) / 2 for name in {spec.method for spec in specs}}
    return sum(spec.config.steps * per_step[spec.method] for spec in specs)


def test_distillations_and_schedules_are_compared_in_full() -> None:
    labels = {}
    for name in ("distillations", "distillations_own", "distillations_steps", "schedules"):
        asked = experiment.load(name)
        assert asked.toy is not None
        specs = asked.resolve(asked.toy)[1]
        assert len({(spec.prompt, spec.seed) for spec in specs}) == 48
        labels[name] = {spec.label.replace(":own", "") for spec in specs}
    schedules = {label.partition(":")[0] for label in labels["schedules"]}
    falling = {"linear_decay", "tp_sds", "annealed_range", "curved_decay"}
    assert schedules == {"uniform_sds", "scattered", "knots", *falling}
    assert labels["distillations"] == labels["distillations_own"]
    assert labels["distillations"] == set(discover()) - (schedules - {"uniform_sds"})
    assert labels["distillations"] - labels["distillations_steps"] == {"dsd", "jsd", "sdi"}


def test_settings_are_chosen_on_prompts_of_their_own() -> None:
    suites = {name: grid.read_suite(name) for name in grid.suites()}
    own = {normalised(prompt) for prompt in suites.pop("tuning").prompts}
    assert len(own) == 120 and len(grid.read_suite("tuning").split("tuning")) == 24
    assert not own & {normalised(prompt) for suite in suites.values() for prompt in suite.prompts}


def test_what_is_beside_a_sweep_is_told_by_its_settings() -> None:
    asked = experiment.load("controls")
    assert asked.toy is not None
    _, specs = asked.resolve(asked.toy)
    alone = [spec for spec in specs if not spec.axes]
    beside = [spec for spec in specs if spec.axes]
    assert len({run_id(spec) for spec in specs}) == len(specs) == 440
    assert {(spec.label, spec.config.steps) for spec in specs} - {(s.label, 200) for s in alone} == {
        ("uniform_sds", 50)
    }
    assert {spec.axes for spec in beside} == {("guidance.cfg_scale",), ("guidance.perturb",)}
    values = {(spec.config.guidance.cfg_scale, spec.config.guidance.perturb) for spec in beside}
    assert values == {(1, 0), (10, 0.1), (10, 0.3), (10, 1)}
    twice = experiment.Beside(methods="uniform_sds,csd")
    _, more = asked.resolve(asked.toy.model_copy(update={"beside": (twice,)}))
    assert len(more) == 7 * 40 and sum(spec.method == "csd" for spec in more) == 40


def test_the_experiments_of_the_paper_are_there() -> None:
    figures = {f"fig{number}" for number in (3, 4, 6, 7, 8, 10, 11, 12, 14)}
    assert figures | {"convergence", "diversity", "preference"} <= set(experiment.names())


def test_an_unknown_experiment_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no experiment 'fig88'; did you mean 'fig8'"):
        experiment.load("fig88")
    monkeypatch.setattr(experiment, "EXPERIMENTS", tmp_path)
    (tmp_path / "mine.toml").write_text('title = "t"\nsource = "s"\nreads = "r"\nfigure = ["x"]\n')
    with pytest.raises(UserError, match=r"mine\.toml: figure: "):
        experiment.load("mine")
    (tmp_path / "mine.toml").write_text("title = ")
    with pytest.raises(UserError, match=r"mine\.toml: "):
        experiment.load("mine")


def test_prompts_at_even_distances() -> None:
    prompts = [str(i) for i in range(10)]
    assert choose(prompts) == prompts
    assert choose(prompts, limit=3) == ["0", "1", "2"]
    assert choose(prompts, spread=5) == ["0", "2", "4", "6", "8"]
    assert choose(prompts, spread=99) == prompts
    with pytest.raises(UserError, match="--limit takes the first prompts and --spread even ones"):
        Request(Path("prompts/smoke.txt"), limit=2, spread=2).resolve()
    suite, specs = Request(Path("prompts/smoke.txt"), methods="tp_sds", spread=2).resolve()
    assert (
        [spec.prompt for spec in specs] == choose(suite.prompts, spread=2) != choose(suite.prompts, limit=2)
    )


def test_several_numbers_of_steps_are_runs_of_their_own() -> None:
    assert parse_steps("100, 200,100") == (100, 200)
    for wrong in ("0", "ten", "1,,2"):
        with pytest.raises(UserError, match="--steps takes"):
            parse_steps(wrong)
    request = Request(Path("prompts/smoke.txt"), methods="tp_sds", steps=(5, 9), limit=1)
    _, specs = request.resolve()
    assert [spec.config.steps for spec in specs] == [5, 9]


def test_variants_of_one_method_stand_side_by_side() -> None:
    request = Request(Path("prompts/smoke.txt"), methods="tp_sds:iclr:m=250,tp_sds:iclr,tp_sds:s=75", limit=1)
    _, specs = request.resolve()
    assert [spec.label for spec in specs] == ["tp_sds:iclr,m=250", "tp_sds:iclr", "tp_sds:s=75"]
    assert specs[0].params["m"] == 250 and specs[0].params_set == ("m", "prior", "snr_weight")
