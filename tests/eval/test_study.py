"""A study's tables over run folders, and what is derived from a run's parameters and its prior."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from eval.command import all_notes, open_runs, write_tables
from eval.metric import Metric, known
from eval.metrics import spectrum
from eval.metrics.diversity import SpreadOverSeeds
from eval.metrics.gradients import DRAWS, TIMESTEPS, gradient_map
from eval.metrics.janus import JanusSigns
from eval.metrics.spectrum import Spectrum
from eval.metrics.textureless import Textureless, textureless
from eval.runs import Runs
from eval.sources.load import load_runs
from eval.sources.samples import prior_samples
from eval.tables import claims, differences, names
from eval.tables.differences import decidable
from eval.tables.made import OWN, RARE, make_tables, table_names
from eval.tables.table import Number, Table, as_csv, latex
from harness.config import GuidanceConfig, UserError, ViewsConfig
from harness.console import Console
from harness.guidance.prior import Guidance, held
from harness.toyworld.solid import Solid
from tests import tinyruns
from tests.eval.conftest import PROMPTS, TOY, Sweep, picture


def ground_truth(prompt: str, views: ViewsConfig) -> np.ndarray:
    return picture(prompt, 7, views.tiles)


def study_of(runs: Sweep, clip_folder: Path) -> Runs:
    return open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0, ground_truth=ground_truth)


def one(runs: Runs, name: str) -> Table:
    [table], _ = make_tables(runs, [name])
    return table


def kinds() -> dict[str, type[Metric]]:
    return {metric.name: metric for metric in known()}


def test_every_table_of_a_full_study_is_written_three_ways(
    runs: Sweep, clip_folder: Path, tmp_path: Path
) -> None:
    for prompt in PROMPTS[:3]:
        for method in ("tp_sds", "uniform_sds"):
            runs.add(method, prompt, 0, config=TOY.model_copy(update={"steps": 10}))
    runs.timed()
    text = io.StringIO()
    tables = write_tables(
        study_of(runs, clip_folder), out=tmp_path / "out", console=Console(file=text, width=200)
    )
    # The runs are views alone, without a solid, no method is composed, and nothing was asked for.
    asked_for = {name for name, kind in kinds().items() if kind.on_request} | RARE
    names = [name for name in table_names(kinds()) if name not in {"shapes", "schedules", *asked_for}]
    assert [table.name for table in tables] == names
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {f"{name}.{kind}" for name in names for kind in ("md", "csv", "tex")} <= set(written)
    again = write_tables(study_of(runs, clip_folder), out=tmp_path / "again", console=Console(file=text))
    assert len(again) == len(tables)
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == written
    page = written["tables.md"].decode()
    for word in ("own N", "wall time", "Holm", "Vendi", "35 % faster convergence", "As published by others"):
        assert word in page
    assert "a machine, 2 threads" in page, "what wall time rests on stands with it"
    for word in (
        "found in no primary text",
        ".74 if it means speed, .65 if fewer steps",
        "68.3 ± 2.7 (s.e.)",
    ):
        assert word in page
    assert "toy-tiny" not in written["published.csv"].decode(), (
        "other people's figures carry no stamp of ours"
    )


def test_the_paired_difference_is_that_of_the_runs(runs: Sweep, clip_folder: Path) -> None:
    [row] = differences.table(study_of(runs, clip_folder)).rows
    assert row[:2] == ["tp_sds", 20]
    gap, visible = row[2:4]
    assert isinstance(gap, Number) and gap.value == pytest.approx(1 / 6)
    assert gap.low < 0 < gap.high, "three prompts"
    assert isinstance(visible, Number) and visible.value > gap.high
    assert row[4:7] == [1, 5, 0] and row[-3:] == [3, 6, 0]


def test_few_prompts_are_said_to_decide_nothing(runs: Sweep, clip_folder: Path) -> None:
    [note] = decidable(study_of(runs, clip_folder))
    assert note == (
        "3 prompts decide nothing: among 1 row compared with uniform_sds, even one that wins on every prompt "
        "has p (Holm) = 0.25; it takes 6 prompts"
    )
    for prompt in PROMPTS[3:]:
        for method in ("tp_sds", "uniform_sds"):
            runs.add(method, prompt, 0)
    study = study_of(runs, clip_folder)
    assert decidable(study) == [
        "6 prompts can show a difference of 50.0 points at the least: 6 won and none lost have p (Holm) ≤ "
        ".05 among 1 row compared with uniform_sds"
    ]
    assert decidable(study)[0] in all_notes(study) and decidable(study)[0] in differences.table(study).notes
    ours = [run.run_id for run in study if run.method == "tp_sds"]
    alone = open_runs(runs.root, clip=str(clip_folder), device="cpu", only=ours)
    assert decidable(alone) == []


def two_toned(prompt: str, views: ViewsConfig) -> np.ndarray:
    """Ground truth whose back half has another colour."""
    other = PROMPTS[(PROMPTS.index(prompt) + 1) % len(PROMPTS)]
    images_VHWC = picture(prompt, 7, views.tiles)
    images_VHWC[1 : views.azimuths] = picture(other, 7, views.azimuths - 1)
    return images_VHWC


def test_janus_stands_beside_its_floor_its_azimuths_and_the_retrieved(runs: Sweep, clip_folder: Path) -> None:
    study = open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0, ground_truth=two_toned)
    table = one(study, "signatures")
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert list(rows) == [
        "uniform_sds", "tp_sds", "random features (floor)", "other prompts' ground truth (floor)"
    ]  # fmt: skip
    for method, retrieved in (("tp_sds", 6), ("uniform_sds", 5)):
        row = rows[method]
        # One colour all around: the front is seen from everywhere.
        assert str(row["Janus, %"]) == "100.0 [43.9, 100.0]" or method == "uniform_sds"
        assert row["azimuths"] == "4" and row["retrieved"] == retrieved and row["sided prompts"] == 3
        assert isinstance(row["of retrieved, %"], Number) and row["of retrieved, %"].value == 1
    floors = study.of(JanusSigns).floor
    assert 0 < floors["random features"].janus < 0.4
    cell = rows["random features (floor)"]["Janus, %"]
    assert isinstance(cell, Number) and cell.value == floors["random features"].janus


def test_collapse_is_not_told_without_samples_of_the_prior(runs: Sweep, clip_folder: Path) -> None:
    table = one(study_of(runs, clip_folder), "diversity")
    assert list(table.columns)[2:6] == ["1 − cos", "prior's 1 − cos", "collapsed, %", "Vendi of 2"]
    assert {str(row[4]) for row in table.rows} == {"–"}


def test_vendi_is_of_as_many_seeds_as_every_prompt_has(runs: Sweep, clip_folder: Path) -> None:
    for seed in (2, 3):
        runs.add("tp_sds", PROMPTS[0], seed)
    frame = study_of(runs, clip_folder).of(SpreadOverSeeds).frame
    assert set(frame["vendi_of"]) == {2} and sorted(set(frame["n_seeds"])) == [2, 4]
    assert max(frame["vendi"]) <= 2


@pytest.mark.parametrize("truth", [True, False])
def test_spectra_have_the_priors_own_error_for_a_floor(
    runs: Sweep, clip_folder: Path, truth: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(runs, clip_folder)
    if not truth:
        study._render = None
    monkeypatch.setattr(
        type(study), "prior_samples", {prompt: picture(prompt, 9, 4, 32) for prompt in study.prompts}
    )
    rows = {str(row[0]): row for row in one(study, "spectrum").rows}
    cells = rows["prior's samples (floor)"][3:8]
    assert all(isinstance(cell, Number) and math.isfinite(cell.value) for cell in cells)
    assert rows["prior's samples (floor)"][8:] == [3, "–"]
    images = (
        study.prior_samples[PROMPTS[0]].reshape(4, 16, 2, 16, 2, 3).mean(axis=(2, 4)).round().astype(np.uint8)
    )
    half = spectrum.radial_power(images[:2]), spectrum.radial_power(images[2:])
    whole = spectrum.radial_power(images), study.of(Spectrum).real[PROMPTS[0]]
    expected = spectrum.band_error(*(whole if truth else half))["overall"]
    found = dict(zip(*(study.of(Spectrum).floor[name] for name in ("prompt", "overall")), strict=True))[
        PROMPTS[0]
    ]
    assert found == pytest.approx(expected, abs=0.02) and found > 0


def test_a_table_that_cannot_be_made_is_left_out_or_refused(tmp_path: Path, clip_folder: Path) -> None:
    runs = Sweep(tmp_path / "runs")
    runs.add("tp_sds", PROMPTS[0], 0)
    study = study_of(runs, clip_folder)
    made, left_out = make_tables(study)
    assert "r_precision" in {table.name for table in made}
    told = {line.split(":")[0] for line in left_out}
    expected = ("differences", "convergence", "own_n", "cost", "diversity", "shapes", "claims")
    assert told == {f"no table {name}" for name in expected}
    with pytest.raises(UserError, match="at least two seeds"):
        make_tables(study, ["diversity"])
    with pytest.raises(UserError, match="no table 'divresity'; did you mean 'diversity'"):
        make_tables(study, ["divresity"])


def test_claims_are_read_both_ways_for_both_versions_of_the_schedule(runs: Sweep, clip_folder: Path) -> None:
    for prompt in PROMPTS[:3]:
        runs.add("tp_sds", prompt, 0, variant="iclr", params={"s": 125.0}, params_set=("s",))
        for method in ("tp_sds", "uniform_sds"):
            runs.add(method, prompt, 0, config=TOY.model_copy(update={"steps": 10}))
    table = claims.table(study_of(runs, clip_folder))
    about_steps = [row for row in table.rows if "steps to 80 %" in str(row[2])]
    assert [tuple(row[3:5]) for row in about_steps[:4]] == [
        (method, reading)
        for method in ("tp_sds", "tp_sds:iclr")
        for reading in ("checkpoints of one run", "runs with their own N")
    ]
    assert len(about_steps) == 8, "two claims, two methods, two readings"
    assert not any("R-Precision;" in str(row[5]) for row in table.rows)


def test_contrasts_are_of_the_two_that_were_named(runs: Sweep, clip_folder: Path) -> None:
    for prompt in PROMPTS[:3]:
        for seed in (0, 1):
            runs.add("linear_decay", prompt, seed, shows=PROMPTS[5])

    def table(*pairs: tuple[str, str]) -> Table:
        found = open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0, contrasts=pairs)
        return make_tables(found, ["contrasts"])[0][0]

    rows = table(("tp_sds", "linear_decay"), ("linear_decay", "tp_sds")).rows
    assert [row[0] for row in rows] == ["tp_sds − linear_decay", "linear_decay − tp_sds"]
    one, other = (cast(Number, row[2]) for row in rows)
    assert one.value == -other.value > 0 and (one.low, one.high) == pytest.approx((-other.high, -other.low))
    with pytest.raises(UserError, match=r"no runs of 'tp_sd'; did you mean 'tp_sds'"):
        table(("tp_sd", "uniform_sds"))
    with pytest.raises(UserError, match="--contrast 'A vs B'"):
        table()


def test_only_the_runs_asked_for_take_part(runs: Sweep, clip_folder: Path) -> None:
    every = [run.run_id for run in load_runs(runs.root)[0]]
    study = open_runs(runs.root, clip=str(clip_folder), device="cpu", only=every[:3])
    assert [run.run_id for run in study] == every[:3]


def test_a_number_is_written_with_its_interval() -> None:
    assert str(Number(0.5, 0.25, math.inf, digits=2)) == "0.50 [0.25, ∞]"
    assert str(Number(math.nan)) == "–" and str(Number(0.123, scale=100)) == "12.3"
    assert str(Number(-0.0001, -0.1, 0.1, scale=100, sign=True)) == "+0.0 [-10.0, +10.0]"
    with pytest.raises(ValueError, match="2 cells for 1 columns"):
        Table("t", [], "t", ["a"], [["b", "c"]])


def test_latex_escapes_what_tex_reads(runs: Sweep, clip_folder: Path) -> None:
    stamp = study_of(runs, clip_folder).stamp
    table = Table("t", ["r_precision"], "50 % & more", ["a_b", "n"], [["x_y", Number(0.5, 0.25, math.inf)]])
    text = latex(table, stamp)
    assert r"50 \% \& more" in text and r"x\_y & 0.5 [0.2, $\infty$] \\" in text
    [line] = csv.DictReader(io.StringIO(as_csv(table, stamp)))
    assert (line["n"], line["n low"], line["n high"]) == ("0.5", "0.25", "inf")


@pytest.fixture(scope="module")
def kept(tiny_prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A field's run on the tiny prior that kept its parameters, and one that did not."""
    root = tmp_path_factory.mktemp("kept")
    kept, plain = tinyruns.create(root, tiny_prior, runs=2)
    tinyruns.run(root, [kept], keep_params=True)
    tinyruns.run(root, [plain])
    return root


