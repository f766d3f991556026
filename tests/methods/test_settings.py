"""Settings that no method can mean are refused, in one line that names them; all others are taken."""

import pytest

from harness.config import Config, UserError
from harness.distill.assemble import make_method
from harness.guidance.prior import Guidance
from harness.sweep.grid import choose_methods
from tests.methods import plain

WHEN_NAMED = {  # whatever the prior
    "sdi:high=5000": "method sdi, high: Input should be less than 1000 (got 5000)",
    "sdi:low=981": "method sdi, low=981 is above high=980",
    "sdi:stride=1001": "method sdi, stride: Input should be less than or equal to 1000 (got 1001)",
    "jsd:high=100": "method jsd, low=250 is above high=100",
    "hifa:low=1000": "method hifa, low: Input should be less than 1000 (got 1000)",
    "hifa:low=990": "method hifa, low=990 is above high=980",
    "dsd:low=-1": "method dsd, low: Input should be greater than or equal to 0 (got -1)",
    "dsd:high=300": "method dsd, low=320 is above high=300",
    "ucm:low=700": "method ucm, low=700 is above high=699",
    "nfsd:small_t=1001": "method nfsd, small_t: Input should be less than or equal to 1000 (got 1001)",
    "consistent3d:start=3000": "method consistent3d, start: Input should be less than 1000 (got 3000)",
    "consistent3d:gap=1000": "method consistent3d, gap: Input should be less than 1000 (got 1000)",
    "annealed_range:begin=0.5": "method annealed_range, begin=0.5 is above until=0.2",
    "ism:low=5000": "method ism, low: levels are of T = 1000 (got 5000)",
    "ism:interval=1001": "method ism, interval: levels are of T = 1000 (got 1001)",
    "ism:low=501": "method ism, high=501 is not above low=501",
    "ism:high_start=20": "method ism, high_start=20 is not above low=21",
    "sctd:low=600": "method sctd, high=501 is not above low=600",
    "sctd:bottom=990": "method sctd, bottom=990 is above top=980",
    "sctd:gap=41": "method sctd, gap=41 on both sides leaves no s within least=80",
    "sctd:least=300": "method sctd, least=300 above the last edge, 788, is beyond T = 1000",
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
    *("sdi:low=980", "ucm:low=699", "hifa:high=999", "nfsd:small_t=1000", "ism:low=500:interval=1000"),
    *("annealed_range:begin=0.2", "sctd:gap=40", "sctd:least=211", "tp_sds:m=999:m1=500", "tp_sds:iclr:m=0"),
    *("linear_decay:floor=980", "linear_decay:floor=0", "tp_sds:ceiling=999", "tp_sds:pgc:floor=799"),
]


@pytest.mark.parametrize(("text", "told"), WHEN_NAMED.items(), ids=WHEN_NAMED)
def test_what_cannot_be_meant_is_refused_when_it_is_named(text: str, told: str) -> None:
    with pytest.raises(UserError) as refused:
        choose_methods(text, [])
    assert str(refused.value) == told


def test_ends_of_a_range_are_shares_that_do_not_cross() -> None:
    for key, value, told in (
        ("high", "[1.0,1.5]", "high.1: Input should be less than or equal to 1 (got 1.5)"),
        ("low", "[0.0,0.6]", "low=(0.0, 0.6) is above high=(1.0, 0.5) at the beginning or at the end"),
    ):
        with pytest.raises(UserError) as refused:
            choose_methods("annealed_range", [f"annealed_range.{key}={value}"])
        assert str(refused.value) == f"method annealed_range, {told}"


def test_a_decay_of_one_is_refused():
    with pytest.raises(UserError, match=r"method vsd, betas\.1: Input should be less than 1"):
        choose_methods("vsd", ["vsd.betas=0.9,1"])


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
