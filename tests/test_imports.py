"""The dependencies run one way, and light modules stay light: read from the sources, nothing is imported."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the ground up. A package may import its own floor's packages only where they are one and the same.
FLOORS = [
    {
        "harness.config",
        "harness.console",
        "harness.device",
        "harness.extensions",
        "harness.guidance",
        "harness.home",
        "harness.prompt",
        "harness.rng",
        "harness.text",
        "harness.threads",
    },
    {"harness.records"},
    {"harness.scene"},
    {"harness.presets"},
    {"harness.objects"},
    {"harness.distill", "eval", "harness.toyworld"},
    {"harness.sweep", "methods"},
    {"slurm"},
    {
        "harness.cli",
        "harness.bench",
        "harness.bench_methods",
        "harness.bench_scenes",
        "harness.check",
        "harness.doctor",
        "harness.fitted",
        "harness.library",
        "harness.reproduce",
        "harness.search",
    },
]
FLOOR = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}

# Inside a floor, and above it: what else an arrow may point to.
GROUND = {
    "harness.config",
    "harness.console",
    "harness.device",
    "harness.extensions",
    "harness.home",
    "harness.prompt",
    "harness.rng",
    "harness.text",
    "harness.threads",
}
METHODS_MAY = {
    "harness.distill.context",
    "harness.distill.inversion",
    "harness.distill.learning",
    "harness.distill.method",
    "harness.distill.schedules",
    "harness.guidance.lora",
}
EVAL_MAY_NAME = {"harness.distill.schedules"}  # formulas alone: the schedules are drawn, too
EVAL_MAY = {
    *GROUND,
    "harness.records",
    "harness.presets",
    "harness.guidance",
    "harness.scene",
    "harness.objects",  # textureless renders are of the field that turntables show
    "eval",
}
# harness.cli, harness.bench… and harness.doctor sit on top; inside functions they may reach everything.

LIGHT = [
    *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "harness" / "cli").glob("*.py")),
    "harness/config.py",
    "harness/console.py",
    "harness/presets/__init__.py",
    "harness/device.py",
    "harness/extensions.py",
    "harness/home.py",
    "harness/text.py",
    "harness/doctor.py",
    "harness/prompt.py",
    "harness/threads.py",
    "harness/sweep/grid.py",
    "harness/sweep/request.py",
    "harness/sweep/experiment.py",
    "harness/sweep/plan.py",
    "harness/sweep/status.py",
    "harness/sweep/local.py",
    "harness/sweep/pool.py",
    "harness/sweep/display.py",
    "harness/sweep/dreamfields.py",
    "harness/sweep/worker.py",
    *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "harness" / "records").glob("*.py")),
    "harness/distill/method.py",
    "harness/distill/schedules.py",
    "harness/guidance/architectures.py",
    "harness/guidance/checks.py",
    "harness/guidance/family.py",
    "harness/guidance/folder.py",
    "harness/guidance/hub.py",
    "harness/guidance/reading.py",
    "harness/guidance/tokens.py",
    "harness/guidance/views.py",
    *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "harness" / "guidance" / "families").glob("*.py")),
    "harness/toyworld/grammar.py",
]
HEAVY = {
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "open_clip",
    "wandb",
    "pandas",
    "matplotlib",
    "numba",
}

SOURCES = sorted(
    p for package in ("harness", "methods", "eval", "slurm") for p in (ROOT / package).rglob("*.py")
)


def _nodes(tree: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not inside_functions:
            continue
        yield node
        yield from _nodes(node, inside_functions)


def imported(path: Path, inside_functions: bool = True) -> set[str]:
    """The modules a source file imports, those for type checkers aside."""
    names: set[str] = set()
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8")), inside_functions):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full here"
            assert node.module
            # `from harness import rng` names a module, `from harness.config import Config` does not.
            names |= (
                {f"{node.module}.{a.name}" for a in node.names} if node.module == "harness" else {node.module}
            )
    return names


def package(module: str) -> str | None:
    """The package of the floors that a module belongs to."""
    parts = module.split(".")
    name = ".".join(parts[:2]) if parts[0] == "harness" else parts[0]
    return name if name in FLOOR else None


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_arrow_runs_up(path: Path):
    here = package(module_of(path))
    if here is None or here in FLOORS[-1]:
        return
    for name in imported(path):
        there = package(name)
        if there is None or there == here:
            continue
        if here == "eval" and name in EVAL_MAY_NAME:
            continue
        assert FLOOR[there] < FLOOR[here] or there in GROUND, f"{path.relative_to(ROOT)} imports {name}"
        if here == "methods":
            assert name in METHODS_MAY, f"{path.relative_to(ROOT)} imports {name}"
        if here == "eval":
            assert there in EVAL_MAY, f"{path.relative_to(ROOT)} imports {name}"


def test_no_two_packages_import_each_other():
    arrows = {(package(module_of(path)), package(name)) for path in SOURCES for name in imported(path)}
    arrows = {(a, b) for a, b in arrows if a and b and a != b}
    assert not {(a, b) for a, b in arrows if (b, a) in arrows}


def test_no_modules_of_evaluation_import_each_other():
    """Nor in circles, late imports included: `from eval import x` names a module, too."""
    sources = {module_of(path): path for path in SOURCES if path.is_relative_to(ROOT / "eval")}
    arrows = {}
    for module, path in sources.items():
        named = imported(path)
        for node in _nodes(ast.parse(path.read_text(encoding="utf-8")), True):
            if isinstance(node, ast.ImportFrom):
                named |= {f"{node.module}.{alias.name}" for alias in node.names}
        arrows[module] = named & sources.keys() - {module}
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(reversed(error.args[1])))


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_import_nothing_heavy_at_the_top(name: str):
    heavy = {module.split(".")[0] for module in imported(ROOT / name, inside_functions=False)} & HEAVY
    assert not heavy, f"{name} imports {heavy}"


def _unsaid(node: ast.AST, said: bool = False) -> Iterator[str]:
    """What a command imports where no line on the terminal says that it is loading."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.ImportFrom) and each.module and not said:
            yield from {each.module, *(f"{each.module}.{alias.name}" for alias in each.names)}
        calls = [ast.unparse(item.context_expr) for item in each.items] if isinstance(each, ast.With) else []
        yield from _unsaid(each, said or any(call.startswith("busy(") for call in calls))