def test_gradient_maps_of_kept_parameters(kept: Path, tiny_prior: Path, clip_folder: Path) -> None:
    runs, _ = load_runs(kept)
    with_params = [run for run in runs if run.folder.params_steps()]
    assert [run.folder.params_steps() for run in with_params] == [[2, 5, 7]]
    guidance = Guidance.load(with_params[0].config.guidance, "cpu")
    rows = gradient_map(with_params[0], guidance)
    assert len(rows) == 3 * TIMESTEPS and {row["step"] for row in rows} == {2, 5, 7}
    assert min(row["t"] for row in rows) == 20 and max(row["t"] for row in rows) == 980
    assert all(row["mean"] > 0 and row["variance"] > 0 for row in rows) and DRAWS > 1
    assert gradient_map(with_params[0], guidance) == rows
    other = next(run for run in runs if not run.folder.params_steps())
    assert {row["step"] for row in gradient_map(other, guidance)} == {7}, "the last checkpoint has parameters"


def test_kept_parameters_are_those_of_the_last_checkpoint(kept: Path) -> None:
    run = next(run for run in load_runs(kept)[0] if run.folder.params_steps())
    at_end = run.folder.load_params(7)
    checkpoint = run.folder.load_checkpoint()
    assert at_end and checkpoint and run.folder.load_params(3) is None
    assert all(torch.equal(value, checkpoint[0][f"params.{name}"]) for name, value in at_end.items())


