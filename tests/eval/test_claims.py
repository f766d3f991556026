"""What decides a claim: the interval, the figure claimed, and no judge."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.statistics.power import POWERS
from eval.tables import claims, differences
from eval.tables.claims import CONTRADICTED, NOT_DECIDED, NOT_TESTED, SUPPORTED, Answer
from tests.eval.conftest import PROMPTS, Sweep
from tests.eval.test_study import study_of

FASTER = claims.CLAIMS[0].figure


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (0.6, 0.5, 0.7, SUPPORTED),
        (0.4, 0.3, 0.5, SUPPORTED),  # faster than claimed
        (0.73, 0.6, 0.99, SUPPORTED),
        (0.85, 0.73, 0.99, NOT_DECIDED),  # faster, and whether by so much is open
        (0.8, 0.75, 0.9, CONTRADICTED),  # faster, and not so much
        (1.0, 0.9, 1.2, CONTRADICTED),
        (math.inf, 1.3, math.inf, CONTRADICTED),
        (0.7, 0.6, 1.0, NOT_DECIDED),
        (0.2, 0.0, 0.5, SUPPORTED),
        (0.7, 0.5, math.inf, NOT_DECIDED),
        (0.5, math.nan, math.nan, NOT_DECIDED),  # a single prompt
    ],
)
def test_a_ratio_is_held_against_the_laxer_figure(
    value: float, low: float, high: float, verdict: str
) -> None:
    assert Answer.of_ratio("x", value, low, high).verdict(FASTER) == verdict


@pytest.mark.parametrize(
    ("low", "high", "figure", "verdict"),
    [
        (0.1, 2.0, 0.0, SUPPORTED),
        (-2.0, -0.1, 0.0, CONTRADICTED),
        (-1.0, 1.0, 0.0, NOT_DECIDED),
        (1.0, 20.0, 30.2, CONTRADICTED),  # people prefer it, by less than claimed
        (1.0, 31.0, 30.2, NOT_DECIDED),
        (25.0, 36.0, 30.2, SUPPORTED),
    ],
)
def test_a_difference_is_held_against_its_figure(
    low: float, high: float, figure: float, verdict: str
) -> None:
    assert Answer("x", (low + high) / 2, low, high).verdict(figure) == verdict


@given(st.floats(-5, 5), st.floats(0.01, 5), st.floats(0, 4), st.floats(0.01, 3))
def test_more_of_an_effect_never_turns_a_claim_down(
    low: float, width: float, figure: float, more: float
) -> None:
    order = [CONTRADICTED, NOT_DECIDED, SUPPORTED]
    one = Answer("x", low + width / 2, low, low + width).verdict(figure)
    other = Answer("x", low + width / 2 + more, low + more, low + width + more).verdict(figure)
    assert order.index(one) <= order.index(other)


@given(st.floats(0.02, 3), st.floats(0.01, 2), st.floats(0.01, 2), st.floats(1.0, 3))
def test_less_data_never_turns_contradicted_into_supported(
    value: float, down: float, up: float, wider: float
) -> None:
    narrow = Answer.of_ratio("x", value, value * math.exp(-down), value * math.exp(up)).verdict(FASTER)
    wide = Answer.of_ratio("x", value, value * math.exp(-down * wider), value * math.exp(up * wider)).verdict(
        FASTER
    )
    assert wide in (narrow, NOT_DECIDED)


def test_what_is_visible_is_told_from_none_with_the_power_named() -> None:
    half = math.log(1.25)
    effect = -math.log(float(str(Answer.of_ratio("x", 1.0, 0.8, 1.25).visible)))
    error = half / 1.959964
    share = 0.5 * (1 + math.erf((effect - half) / error / math.sqrt(2)))
    assert share == pytest.approx(POWERS[0], abs=0.03)  # .73 has two digits
    assert Answer.of_ratio("x", 1.0, 0.8, math.inf).visible == "–" == Answer.untested("nobody").visible
    assert Answer.of_ratio("x", 1.0, 0.8, 1.25, powered=False).visible == "–"


def test_the_table_has_a_verdict_for_every_row(runs: Sweep, clip_folder: Path) -> None:
    table = claims.table(study_of(runs, clip_folder))
    at = {
        name: table.columns.index(name) for name in ("claim", "reading", "these runs", "verdict", "controls")
    }
    found = {(str(row[at["claim"]]), str(row[at["reading"]])): row for row in table.rows}
    for row in table.rows:
        untested = str(row[at["these runs"]]).startswith(NOT_TESTED)
        assert (row[at["verdict"]] == NOT_TESTED) == untested
        assert row[at["controls"]] == "not run"
    worse = found["better results than linear decay", "last step"]
    assert "needs linear_decay" in str(worse[at["these runs"]])
    runs.add("linear_decay", PROMPTS[5], 0)  # of a prompt that tp_sds has not
    again = claims.table(study_of(runs, clip_folder))
    [other] = [
        row for row in again.rows if row[0] == "better results than linear decay" and row[3] == "tp_sds"
    ]
    assert other[at["verdict"]] == NOT_TESTED and len(again.rows) == len(table.rows)
    better = found["better results than uniform SDS", "last step"]
    [row] = [row for row in differences.table(study_of(runs, clip_folder)).rows if row[0] == "tp_sds"]
    assert str(better[table.columns.index("visible from")]) == str(row[3])
    assert better[at["verdict"]] in (SUPPORTED, NOT_DECIDED) and "[" in str(better[at["these runs"]])