def test_commands_say_when_they_load_what_is_heavy():
    tops = {module_of(path): imported(path, inside_functions=False) for path in SOURCES}
    heavy = {module for module, names in tops.items() if {name.split(".")[0] for name in names} & HEAVY}
    while more := {module for module in tops.keys() - heavy if tops[module] & heavy}:
        heavy |= more
    for path in (ROOT / "harness" / "cli").glob("*.py"):
        for function in ast.parse(path.read_text()).body:
            if isinstance(function, ast.FunctionDef):
                silent = heavy & {*_unsaid(function)}
                assert not silent, f"{path.name}: {function.name}: {silent}"


@pytest.mark.parametrize("path", ["harness/cli/__init__.py", "harness/sweep/worker.py"])
def test_entry_points_begin_with_how_threads_wait(path: str):
    """OpenMP reads it once, when torch or numba loads it."""
    (main,) = (n for n in ast.parse((ROOT / path).read_text()).body if getattr(n, "name", "") == "main")
    assert isinstance(main, ast.FunctionDef) and ast.unparse(main.body[1]) == "wait_asleep()"


def test_the_built_in_eval_is_never_shadowed():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not [a for a in node.names if a.name.split(".")[0] == "eval"], (
                    f"{path}: from eval.x import y"
                )


def test_only_slurm_imports_submitit():
    users = {
        package(module_of(path))
        for path in SOURCES
        if any(n.split(".")[0] == "submitit" for n in imported(path))
    }
    assert users <= {"slurm"}


def test_nothing_loads_a_pickle():
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert "import pickle" not in text and "torch.load(" not in text, path
