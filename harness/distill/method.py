"""What a method is, and how method folders are found. No torch at import.

A method is a folder `NAME/` with a README.md and a `method.py`: exactly one subclass of `Method`, or, for SDS
on another schedule, one function `timestep` or `density` (see `of_function`). `a@b` is a's gradient on b's
timesteps. Listing reads the docstring without importing; a method is imported when it is used.
"""

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, create_model, model_validator

from harness.config import Strict, UserError, nearest
from harness.extensions import Extension, Seam, resolve
from harness.home import PARTS
from harness.records.files import make_folder, write_bytes
from harness.records.identity import COMPOSED, HALVES

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from harness.distill.context import GradientContext
    from harness.guidance.prior import Shapes
    from harness.rng import Key


class MethodParams(Strict):
    """Base of a method's own settings: frozen, and an unknown key is an error."""


LEVELS = 1000  # T of the priors that the numbers of methods' authors are of
Level = Annotated[int, Field(ge=0, lt=LEVELS)]
Levels = Annotated[int, Field(ge=0, le=LEVELS)]  # how many; a bound that is left out


def check_order(settings: Mapping[str, Any], *names: str) -> None:
    """ValueError where one of these settings is above the next one; those that are not there are left out."""
    there = [name for name in names if name in settings]
    for low, high in pairwise(there):
        if settings[low] > settings[high]:
            raise ValueError(f"{low}={settings[low]} is above {high}={settings[high]}")


def in_order(*names: str) -> Any:
    """A validator of a method's `Params`: none of these settings is above the next one."""

    def check(params: Any) -> Any:
        check_order(dict(params), *names)
        return params

    return model_validator(mode="after")(check)


@dataclass(frozen=True)
class NoiseSchedule:
    """What a method knows of the prior: ᾱ, float32 [T] on the CPU, and the inclusive timestep range."""

    alphas_cumprod_T: "Tensor"
    t_min: int
    t_max: int
    _copies: dict[Any, "Tensor"] = field(default_factory=dict, repr=False, compare=False)

    def alphas_on(self, device: "torch.device") -> "Tensor":
        """ᾱ on a device, copied there once."""
        if device not in self._copies:
            self._copies[device] = self.alphas_cumprod_T.to(device, copy=True)
        return self._copies[device]


def __getattr__(name: str) -> Any:
    """`GradientContext`, what `Method.gradient` is given, is imported when asked for: it loads torch."""
    if name != "GradientContext":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from harness.distill.context import GradientContext

    return GradientContext


