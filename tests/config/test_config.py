"""Configuration: strict keys, one-line errors, presets, and random streams."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from harness.config import (
    Config,
    GuidanceConfig,
    UserError,
    apply_overrides,
    override_keys,
    parse_value,
)
from harness.presets import load, names, preset


def test_presets_round_trip_through_json():
    for name in names():
        config = preset(name)
        assert config.preset == name
        assert Config.model_validate(json.loads(config.model_dump_json())) == config


def test_a_preset_is_a_file_in_the_folder_or_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever adds one touches nothing else."""
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'title = "one image"\nscorers = ["toy-clip"]\nsteps = 7\n[scene]\nkind = "image"\n'
        '[views]\nazimuths = 1\nheldout_elevation = "none"\n'
    )
    found = load(str(mine))
    changes = {"steps": 7, "scene.kind": "image", "views.azimuths": 1, "views.heldout_elevation": None}
    assert found.config == apply_overrides(
        Config(preset="mine"), [f"{k}={json.dumps(v)}" for k, v in changes.items()]
    )
    assert (found.title, found.scorers, found.changes) == ("one image", ("toy-clip",), changes)
    monkeypatch.setattr("harness.presets.FOLDER", tmp_path)
    assert names() == ["mine"] and load("mine") == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stepz = 3", "unknown setting 'stepz'; did you mean 'steps'?"),
        ("[scene]\nlevels = 0", "scene.levels=0: levels: Input should be greater than or equal to 1"),
        ("[optim]\nlr = inf", "finite"),
        ("[optim]\nlr = 2024-01-01", "valid number"),
        ("scene = 3", "unknown setting 'scene'"),
        ('preset = "other"', "unknown setting 'preset'"),
        ("scorers = 3", "scorers is a list"),
        ("[", "mine.toml"),
    ],
)
def test_a_preset_that_does_not_fit_is_told_with_its_file(tmp_path: Path, text: str, says: str):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        load(str(tmp_path / "mine.toml"))
    assert says in str(caught.value) and "mine.toml: " in str(caught.value)
    assert "\n" not in str(caught.value) and "--set" not in str(caught.value)
    (tmp_path / "a b.toml").touch()
    with pytest.raises(UserError, match="named by its file"):
        load(str(tmp_path / "a b.toml"))


def test_paper_holds_the_settings_of_v1():
    paper = preset("paper")
    assert paper.steps == 10_000 and paper.scene.resolution == 64
    assert (paper.optim.lr, paper.optim.betas) == (1e-3, (0.9, 0.999))
    assert paper.guidance.cfg_scale == 50 and paper.guidance.view_prompt == "{view} view of {prompt}"
    assert paper.camera.elevation == (-30, 30) and paper.camera.fov == (40, 70)


def test_iclr_holds_the_settings_of_threestudios_dreamfusion_with_if():
    iclr = preset("iclr")
    assert iclr.guidance.prior == "DeepFloyd/IF-I-XL-v1.0" and iclr.guidance.weighting == "sds"
    assert iclr.guidance.cfg_scale == 20 + 1 and iclr.guidance.t_range == (0.02, 0.98)
    assert iclr.camera.elevation == (-10, 90) and iclr.camera.distance == (1.5, 2)
    assert (iclr.scene.density_bias, iclr.scene.density_radius, iclr.scene.resolution) == (10, 0.5, 64)
    assert iclr.scene.base_resolution * iclr.scene.growth**15 == pytest.approx(4096, rel=2e-3)
    assert (iclr.optim.lr, iclr.optim.betas, iclr.optim.eps) == (0.01, (0.9, 0.99), 1e-15)
    assert (iclr.views.elevation, iclr.views.distance, iclr.views.fov) == (15, 2, 70) and iclr.steps == 10_000


def test_overrides_take_every_kind_of_value():
    config = apply_overrides(
        Config(),
        [
            "scene.samples=24",
            "guidance.t_range=0.1,0.9",
            "guidance.revision=none",
            "optim.betas=[0.8, 0.9]",
            "steps=7",
        ],
    )
    assert config.scene.samples == 24 and config.steps == 7
    assert config.guidance.t_range == (0.1, 0.9) and config.optim.betas == (0.8, 0.9)


class Word(StrEnum):
    SEVEN = "7"


