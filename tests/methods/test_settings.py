"""Settings that no method can mean are refused, in one line that names them; all others are taken."""

import pytest

from harness.config import Config, UserError
from harness.distill.assemble import make_method
from harness.guidance.prior import Guidance
from harness.sweep.grid import choose_methods
from tests.methods import plain

WHEN_NAMED = {  # whatever the prior
    "ism:low=5000": "method ism, low: levels are of T = 1000 (got 5000)",
    "ism:interval=1001": "method ism, interval: levels are of T = 1000 (got 1001)",
    "ism:low=501": "method ism, high=501 is not above low=501",
    "ism:high_start=20": "method ism, high_start=20 is not above low=21",
    "sctd:low=600": "method sctd, high=501 is not above low=600",
}
ON_A_PRIOR = {  # of T = 1000 and a range of 20…980
    "tp_sds:m=5000": "method tp_sds: m=5000 is no timestep: choose one of 0…999",
    "tp_sds:iclr:m=1000": "method tp_sds: m=1000 is no timestep: choose one of 0…999",
    "tp_sds:m1=1e4": "method tp_sds: m1=10000 is no timestep: choose one of 0…999",
    "tp_sds:m1=400": "method tp_sds: m1=400 is below m2=500: the prior is flat from m2 up to m1",
    "tp_sds:ceiling=1000": "method tp_sds: ceiling=1000 is no timestep: choose one of 0…999",
    "tp_sds:pgc:floor=800": "method tp_sds: floor=800 is above ceiling=799",
    "tp_sds:ceiling=10": "method tp_sds: the weight W(t) is 0 everywhere in the range 20…980",
    "linear_decay:floor=5000": "method linear_decay: floor=5000 is no timestep: choose one of 0…999",
    "linear_decay:floor=990": "method linear_decay: floor=990 is above the range 20…980",
    "scattered:iclr:m=1e3": "method scattered: m=1000 is no timestep: choose one of 0…999",
    "uniform_sds:t=5000": "method uniform_sds: t=5000 is outside the range 20…980",
    "csd@tp_sds:m=5000": "method csd@tp_sds: m=5000 is no timestep: choose one of 0…999",
}
EDGES = [
    *("ism:low=500:interval=1000", "tp_sds:m=999:m1=500", "tp_sds:iclr:m=0"),
    *("linear_decay:floor=980", "linear_decay:floor=0", "tp_sds:ceiling=999", "tp_sds:pgc:floor=799"),
]


@pytest.mark.parametrize(("text", "told"), WHEN_NAMED.items(), ids=WHEN_NAMED)
def test_what_cannot_be_meant_is_refused_when_it_is_named(text: str, told: str) -> None:
    with pytest.raises(UserError) as refused:
        choose_methods(text, [])
    assert str(refused.value) == told


@pytest.mark.parametrize(("text", "told"), ON_A_PRIOR.items(), ids=ON_A_PRIOR)
def test_what_cannot_be_meant_on_a_prior_is_refused_there(text: str, told: str, prior: Guidance) -> None:
    (chosen,) = choose_methods(text, [])
    with pytest.raises(UserError) as refused:
        make_method(Config(guidance=prior.cfg), prior, chosen.name, chosen.params)
    assert str(refused.value) == told


@pytest.mark.parametrize("text", EDGES)
def test_the_last_value_that_can_be_meant_is_taken(text: str, prior: Guidance) -> None:
    (chosen,) = choose_methods(text, [])
    method = make_method(Config(guidance=prior.cfg), prior, chosen.name, chosen.params)
    assert all(20 <= t <= 980 for t in plain.timesteps(method, [1, 10, 20], 20, 0.999))