def test_textureless_renders_are_grey_and_show_the_shape(kept: Path) -> None:
    run = load_runs(kept)[0][0]
    images_VHWC = textureless(run, 32)
    assert images_VHWC is not None and images_VHWC.shape == (run.config.views.tiles, 32, 32, 3)
    centre = images_VHWC[:, 12:20, 12:20].astype(int)
    assert (np.ptp(centre, axis=-1) < 40).mean() > 0.9, "the blob in the middle has no colour"
    corner = images_VHWC[:, :2, :2]
    assert (np.abs(corner - np.array(run.config.scene.background_rgb) * 255) <= 1).all()


def test_shapes_are_retrieved_by_what_they_are_called_without_colours(
    tmp_path: Path, clip_folder: Path
) -> None:
    pool = (*PROMPTS, "a blue cup", "a pink donut on a white plate")
    sweep = Sweep(tmp_path / "runs", prompts=pool)
    for prompt in PROMPTS[:2]:
        sweep.add("uniform_sds", prompt, 0)
    options = {"clip": str(clip_folder), "device": "cpu", "samples": 0}
    study = open_runs(sweep.root, ground_truth=ground_truth, solids=Solid, **options)
    (suite,) = study.pools
    metric = Textureless(study)
    scorer, words = metric.scorers[suite]
    assert scorer.pool.prompts == (*(f"a {prompt.split()[-1]}" for prompt in PROMPTS), "a donut on a plate")
    assert words["a blue cup"] == words["a red cup"] == "a cup" and set(words) == set(pool)
    assert list(metric.ceiling["prompt"]) == study.prompts and set(metric.ceiling["pool"]) == {7}
    plain = Textureless(open_runs(sweep.root, **options))
    assert plain.scorers[suite][0].pool.prompts == pool and plain.ceiling.empty


