"""Controls on planted runs: what must be seen is seen, what fails comes first, here and beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from eval.command import open_runs
from eval.runs import Fitted, Runs
from eval.tables import ceilings, controls
from eval.tables.notes import all_notes
from eval.tables.table import Number
from harness.config import Config, UserError, apply_overrides
from harness.records.files import write_json
from tests.eval import conftest
from tests.eval.conftest import PROMPTS, TOY, Sweep, picture

WRONG = dict(zip(PROMPTS, (*PROMPTS[2:], *PROMPTS[:2]), strict=True))
CFG = "guidance.cfg_scale"
PERTURB = "guidance.perturb"
AT = {cfg: apply_overrides(TOY, [f"{CFG}={cfg}"]) for cfg in (1, 20)}
T = {"params": {"t": 100}, "params_set": ("t",), "variant": "t=100"}
RISING = {"params": {"order": "ascending"}, "params_set": ("order",), "variant": "reversed"}


def filled(root: Path, small_t_is_right: bool = False) -> Sweep:
    """Everything as it must be, unless a run that sees t = 100 alone is right, and full ones wrong."""
    sweep = Sweep(root)
    for prompt in PROMPTS:
        wrong = WRONG[prompt]
        for seed in range(2):
            for cfg, config in AT.items():
                right = wrong if small_t_is_right or cfg == 1 else prompt
                about = {"config": config, "axes": (CFG,)}
                sweep.add("uniform_sds", prompt, seed, shows=right, **about)
                sweep.add(
                    "uniform_sds", prompt, seed, shows=prompt if small_t_is_right else wrong, **about, **T
                )
                sweep.add("tp_sds", prompt, seed, shows=prompt, **about)
                sweep.add("tp_sds", prompt, seed, shows=wrong, **about, **RISING)
            short = AT[20].model_copy(update={"steps": 5})
            sweep.add("uniform_sds", prompt, seed, shows=wrong, config=short, axes=(CFG,))
    return perturbed(sweep)


def perturbed(sweep: Sweep, harms: tuple[int, ...] = (0, 1, 2)) -> Sweep:
    """Runs of disturbed priors: the first so many prompts of each are wrong."""
    for level, wrong in zip((0.1, 0.3, 1.0), harms, strict=True):
        config = apply_overrides(AT[20], [f"{PERTURB}={level}"])
        for number, prompt in enumerate(PROMPTS):
            for seed in range(2):
                shows = WRONG[prompt] if number * 3 < wrong * len(PROMPTS) else prompt
                about = {"config": config, "axes": (CFG, PERTURB)}
                sweep.add("uniform_sds", prompt, seed, shows=shows, **about)
    return sweep


def opened(sweep: Sweep, clip_folder: Path) -> Runs:
    return open_runs(sweep.root, clip=str(clip_folder), device="cpu", samples=0)


def test_what_must_be_seen_is_seen_and_what_must_not_is_not(tmp_path: Path, clip_folder: Path) -> None:
    runs = opened(filled(tmp_path / "controls"), clip_folder)
    assert controls.reference(runs) == "uniform_sds" and "uniform_sds, cfg_scale 1" in runs.methods
    assert "What a row does not say: cfg_scale 20, perturb 0" in runs.notes
    told = {str(row[0]): row for row in controls.table(runs).rows}
    verdicts = {says: row[1] for says, row in told.items()}
    assert verdicts.pop("one large timestep, t = 900, lacks detail") == "not run"
    assert set(verdicts.values()) == {"seen"} and len(verdicts) == 7
    for says in ("one small timestep, t = 100, fails", "no guidance, CFG 1, is worse"):
        found = told[says][3]
        assert isinstance(found, Number) and found.value == -1 and found.high < 0
    assert told["a method is itself with other seeds"][5] == "12 comparisons"
    assert controls.told(runs) == ["controls of this setting (controls): 7 of 7 hold"]


def test_a_control_that_fails_stands_first_in_all_tables_of_its_setting(
    tmp_path: Path, clip_folder: Path
) -> None:
    [first, *_] = controls.table(opened(filled(tmp_path / "controls", True), clip_folder)).rows
    assert first[:2] == ["one small timestep, t = 100, fails", "FAILED"]
    beside = Sweep(tmp_path / "other")
    for seed in range(2):
        beside.add("uniform_sds", PROMPTS[0], seed, config=AT[20])
    notes = all_notes(opened(beside, clip_folder))
    assert notes[0] == "control FAILED (controls): one small timestep, t = 100, fails"
    assert notes[1].startswith("controls of this setting (controls): ")
    unlike = Sweep(tmp_path / "unlike")
    unlike.add("uniform_sds", PROMPTS[0], 0, config=apply_overrides(TOY, [f"{CFG}=7"]))
    assert not controls.told(opened(unlike, clip_folder))


def test_a_flat_picture_has_as_little_detail_as_eight_bits_can_tell(
    tmp_path: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(tmp_path / "runs")
    flat = {"params": {"t": 900}, "params_set": ("t",), "variant": "t=900"}
    for prompt in PROMPTS:
        sweep.add("uniform_sds", prompt, 0)
        with monkeypatch.context() as patch:
            patch.setattr(conftest, "picture", lambda *_, **__: np.full((5, 16, 16, 3), 128, np.uint8))
            sweep.add("uniform_sds", prompt, 0, **flat)
    found = {str(row[0]): row for row in controls.table(opened(sweep, clip_folder)).rows}
    row = found["one large timestep, t = 900, lacks detail"]
    assert row[1] == "seen" and isinstance(row[3], Number) and -6 < row[3].value < 0


@pytest.mark.parametrize(
    ("harms", "verdict"), [((0, 1, 3), "seen"), ((3, 1, 2), "not seen"), ((0, 0, 0), "not seen")]
)
def test_noise_on_the_prior_must_harm_in_its_order(
    harms: tuple[int, ...], verdict: str, tmp_path: Path, clip_folder: Path
) -> None:
    sweep = Sweep(tmp_path / "runs")
    for prompt in PROMPTS:
        for seed in range(2):
            sweep.add("uniform_sds", prompt, seed, shows=prompt, config=AT[20])
    runs = opened(perturbed(sweep, harms), clip_folder)
    found = {str(row[0]): row for row in controls.table(runs).rows}
    row = found["noise on the prior's last weights is worse, in its order"]
    assert row[1] == verdict and row[4] == "below 0, in order"


def test_runs_without_controls_and_files_of_others_are_left_alone(tmp_path: Path, clip_folder: Path) -> None:
    sweep = Sweep(tmp_path / "runs")
    for prompt in PROMPTS[:2]:
        sweep.add("uniform_sds", prompt, 0)
    (sweep.root / "eval").mkdir()
    write_json(sweep.root / "eval" / "controls.json", {"verdicts": [1]})
    runs = opened(sweep, clip_folder)
    assert controls.told(runs) == []
    with pytest.raises(UserError, match="no control among these runs"):
        controls.table(runs)


def test_ceilings_are_what_could_be_reached(tmp_path: Path, clip_folder: Path) -> None:
    sweep = Sweep(tmp_path / "runs")
    for number, prompt in enumerate(PROMPTS):
        for seed in range(2):
            sweep.add("uniform_sds", prompt, seed, shows=WRONG[prompt] if number else prompt)
            sweep.add("tp_sds", prompt, seed, config=TOY.model_copy(update={"steps": 40}))  # of a larger N
    asked: list[tuple[Any, ...]] = []

    def fit(
        root: Path, config: Config, prior_hash: str, prompts: Sequence[str], device: str
    ) -> dict[str, Fitted]:
        asked.append((root, config.steps, prior_hash, sorted(prompts)))
        return {
            p: Fitted(picture(p if k else WRONG[p], 3, TOY.views.tiles), 0.5, 0.75)
            for k, p in enumerate(prompts)
        }

    runs = open_runs(
        sweep.root, clip=str(clip_folder), device="cpu", samples=0, fit=fit,
        ground_truth=lambda prompt, views: picture(prompt, 7, views.tiles),
    )  # fmt: skip
    worn = {p: picture(WRONG[p], 5, TOY.views.tiles) for p in PROMPTS}
    vars(runs)["through_autoencoder"] = lambda like, prompts: {p: worn[p] for p in prompts}
    vars(runs)["prior_features"] = {
        p: runs.clip.embed_images(np.stack([picture(q, 1, 1)[0] for q in (p, WRONG[p])])).numpy()
        for p in PROMPTS
    }
    rows = {str(row[0]): row for row in ceilings.table(runs).rows}
    shares = {name: cast(Number, row[1]).value for name, row in rows.items()}
    n = len(PROMPTS)
    assert shares == pytest.approx(
        {
            "ground truth": 1,
            "ground truth through the autoencoder": 0,
            "the scene, fitted to it": (n - 1) / n,
            "the prior's own samples, front view": 0.5,
            "uniform_sds": 1 / n,
        }
    )
    verdicts = [row[6] for row in rows.values()]
    assert verdicts == ["seen", "not seen", "seen", "not seen", "–"]
    assert cast(Number, rows["the scene, fitted to it"][3]).value == 0.75
    assert cast(Number, rows["ground truth"][4]).value == pytest.approx((n - 1) / n)
    assert asked == [(sweep.root, TOY.steps, "f" * 64, sorted(PROMPTS))]


def test_without_ground_truth_there_are_no_ceilings(tmp_path: Path, clip_folder: Path) -> None:
    sweep = Sweep(tmp_path / "runs")
    sweep.add("uniform_sds", PROMPTS[0], 0)
    with pytest.raises(UserError, match="no ground truth"):
        ceilings.table(opened(sweep, clip_folder))
