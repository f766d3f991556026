"""How methods are found, named and made."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import UserError
from harness.distill.method import BUILT_IN, Method, NoiseSchedule, discover, load_method, new_method
from harness.distill.schedules import sd_alphas_cumprod
from harness.sweep.grid import choose_methods

NOISE = NoiseSchedule(torch.from_numpy(sd_alphas_cumprod()).float(), 20, 980)


def make(name: str, weighting: str = "one", **params: Any) -> Method:
    method = load_method(name)
    return method(method.resolve(params, name), NOISE, weighting)


def write(folder: Path, source: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "method.py").write_text(source)
    return folder


def test_the_built_in_methods() -> None:
    found = discover()
    assert {"uniform_sds", "linear_decay", "tp_sds"} <= set(found)
    for folder in found.values():
        assert folder.summary.endswith(".") and (folder.path / "README.md").is_file()


def test_listing_imports_nothing(tmp_path: Path) -> None:
    write(tmp_path / "boom", '"""Says boom."""\nraise RuntimeError("imported")\n')
    write(tmp_path / "torn", "def broken(:\n")
    write(tmp_path / "_private", '"""Not listed."""\n')
    found = discover([tmp_path])
    assert found["boom"].summary == "Says boom."
    assert "cannot be read" in found["torn"].summary and "_private" not in found
    code = (
        "import sys; from harness.distill import method; method.discover(); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=BUILT_IN.parent)


def test_typos_and_collisions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no method 'tpsds'; did you mean 'tp_sds'"):
        load_method("tpsds")
    with pytest.raises(UserError, match=r"methods directory .* does not exist"):
        discover([tmp_path / "nowhere"])
    write(tmp_path / "a" / "mine", '"""Mine."""\n')
    write(tmp_path / "b" / "mine", '"""Mine too."""\n')
    with pytest.raises(UserError, match="two methods are named 'mine'"):
        discover([tmp_path / "a", tmp_path / "b"])
    assert list(discover([tmp_path / "a", tmp_path / "a"])).count("mine") == 1


def test_a_methods_directory_that_is_not_one_names_the_one_that_was_meant(tmp_path: Path) -> None:
    mine = write(tmp_path / "outer" / "mine", '"""Mine."""\n')
    (tmp_path / "empty").mkdir()
    for given, says in (
        (mine, f"is a method itself; name the folder it lies in: {mine.parent}"),
        (BUILT_IN / "tp_sds", f"is a method itself; name the folder it lies in: {BUILT_IN}"),
        (mine / "method.py", f"is a file; name {mine.parent}"),
        (tmp_path, f"holds no method, which is a folder with a method.py; name {mine.parent}"),
        (tmp_path / "empty", "holds no method, which is a folder with a method.py"),
    ):
        with pytest.raises(UserError) as told:
            discover([given])
        assert str(told.value) == f"methods directory {given} {says}"
    assert "mine" in discover([mine.parent])


HELPED = """
{imports}
from harness.distill.method import Method
class M(Method):
    scale = staticmethod(lambda: {value})
