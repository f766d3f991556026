"""Suites, seeds, methods and the grid they span."""

from pathlib import Path

import pytest

from harness.config import Config, UserError
from harness.records.identity import run_id
from harness.sweep.grid import (
    choose_methods,
    expand,
    make_suite,
    parse_seeds,
    read_suite,
    split_overrides,
    write_suite,
)


def test_a_suite_is_read_as_written(tmp_path: Path):
    path = tmp_path / "few.txt"
    path.write_text("# a comment\n\n  a red bus  \nan apple, side by side\n", encoding="utf-8")
    suite = read_suite(path)
    assert suite.name == "few" and suite.prompts == ("a red bus", "an apple, side by side")
    assert suite.ref.size == 2
    write_suite(tmp_path, suite)
    assert (tmp_path / "suites" / f"{suite.sha256[:12]}.json").exists()


@pytest.mark.parametrize("twin", ["A red bus.", "a  red bus", " a red bus ,"])
def test_prompts_that_are_the_same_after_normalisation_are_refused(twin: str):
    with pytest.raises(UserError, match="same prompt"):
        make_suite("s", ["a red bus", twin], "file")


def test_missing_and_empty_suites_are_one_clear_line(tmp_path: Path):
    (tmp_path / "coco.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match=r"has coco\.txt"):
        read_suite(tmp_path / "coca.txt")
    with pytest.raises(UserError, match="holds no prompt"):
        read_suite(tmp_path / "coco.txt")


def test_the_committed_suites_are_as_promised():
    coco, smoke = (read_suite(Path("prompts") / name) for name in ("coco.txt", "smoke.txt"))
    assert len(coco.prompts) == 153 and len(smoke.prompts) == 6
    assert set(smoke.prompts) <= set(coco.prompts)


def test_seeds():
    assert parse_seeds("0-2,5") == [0, 1, 2, 5]
    assert parse_seeds("3,3, 1") == [1, 3]
    for bad in ("", "a", "3-1", "-1", "1-", "0,,1"):
        with pytest.raises(UserError):
            parse_seeds(bad)


def test_methods_presets_and_their_settings():
    plain, iclr = choose_methods("tp_sds,tp_sds:iclr", [])
    assert plain.params_set == () and plain.params["m1"] == 800
    assert iclr.params_set == ("prior", "snr_weight") and iclr.variant == "iclr"
    (changed,) = choose_methods("tp_sds", ["tp_sds.m1=700"])
    assert changed.params_set == ("m1",) and changed.params["m1"] == 700 and changed.variant == "m1=700"
    assert [c.name for c in choose_methods("", [])] == ["uniform_sds", "linear_decay", "tp_sds", "tp_sds"]
    with pytest.raises(UserError, match="same settings"):
        choose_methods("tp_sds,tp_sds:v1", [])
    with pytest.raises(UserError, match=r"'m1'|\"m1\""):
        choose_methods("tp_sds", ["tp_sds.m11=700"])


def test_settings_go_to_the_config_or_to_a_method():
    ours, theirs = split_overrides(["scene.samples=3", "tp_sds.m1=7", "tp_sd.m1=7"], ["tp_sds"])
    assert ours == ["scene.samples=3", "tp_sd.m1=7"] and theirs == ["tp_sds.m1=7"]


def test_the_grid_is_the_product_and_the_pool_stays_whole():
    suite = make_suite("s", ["a red bus", "a blue bus", "a cup"], "file")
    choices = choose_methods("tp_sds,uniform_sds,tp_sds:iclr", [])
    specs = expand(suite, choices, [0, 4], Config(), suite.prompts[:2])
    assert len(specs) == len({run_id(spec) for spec in specs}) == 3 * 2 * 2
    assert {spec.prompt for spec in specs} == {"a red bus", "a blue bus"}
    assert all(spec.suite and spec.suite.size == 3 for spec in specs)
    assert {spec.label for spec in specs} == {"tp_sds", "uniform_sds", "tp_sds:iclr"}
