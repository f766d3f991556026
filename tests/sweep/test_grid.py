"""Suites, seeds, methods and the grid they span."""

from pathlib import Path

import pytest

from eval.tables.domains import domain
from harness.config import Config, UserError
from harness.records.identity import run_id
from harness.sweep.grid import (
    choose_methods,
    expand,
    make_suite,
    parse_seeds,
    read_suite,
    split_overrides,
    suites,
    write_suite,
)
from harness.sweep.request import Request
from harness.toyworld.grammar import caption, exchanged, parse


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
    with pytest.raises(UserError, match=r"did you mean '.*coco\.txt'"):
        read_suite(tmp_path / "coca.txt")
    with pytest.raises(UserError, match="holds no prompt"):
        read_suite(tmp_path / "coco.txt")


def test_the_committed_suites_are_as_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # they are named from anywhere
    found = {name: read_suite(name) for name in suites()}
    assert len(found["coco"].prompts) == 153 and len(found["smoke"].prompts) == 6
    assert set(found["smoke"].prompts) <= set(found["coco"].prompts)
    assert found["coco"].sha256.startswith("8625d89e44b8"), "pools of runs that are there name it"
    own = {"vehicles", "furniture", "animals", "two_objects", "fronts", "parts"}
    assert own | {"coco", "smoke", "tuning"} == set(found)
    for name, suite in found.items():
        assert (suite.name, suite.about["version"], suite.about["licence"]) == (name, "1", "Apache-2.0")
        for prompt in suite.prompts:
            scene = parse(prompt)
            assert caption(scene) == prompt, "in the toy world's language, as it writes it"
            assert name != "two_objects" or scene.support is not None
            if name == "parts":
                swapped = exchanged(scene)
                assert swapped is not None and caption(swapped) in suite.prompts
    assert {domain(prompt) for prompt in found["animals"].prompts} == {"animals"}
    assert {domain(prompt) for prompt in found["two_objects"].prompts} == {"one on another"}


def test_splits_are_apart_and_whole_and_a_sweep_takes_one(tmp_path: Path):
    suite = read_suite("coco")
    assert set(suite.splits) == {"train", "test", "validation"}
    dealt = [prompt for part in suite.splits.values() for prompt in part]
    assert sorted(dealt) == sorted(suite.prompts) and len(set(dealt)) == len(dealt)
    assert suite.split("test")[0] == suite.prompts[1] and len(suite.split("validation")) == 31
    request = Request(Path("coco"), methods="tp_sds", split="validation", spread=3)
    whole, specs = request.resolve()
    assert whole == suite and [spec.prompt for spec in specs] == suite.split("validation")[::10][:3]
    (tmp_path / "plain.txt").write_text("# splits: a, b\na red bus\na blue bus\na red cup\n")
    plain = read_suite(tmp_path / "plain.txt")
    assert plain.splits == {"a": ["a red bus", "a red cup"], "b": ["a blue bus"]}
    for made, told in (
        (Request(Path("coco"), split="tset"), "coco has no split 'tset'; did you mean 'test'"),
        (
            Request(Path("vehicles"), split="test"),
            "vehicles declares no splits: its head says them, such as # spl",
        ),
        (
            Request(Path("coco"), split="test", texts=("a red car",)),
            "--limit, --spread and --split choose none",
        ),
    ):
        with pytest.raises(UserError, match=told):
            made.resolve()


def test_a_file_beside_goes_before_a_suite_of_its_name_and_a_near_name_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no prompt file vehicels; did you mean 'vehicles'"):
        read_suite("vehicels")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "mugs.txt").write_text("a red bus\n")
    for asked, meant in (
        ("promts/mugs.txt", "; did you mean 'prompts/mugs.txt'?"),
        ("prompts/mugz", "; did you mean 'prompts/mugs.txt'?"),
        ("prompts/smoke.txt", "; did you mean 'smoke'?"),
        ("prompts/xyz.txt", "; prompts has mugs.txt"),
        ("nowhere/xyz.txt", ""),
    ):
        with pytest.raises(UserError) as caught:
            read_suite(asked)
        assert str(caught.value) == f"no prompt file {asked}{meant}"
    (tmp_path / "coco").write_text("a red bus\n")
    assert read_suite("coco").prompts == ("a red bus",)


def test_a_head_names_a_suite_and_its_version(tmp_path: Path):
    path = tmp_path / "file.txt"
    path.write_text(
        "# name: mugs\n# version: 2\n# licence: CC0-1.0\n# a comment: too\na red mug\na blue mug\n"
    )
    suite = read_suite(path)
    assert suite.name == "mugs@2" and suite.about["licence"] == "CC0-1.0" and len(suite.prompts) == 2
    assert suite == make_suite("mugs@2", suite.prompts, "") and suite.ref.name == "mugs@2"


def test_a_column_of_a_table_and_lines_of_a_benchmark_are_suites(tmp_path: Path):
    table = tmp_path / "renders.csv"
    table.write_text('id,prompt,rating\n1,"a red bus, side by side",3\n2,,4\n3,a blue cup,5\n')
    suite = read_suite(f"{table}:prompt")
    assert suite.name == "renders" and suite.prompts == ("a red bus, side by side", "a blue cup")
    with pytest.raises(UserError, match="has no column 'promt'; did you mean 'prompt'"):
        read_suite(f"{table}:promt")
    with pytest.raises(UserError, match=r"no prompt file .*none\.csv"):
        read_suite(f"{tmp_path / 'none.csv'}:prompt")
    # T3Bench's prompt_single.txt: one prompt a line, in capitals, with or without a stop.
    (tmp_path / "prompt_single.txt").write_text("A blue vase with a lid.  \nA rusty key\n\n")
    assert read_suite(tmp_path / "prompt_single.txt").prompts == ("A blue vase with a lid.", "A rusty key")


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