"""


@pytest.mark.parametrize(
    ("imports", "value"),
    [
        ("from helper import scale", "scale"),
        ("from .helper import scale", "scale"),
        ("import helper", "helper.scale"),
        ("import os, helper as h", "h.scale"),
        ("from parts.deep import scale", "scale"),
        ("import parts.deep", "parts.deep.scale"),
        ("import parts.deep as d", "d.scale"),
        ("from parts import deep", "deep.scale"),
        ("", "__import__('os') and lazily()"),
    ],
)
def test_modules_beside_a_method_are_its_own(tmp_path: Path, imports: str, value: str) -> None:
    for name, scale in (("one", 1.0), ("two", 2.0)):
        folder = write(tmp_path / name, HELPED.format(imports=imports, value=value))
        with open(folder / "method.py", "a") as file:
            file.write("def lazily():\n    from helper import scale\n    return scale\n")
        (folder / "helper.py").write_text(f"scale = {scale}\n")
        (folder / "parts").mkdir()
        (folder / "parts" / "__init__.py").write_text("import helper\n")
        (folder / "parts" / "deep.py").write_text("from helper import scale\nfrom parts import helper\n")
    before = list(sys.path)
    methods = [load_method(name, [tmp_path]) for name in ("one", "two")]
    assert [method.scale() for method in methods] == [1.0, 2.0]  # type: ignore[attr-defined]
    assert sys.path == before and "helper" not in sys.modules and "parts" not in sys.modules
    (tmp_path / "one" / "helper.py").write_text("scale = 3.5\n")
    assert load_method("one", [tmp_path]).scale() == 3.5  # type: ignore[attr-defined]
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_file_with_a_byte_order_mark_is_a_method(tmp_path: Path) -> None:
    write(tmp_path / "bom", "\ufeff" + '"""With a mark."""\n' + HELPED.format(imports="", value=1))
    assert discover([tmp_path])["bom"].summary == "With a mark."
    assert load_method("bom", [tmp_path])


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    write(tmp_path / "boom", 'raise RuntimeError("imported")\n')
    write(tmp_path / "empty", "x = 1\n")
    with pytest.raises(UserError, match="cannot be imported: RuntimeError: imported"):
        load_method("boom", [tmp_path])
    with pytest.raises(UserError, match="defines 0 subclasses of Method"):
        load_method("empty", [tmp_path])


def test_presets_and_settings() -> None:
    tp_sds = load_method("tp_sds")
    full = tp_sds.resolve({"preset": "iclr", "s": 75}).model_dump()
    assert (full["prior"], full["snr_weight"], full["s"], full["m"]) == ("gaussian", True, 75.0, 500.0)
    assert tp_sds.resolve(full).model_dump() == full
    defaults = tp_sds.resolve({}).model_dump()
    assert defaults == tp_sds.resolve({"preset": "v1"}).model_dump()
    assert [defaults[key] for key in ("m1", "m2", "s1", "s2")] == [800, 500, 300, 100]
    with pytest.raises(UserError, match="no preset 'icrl'; did you mean 'iclr'"):
        tp_sds.resolve({"preset": "icrl"}, "tp_sds")
    with pytest.raises(UserError, match="no setting 'mm1'; did you mean 'm1'"):
        tp_sds.resolve({"mm1": 3}, "tp_sds")
    with pytest.raises(UserError, match="method tp_sds, s: "):
        tp_sds.resolve({"s": -1}, "tp_sds")


def test_a_methods_own_setting_stays_text_where_it_is_text(tmp_path: Path) -> None:
    source = (
        "from harness.distill.method import Method, MethodParams\n"
        "class Params(MethodParams):\n    tag: str = ''\n    many: tuple[str, ...] = ()\n"
        "    n: int | None = 3\n"
        "class Worded(Method):\n    Params = Params\n"
    )
    write(tmp_path / "worded", source)
    overrides = ["worded.tag=2024", "worded.many=1e3,none", "worded.n=none"]
    (choice,) = choose_methods("worded", overrides, [tmp_path])
    assert choice.params == {"tag": "2024", "many": ["1e3", "none"], "n": None}


def test_uniform_covers_the_whole_range_and_no_more() -> None:
    method = make("uniform_sds")
    draws = torch.tensor([0.0, 0.5, 1 - 2**-24])
    assert method.timesteps(torch.ones(3).long(), torch.ones(3).long(), draws).tolist() == [20, 500, 980]


def test_a_fixed_timestep_is_a_setting_of_uniform() -> None:
    ones = torch.ones(3).long()
    assert make("uniform_sds", t=900).timesteps(ones, ones, torch.rand(3)).tolist() == [900] * 3
    with pytest.raises(ValueError, match="t=990 is outside the range 20…980"):
        make("uniform_sds", t=990)


@pytest.mark.parametrize("weighting", ["one", "sds", "fantasia"])
def test_weights(weighting: str) -> None:
    t = torch.tensor([20, 500, 980])
    alpha = NOISE.alphas_cumprod_T[t]
    expected = {"one": torch.ones(3), "sds": 1 - alpha, "fantasia": alpha.sqrt() * (1 - alpha)}[weighting]
    assert torch.equal(make("uniform_sds", weighting).weight(t), expected)


def test_a_new_method(tmp_path: Path) -> None:
    path = new_method("my_sds", tmp_path)
    assert discover([tmp_path])["my_sds"].summary.startswith("My sds")
    assert load_method("my_sds", [tmp_path]).resolve({}).model_dump() == {"scale": 1.0}
    assert (path / "README.md").read_text().startswith("# my_sds")
    for name, reason in (
        ("my_sds", "exists"),
        ("tp_sds", "choose another"),
        ("My-SDS", "no name for a method"),
    ):
        with pytest.raises(UserError, match=reason):
            new_method(name, tmp_path)


def test_a_schedule_is_one_function(tmp_path: Path) -> None:
    write(
        tmp_path / "root",
        "def timestep(progress, draw, noise, params):\n    return 980 - 960 * progress**0.5\n",
    )
    write(tmp_path / "even", "def timestep(progress, draw, noise, params):\n    return 2000 * draw - 500\n")
    write(tmp_path / "ramp", "def density(t_T, noise, params):\n    return (noise.t_max - t_T).clip(0)\n")
    write(
        tmp_path / "late",
        "from harness.distill.method import MethodParams\nimport numpy as np\n"
        "class Params(MethodParams):\n    order: str = 'ascending'\n    floor: int = 100\n"
        "presets = {'low': {'floor': 30}}\n"
        "def density(t_T, noise, params):\n    return np.ones_like(t_T)\n",
    )
    step, total, draws = torch.arange(1, 101), torch.full((100,), 100), torch.rand(100)

    def found(name: str, **params: Any) -> torch.Tensor:
        method = load_method(name, [tmp_path])
        made = method(method.resolve(params, name), NOISE)
        whole = made.timesteps(step, total, draws)
        some = made.timesteps(step[[7, 3]], total[:2], draws[[7, 3]])
        assert whole.dtype == torch.int64 and torch.equal(whole[[7, 3]], some)
        return whole

    assert torch.equal(found("root"), (980 - 960 * (step / total.double()).sqrt()).round().long())
    even = found("even")
    assert even.min() == 20 and even.max() == 980
    # HiFA's square root is what its density spends, too.
    assert (found("ramp") - found("root")).abs().max() <= 1
    assert found("late").min() == 100 and found("late", preset="low").min() == 30
    assert torch.equal(found("late").sort().values, found("late"))


def test_a_schedule_that_is_none_is_told(tmp_path: Path) -> None:
    both = "def timestep(p, d, n, s):\n    return 1\ndef density(t, n, s):\n    return t\n"
    write(tmp_path / "both", both)
    write(tmp_path / "nan", "def timestep(p, d, n, s):\n    return float('nan')\n")
    write(tmp_path / "none", "def density(t, n, s):\n    return 0 * t\n")
    with pytest.raises(UserError, match="defines timestep and density: a schedule is one of them"):
        load_method("both", [tmp_path])
    nan, none = (load_method(name, [tmp_path]) for name in ("nan", "none"))
    with pytest.raises(UserError, match=r"timestep returned \[nan\]"):
        nan(nan.resolve({}), NOISE).timesteps(torch.ones(1).long(), torch.ones(1).long(), torch.zeros(1))
    with pytest.raises(ValueError, match="is 0 everywhere in the range 20…980"):
        none(none.resolve({}), NOISE)