def test_a_picture_has_no_textureless_renders(tiny_prior: Path, tmp_path: Path) -> None:
    flat = {"count": 1, "azimuths": 1, "heldout_elevation": None}
    scene = {"kind": "image", "resolution": tinyruns.LATENT}
    tinyruns.run(tmp_path, tinyruns.create(tmp_path, tiny_prior, runs=1, scene=scene, views=flat))
    assert textureless(load_runs(tmp_path)[0][0], 32) is None


def test_samples_of_the_prior_are_drawn_once(tiny_prior: Path, tmp_path: Path) -> None:
    cfg = GuidanceConfig(prior=str(tiny_prior), dtype="float32")
    own = held(cfg).content_hash
    first = prior_samples(tmp_path, cfg, own, ["a red mug"], 2, "cpu")["a red mug"]
    assert first.shape[0] == 2 and not np.array_equal(first[0], first[1])
    gone = cfg.model_copy(update={"prior": str(tmp_path / "nowhere")})
    [folder] = (tmp_path / "eval").iterdir()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = prior_samples(tmp_path, cfg, own, ["a red mug"], 2, "cpu")["a red mug"]
    assert np.array_equal(again, first) and {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    with pytest.raises(UserError, match="nowhere"):
        prior_samples(tmp_path, gone, own, ["a red mug"], 2, "cpu")
    with pytest.raises(UserError, match="other files of"):
        prior_samples(tmp_path, cfg, "0" * 64, ["a red mug"], 2, "cpu")


def test_names_of_tables_are_known_from_sources_alone(tmp_path: Path) -> None:
    assert set(OWN) == set(names.OWN) and names.by_source() == table_names(kinds())
    names.check_names(["shapes", "janus", "textureless", "claims"])
    for word in ("r_precison", "gradients"):  # which has no numbers of its own
        with pytest.raises(UserError, match=f"no table '{word}'"):
            names.check_names([word])
    (tmp_path / "mine.py").write_text("class Mine(RunMetric):\n    columns = ()\n    table = 'ours'\n")
    names.check_names(["mine", "ours"], [tmp_path])
    with pytest.raises(UserError, match="no table 'our'; did you mean 'ours'"):
        names.check_names(["our"], [tmp_path])
    (tmp_path / "theirs.py").write_text("class Theirs(Base):\n    columns = ()\n")  # of whatever table
    names.check_names(["our"], [tmp_path])
