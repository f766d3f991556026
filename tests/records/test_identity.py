"""A run's id: golden values, what enters it and what does not."""

import re

from hypothesis import given
from hypothesis import strategies as st

from harness.config import Config, SceneConfig
from harness.presets import preset
from harness.records.identity import LARGEST_SEED, RunSpec, SuiteRef, run_id, slug

BUS = RunSpec(method="tp_sds", prompt="a red bus", seed=0)


def test_golden_ids():
    """These change only together with SPEC_VERSION: folders on disk are found by them."""
    assert run_id(BUS) == "tp_sds-a-red-bus-s0-f69ab924"
    paper = BUS.model_copy(update={"config": preset("paper")})
    assert run_id(paper) == "tp_sds-a-red-bus-s0-f4ca09c5"
    iclr = BUS.model_copy(
        update={"params": {"prior": "gaussian", "m": 500.0}, "params_set": ("prior",), "variant": "iclr"}
    )
    assert run_id(iclr) == "tp_sds-a-red-bus-s0-632371c5"


def test_values_at_their_default_and_labels_leave_the_id_alone():
    spelled_out = BUS.model_copy(update={"config": Config.model_validate(Config().model_dump())})
    labelled = BUS.model_copy(
        update={
            "params": {"m1": 800.0},
            "suite": SuiteRef(name="coco", sha256="ab" * 32, size=153),
            "variant": "v1",
            "config": Config(preset="paper"),
        }
    )
    assert run_id(spelled_out) == run_id(labelled) == run_id(BUS)


def test_everything_that_can_change_a_result_changes_the_id():
    others = [
        {"method": "uniform_sds"},
        {"prompt": "a red bus "},
        {"seed": 1},
        {"spec_version": 1},
        {"config": Config(steps=401)},
        {"config": Config(scene=SceneConfig(samples=31))},
        {"params": {"m1": 700.0}, "params_set": ("m1",)},
    ]
    ids = {run_id(BUS.model_copy(update=other)) for other in others}
    assert len(ids) == len(others) and run_id(BUS) not in ids


@given(st.text(min_size=1))
def test_a_prompt_never_becomes_a_dangerous_name(prompt: str):
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", slug(prompt)) and len(slug(prompt)) <= 40
    name = run_id(RunSpec(method="tp_sds", prompt=prompt, seed=3))
    assert re.fullmatch(r"tp_sds-[a-z0-9-]+-s3-[0-9a-f]{8}", name)


NAMES = st.sampled_from([".hidden", "..x", "a\nb", "x" * 400, "中文", "a/b", "-rf", "..", "a b", "\x00"])


@given(NAMES | st.text(min_size=1))
def test_a_method_of_any_name_has_a_folder_of_its_own(method: str) -> None:
    spec = RunSpec(method=method, prompt="a red cup", seed=LARGEST_SEED)
    name = run_id(spec)
    assert re.fullmatch(r"[A-Za-z0-9_+=@][A-Za-z0-9_.+=@-]*", name) and len(name) < 200
    assert name != run_id(RunSpec(method=method + "x", prompt="a red cup", seed=LARGEST_SEED))
    assert spec.label == method