class Method:
    """A distillation method: it owns the timestep, the weight and the gradient at the rendered latent.

    Override one function or more. Whatever is computed for a run may depend on that run alone: no mixing over
    R. Arguments are copies. What is returned is checked at every call, and runs of a method that returns a
    wrong kind, shape or dtype, or a timestep outside the range, fail with the reason.
    """

    Params: ClassVar[type[MethodParams]] = MethodParams
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    # Denoiser evaluations per run and step, which the contract test counts: a number, or (least, most) where
    # it depends on t or on the settings. The usual two: ε without the prompt and with it.
    nfe: ClassVar[float | tuple[float, float]] = 2
    # What its authors use beside the method's own settings, by keys of `--set`; applied only if asked.
    recommended: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def nfe_range(cls) -> tuple[float, float]:
        """The least and the most evaluations of a step."""
        return cls.nfe if isinstance(cls.nfe, tuple) else (cls.nfe, cls.nfe)

    def __init__(self, params: MethodParams, noise: NoiseSchedule, weighting: str = "one"):
        self.params: Any = params
        self.noise = noise
        self.weighting = weighting

    def timesteps(self, step_R: "Tensor", total_R: "Tensor", draws_R: "Tensor") -> "Tensor":
        """t of this step for each run, int64 [R] on the CPU, t_min ≤ t ≤ t_max; here t ~ U{t_min, …, t_max}.

        step_R counts from 1 to total_R (a pack may mix steps); draws_R in [0, 1) is each run's own draw of
        this step.
        """
        choices = self.noise.t_max - self.noise.t_min + 1
        return self.noise.t_min + (draws_R.double() * choices).long().clamp(max=choices - 1)

    def two_stages(
        self, step_R: "Tensor", total_R: "Tensor", draws_R: "Tensor", late: float, late_t_max: float
    ) -> "Tensor":
        """t ~ U{t_min, …, t_max}, and from the share `late` of the run on t ≤ `late_t_max`·T; see
        `timesteps`."""
        low, high = self.noise.t_min, self.noise.t_max
        late_high = min(max(int(late_t_max * len(self.noise.alphas_cumprod_T)), low), high)
        is_late_R = step_R > late * total_R
        choices_R = step_R.new_full(step_R.shape, high - low + 1).masked_fill(is_late_R, late_high - low + 1)
        return low + (draws_R.double() * choices_R).long()

    def weight(self, t_R: "Tensor") -> "Tensor":
        """w(t), float32 [R] on t's device; by default what config.guidance.weighting names.

        "one": 1 · "sds": 1−ᾱ_t (DreamFusion) · "fantasia": √ᾱ_t·(1−ᾱ_t) (Latent-NeRF, Fantasia3D).
        """
        alpha_R = self.noise.alphas_on(t_R.device)[t_R]
        if self.weighting == "one":
            return alpha_R.new_ones(alpha_R.shape)
        if self.weighting == "sds":
            return 1.0 - alpha_R
        if self.weighting == "fantasia":
            return alpha_R.sqrt() * (1.0 - alpha_R)
        raise UserError(f"guidance.weighting: unknown '{self.weighting}'; choose from one, sds, fantasia")

    def gradient(self, ctx: "GradientContext") -> "Tensor":
        """Gradient at x, float32 [R,C,H,W] on x's device; here SDS, w(t)·(ε̂ − ε) (DreamFusion, eq. 3)."""
        return self.weight(ctx.t_R)[:, None, None, None] * (ctx.eps_RCHW - ctx.noise_RCHW)

    # A method that learns keeps what it learns in tensors with a leading R; it travels with the run's
    # checkpoint.

    def initial_state(self, keys: "Sequence[Key]", shapes: "Shapes") -> "dict[str, Tensor]":
        """State of fresh runs, each tensor [R, …]; depends on each run's own key, and on the prior's shapes.

        `harness.distill.learning` and `harness.guidance.lora` make that of tensors that are learned.
        """
        return {}

    def state(self) -> "dict[str, Tensor]":
        """State now, with the keys, shapes and dtypes of `initial_state`."""
        return {}

    def load_state(self, tensors: "dict[str, Tensor]") -> None:
        """Take over a state; R may differ from before (a pack was formed anew, or a run left it)."""

    @classmethod
    def resolve(cls, params: Mapping[str, Any], name: str = "") -> MethodParams:
        """The full settings behind `params`; "preset" in it names the base. Idempotent on a full dict.

        Raises UserError for an unknown preset, key or value.
        """
        given = dict(params)
        preset = given.pop("preset", None)
        if preset is not None and not (isinstance(preset, str) and preset in cls.presets):
            raise UserError(f"method {name}: no preset '{preset}'{nearest(str(preset), cls.presets)}")
        base = dict(cls.presets[preset]) if preset is not None else {}
        return resolve(cls.Params, {**base, **given}, f"method {name}")


BUILT_IN = PARTS / "methods"
_SEAM = Seam("method", BUILT_IN)


def discover(dirs: Sequence[Path] = ()) -> dict[str, Extension]:
    """All method folders of the built-in directory and of `dirs`: see `Seam.discover`."""
    return _SEAM.discover(dirs)