LOOKS_LIKE_SOMETHING_ELSE = [
    "2024",
    "39593e5",
    "1e3",
    "true",
    "True",
    "null",
    "[a]",
    "{prompt}",
    "NaN",
    "007",
]


@pytest.mark.parametrize("text", LOOKS_LIKE_SOMETHING_ELSE)
def test_text_stays_text_where_a_setting_is_text(text: str):
    config = apply_overrides(Config(), [f"guidance.prior={text}"])
    assert config.guidance.prior == text
    if text != "null":  # which is how JSON says none
        assert apply_overrides(Config(), [f"guidance.revision={text}"]).guidance.revision == text
    assert TypeAdapter(Path).validate_python(parse_value(text, Path)) == Path(text)


@given(st.text(min_size=1))
def test_any_text_survives(text: str):
    if not (text.startswith('"') and text.endswith('"')):  # a string of JSON's is what it says
        assert parse_value(text, str) == parse_value(text, Annotated[str, Field(min_length=1)]) == text
    assert parse_value(json.dumps(text), str | None) == text


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("none", str | None, None),
        ("none", str, "none"),
        ("none", int | None, None),
        ("7", Literal["7", "8"], "7"),
        ("7", Literal[7, 8], 7),
        ("7", Word, Word.SEVEN),
        ("7", int | str, 7),
        ("39593e5", int | str, "39593e5"),
        (".5", float | Literal["auto"], 0.5),
        ("auto", float | Literal["auto"], "auto"),
        ("1e3", int, 1000),
        ("False", bool, False),
        ("true", bool, True),
        ("5", tuple[str, ...], ("5",)),
        ("5,true", list[str], ["5", "true"]),
        ("a,7", tuple[str, int], ("a", 7)),
        ("(0.1, 0.9)", tuple[float, float], (0.1, 0.9)),
        ('{"a": 1}', dict[str, int], {"a": 1}),
    ],
)
def test_a_value_is_read_as_its_field_takes_it(text: str, annotation: Any, value: Any):
    assert TypeAdapter(annotation).validate_python(parse_value(text, annotation)) == value


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("scene.sampels=3", "did you mean 'scene.samples'"),
        ("samples=3", "did you mean 'scene.samples'"),
        ("steps", "takes key=value"),
        ("scene.samples=many", "scene.samples"),
        ("scene.levels=0", "greater than or equal to 1"),
        ("guidance.t_range=0.9,0.1", "backwards"),
        ("optim.betas=0.9,1", "betas.1: Input should be less than 1"),
        ("camera.elevation=0,120", "elevation must lie in -90..90"),
        ("camera.distance=0,2", "distance must be above 0"),
        ("camera.fov=40,180", "fov must lie between 0 and 180"),
        ("views.elevation=-91", "elevation: Input should be greater than or equal to -90"),
        ("guidance.dtype=fp16", "'float16'"),
        ("guidance.view_prompt=a view", "{prompt}"),
    ],
)
def test_bad_overrides_are_one_line_with_the_nearest_choice(item: str, says: str):
    with pytest.raises(UserError) as caught:
        apply_overrides(Config(), [item])
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_config_is_frozen_and_strict():
    with pytest.raises(ValidationError):
        Config().steps = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Config.model_validate({"stepz": 3})


def test_every_key_can_be_set_to_its_own_value():
    data = Config().model_dump(mode="json")
    for key in override_keys(Config):
        value = data
        for part in key.split("."):
            value = value[part]
        assert apply_overrides(Config(), [f"{key}={json.dumps(value)}"]) == Config()


@pytest.mark.parametrize(("total", "count"), [(400, 10), (7, 10), (1, 10), (10_000, 10), (401, 7)])
def test_evaluation_points_are_even_and_end_at_the_last_step(total: int, count: int):
    steps = Config(views=Config().views.model_copy(update={"count": count})).views.steps(total)
    assert steps[-1] == total and steps == sorted(set(steps)) and len(steps) == min(total, count)
    assert steps[0] >= 1


def test_a_long_run_on_a_gpu_is_compiled_and_nothing_else_unless_asked() -> None:
    auto, on, off = (GuidanceConfig(compile=word) for word in ("auto", "on", "off"))
    assert (
        auto.compiled(2000, "cuda:0")
        and not auto.compiled(1999, "cuda:0")
        and not auto.compiled(10_000, "cpu")
    )
    assert on.compiled(1, "cpu") and not off.compiled(10_000, "cuda")