def presets_of(found: Extension) -> list[str]:
    """The names of a method's presets, from its text: nothing is imported."""
    try:
        tree = ast.parse(found.source.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return []
    keys: list[Any] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(getattr(each, "id", "") == "presets" for each in targets):
                keys += [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
    return [key for key in keys if isinstance(key, str)]


def load_method(name: str, dirs: Sequence[Path] = ()) -> type[Method]:
    """Import a method's folder and return its class, see `Seam.load`; of `a@b` what `compose` makes."""
    if COMPOSED not in name:
        return _SEAM.load(name, Method, dirs, of_function)
    halves = name.split(COMPOSED)
    if len(halves) != 2 or not all(halves):
        raise UserError(
            f"method '{name}': name one distillation before the {COMPOSED} and one schedule after it, "
            f"such as uniform_sds{COMPOSED}tp_sds"
        )
    return compose(*(load_method(half, dirs) for half in halves))


ALIASES = {"sds": "uniform_sds"}


def in_full(name: str, dirs: Sequence[Path] = ()) -> str:
    """A method's name, or a composed one's, with what its halves are called in short written out; presets and
    settings after a colon stay."""
    short = [half for half in name.split(COMPOSED) if half.partition(":")[0] in ALIASES]
    known = discover(dirs) if short else {}
    halves = []
    for half in name.split(COMPOSED):
        first, colon, rest = half.partition(":")
        halves.append((first if first in known else ALIASES.get(first, first)) + colon + rest)
    return COMPOSED.join(halves)


def code_of(name: str, dirs: Sequence[Path | str] = ()) -> dict[str, str]:
    """Which code a method is, or both halves of a composed one, by their names: see `Extension.code`."""
    known = discover([Path(each) for each in dirs])
    return {half: known[half].code() for half in name.split(COMPOSED) if half in known}


def of_function(module: ModuleType) -> type[Method] | None:
    """SDS on the schedule that a module defines as one function, with its `Params` and `presets`, if any.

    `timestep(progress, draw, noise, params)` is t of one run at i/N, from its own draw in [0, 1): a number,
    which is rounded and kept inside the range. `density(t_T, noise, params)` is W(t) at t = 0…T−1, [T]; steps
    are spent in proportion (`harness.distill.schedules.Schedule`, whose settings are order and floor;
    floor and ceiling are timesteps). Raises UserError where a module defines both.
    """
    timestep, density = (getattr(module, rule, None) for rule in ("timestep", "density"))
    if timestep is not None and density is not None:
        raise UserError(f"{module.__file__} defines timestep and density: a schedule is one of them")
    if timestep is None and density is None:
        return None

    class SDS(Method):
        Params = getattr(module, "Params", MethodParams)
        presets = getattr(module, "presets", {})
        recommended = getattr(module, "recommended", {})

        def __init__(self, params: Any, noise: NoiseSchedule, weighting: str = "one"):
            super().__init__(params, noise, weighting)
            if density is not None:
                import numpy as np  # listing needs neither

                from harness.distill.schedules import Schedule, check_timesteps

                many = len(noise.alphas_cumprod_T)
                ends = {key: getattr(params, key, None) for key in ("floor", "ceiling")}
                ends = {key: t for key, t in ends.items() if isinstance(t, int)}
                check_timesteps(many - 1, **ends)
                check_order(ends, "floor", "ceiling")
                weights_T = density(np.arange(many, dtype=np.float64), noise, params)
                given: Any = {key: getattr(params, key) for key in ("order", "floor") if hasattr(params, key)}
                self.schedule = Schedule(weights_T, noise.t_min, noise.t_max, **given)

        def timesteps(self, step_R: "Tensor", total_R: "Tensor", draws_R: "Tensor") -> "Tensor":
            if timestep is None:
                return step_R.new_tensor(self.schedule.timesteps(step_R, total_R, draws_R))
            # Number by number: no bit depends on how many runs there are.
            given = zip((step_R / total_R.double()).tolist(), draws_R.tolist(), strict=True)
            t_R = [timestep(progress, draw, self.noise, self.params) for progress, draw in given]
            if not all(map(math.isfinite, t_R)):
                raise UserError(f"timestep returned {t_R}")
            low, high = self.noise.t_min, self.noise.t_max
            return step_R.new_tensor([min(max(math.floor(t + 0.5), low), high) for t in t_R])

    SDS.__doc__ = module.__doc__
    return SDS


def compose(distillation: type[Method], schedule: type[Method]) -> type[Method]:
    """The first one's gradient, weight, state and evaluations, on the second one's timesteps.

    Its settings are {"distillation": …, "schedule": …}, each half's as that half has them.
    """
    parents = dict(zip(HALVES, (distillation, schedule), strict=True))
    fields: dict[str, Any] = {half: (parent.Params, parent.Params()) for half, parent in parents.items()}

    class Composed(distillation):
        Params = create_model("Params", __base__=MethodParams, **fields)
        presets: ClassVar = {}

        def __init__(self, params: Any, noise: NoiseSchedule, weighting: str = "one"):
            super().__init__(params.distillation, noise, weighting)
            self._schedule = schedule(params.schedule, noise, weighting)

        def timesteps(self, step_R: "Tensor", total_R: "Tensor", draws_R: "Tensor") -> "Tensor":
            return self._schedule.timesteps(step_R, total_R, draws_R)

        @classmethod
        def resolve(cls, params: Mapping[str, Any], name: str = "") -> MethodParams:
            for key in params:
                if key not in parents:
                    raise UserError(f"method {name}: no setting '{key}'{nearest(key, parents)}")
            names = (*name.split(COMPOSED), "", "")
            return cls.Params(
                **{
                    half: parent.resolve(params.get(half, {}), own)
                    for (half, parent), own in zip(parents.items(), names, strict=False)
                }
            )

    return Composed


_SCAFFOLD_METHOD = '''"""{title}: say in one line what the method does.

The functions below are the defaults, written out so that they can be changed; delete what you do not change.
"""

from harness.distill.method import GradientContext, Method, MethodParams


class Params(MethodParams):
    scale: float = 1.0  # an example of a setting: it becomes part of a run's identity


class {class_name}(Method):
    Params = Params

    def timesteps(self, step_R, total_R, draws_R):
        return super().timesteps(step_R, total_R, draws_R)

    def gradient(self, ctx: GradientContext):
        w_R = self.params.scale * self.weight(ctx.t_R)
        return w_R[:, None, None, None] * (ctx.eps_RCHW - ctx.noise_RCHW)
'''

_SCAFFOLD_SCHEDULE = '''"""{title}: SDS with t falling along a square root, t_max − (t_max − t_min)·√(i/N)."""

from harness.distill.method import MethodParams


class Params(MethodParams):
    power: float = 0.5  # an example of a setting: it becomes part of a run's identity


def timestep(progress, draw, noise, params):
    """t of one run at progress = i/N in (0, 1]; draw in [0, 1) is its own of this step."""
    return noise.t_max - (noise.t_max - noise.t_min) * progress**params.power
'''

_SCAFFOLD_README = """# {name}

What it does, in a sentence or two.

- **Timestep**: {timestep}
- **Gradient at x**: {gradient}
- **Source**: …
- **Defaults**: {defaults}
"""


def new_method(name: str, directory: Path, schedule: bool = False) -> Path:
    """Write the folder of a new method, or of a new schedule for SDS, that passes the contract test as it
    stands; returns its path.

    Raises UserError for a name that is no lower-case Python identifier, or that is taken.
    """
    if not name.isidentifier() or name != name.lower() or name.startswith("_"):
        raise UserError(
            f'"{name}" is no name for a method: use lower-case letters, digits and _, e.g. "my_method"'
        )
    directory = Path(directory).expanduser()
    path = directory / name
    if path.exists():
        raise UserError(f"{path} exists already; choose another name")
    taken = discover()
    if name in taken:
        raise UserError(f'"{name}" is the method in {taken[name].path}; choose another name')
    words = name.split("_")
    make_folder(path)
    timestep, gradient, setting = "t ~ U{t_min, …, t_max}", "scale · w(t)·(ε̂ − ε)", "`scale` 1.0"
    if schedule:
        timestep, gradient, setting = "t_max − (t_max − t_min)·(i/N)^power", "w(t)·(ε̂ − ε)", "`power` 0.5"
    code = (_SCAFFOLD_SCHEDULE if schedule else _SCAFFOLD_METHOD).format(
        title=" ".join(words).capitalize(), class_name="".join(w.capitalize() for w in words)
    )
    write_bytes(path / "method.py", code.encode())
    write_bytes(
        path / "README.md",
        _SCAFFOLD_README.format(name=name, timestep=timestep, gradient=gradient, defaults=setting).encode(),
    )
    return path
