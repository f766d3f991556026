"""Typed, frozen, strict configuration; importing it never loads torch.

A `Config` holds everything a run's result depends on and is part of the run's identity. How a run is
executed (pack size, devices, logging) is in `Execution` and never changes an identity.
"""

from __future__ import annotations

import difflib
import json
import operator
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import PurePath
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.text import short

LONGEST_NAME = 255  # bytes of a file's name, and letters of what is compared with names
LARGEST = 2**31 - 1  # of whole numbers in settings; nothing here counts further

# Raise it when a default below changes (ids hash only what differs from the defaults), or what is drawn.
# 1: random streams by seed alone, shared by all prompts. 2: by prompt and seed; float32 by default.
SPEC_VERSION = 2


class UserError(Exception):
    """Bad input, told in one line: what, where, the nearest valid choice. The command line exits with 2."""


def closest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that is close to `name`, if any."""
    return next(iter(difflib.get_close_matches(name[:LONGEST_NAME], sorted(choices), 1, 0.5)), None)


def nearest(name: str, choices: Iterable[str]) -> str:
    """The choice closest to `name` as "; did you mean 'x'?", or the list of choices when none is close."""
    known = sorted(choices)
    close = closest(name, known)
    if close is not None:
        return f"; did you mean '{close}'?"
    return f"; choose from {', '.join(known)}" if known else ""


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"the range {pair[0]}..{pair[1]} runs backwards")
    return pair


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class Strict(BaseModel):
    """Base of every configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, int) and abs(value) > LARGEST:
                raise ValueError(f"{name} is at most {LARGEST} in size")
        return self


class GuidanceConfig(Strict):
    """The diffusion prior and how its noise prediction is used."""

    prior: str = Field(default="toy-sd", description="a folder of harness/weights, a path, or a Hub id")
    revision: str | None = Field(default=None, description="revision of a Hub id")
    content: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="sha256 of the prior's files: another content is refused; filled in for a folder",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="of the denoiser; bfloat16 is slower by far on CPUs that compute it in software",
    )
    cfg_scale: float = Field(default=20.0, ge=0, description="s in eps_u + s (eps_c - eps_u)")
    negative: str = Field(default="", description="a negative prompt in the place of no prompt, in eps_u")
    perp_neg: float = Field(
        default=0.0, ge=0, description="strength of Perp-Neg's negative views; 1: as published, 0: off"
    )
    rescale: float = Field(
        default=0.0, ge=0, le=1, description="phi: share of the CFG rescale to eps_c's deviation; 0: off"
    )
    perturb: float = Field(
        default=0.0,
        ge=0,
        description="noise on the denoiser's last weights, in units of their spread: a control; 0: none",
    )
    view_prompt: str = Field(
        default="{prompt}, {view} view", description="how the view's name joins the prompt"
    )
    weighting: Literal["one", "sds", "fantasia"] = Field(
        default="one", description="w(t): one = 1, sds = 1 - abar, fantasia = sqrt(abar) (1 - abar)"
    )
    t_range: Range = Field(default=(0.02, 0.98), description="timesteps used, as fractions of T")
    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="torch.compile of the denoiser; auto: on a GPU, for runs of 2000 steps and more",
    )
    microbatch: int = Field(
        default=8,
        ge=1,
        description="samples per denoiser call on a CPU; fixed shape, so packs do not change bits",
    )

    def compiled(self, steps: int, device: str) -> bool:
        """Whether the denoiser of runs of `steps` steps is compiled on a device: it costs a minute once, and
        then saves a third of a GPU's step (docs/performance.md). It changes last bits."""
        return self.compile == "on" or (
            self.compile == "auto" and device.startswith("cuda") and steps >= 2000
        )

    if TYPE_CHECKING:  # pydantic gives a frozen model one

        def __hash__(self) -> int: ...

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "{prompt}" not in self.view_prompt:
            raise ValueError("view_prompt must contain {prompt}")
        if not 0 <= self.t_range[0] < self.t_range[1] <= 1:
            raise ValueError("t_range must lie in 0..1 and not be empty")
        return self


class SceneConfig(Strict):
    """The generator g(θ): what kind of scene it is, what kinds have in common, and the hash grid's settings.

    A kind says which of these it reads (`harness scenes`). Settings of its own are in `own`.
    """

    kind: str = Field(
        default="field",
        pattern=r"^[A-Za-z]\w*$",
        max_length=LONGEST_NAME,
        description="what θ is; `harness scenes` lists the kinds",
    )
    own: dict[str, Any] = Field(
        default={}, exclude_if=operator.not_, description="the kind's own settings: set as scene.KIND.key"
    )
    own_set: tuple[str, ...] = Field(
        default=(),
        exclude_if=operator.not_,
        description="those of them that differ from the kind's defaults, which alone enter the identity",
    )
    levels: int = Field(default=8, ge=1, le=32, description="levels of the hash grid")
    features: int = Field(default=2, ge=1, le=8, description="features per level")
    log2_hashmap: int = Field(default=13, ge=4, le=24, description="log2 of the entries per level")
    base_resolution: int = Field(default=4, ge=1, description="cells along an axis of its coarsest level")
    growth: float = Field(default=1.45, ge=1, description="resolution ratio of neighbouring levels")
    hidden: int = Field(default=32, ge=1, description="width of the hidden layer")
    density_bias: float = Field(default=5.0, description="λ of DreamFusion's initial blob λ(1 - |x| / σ)")
    density_radius: float = Field(default=0.5, gt=0, description="σ of the blob, in world units")
    bound: float = Field(default=1.0, gt=0, description="the field lives in the cube of this half side")
    samples: int = Field(default=32, ge=2, description="samples along a ray")
    resolution: int = Field(default=16, ge=1, description="height and width of the rendered latent")
    occupancy: int = Field(
        default=0,
        ge=0,
        le=256,
        description="cells along an axis of the grid of what is empty; 0: none is kept",
    )
    occupancy_every: int = Field(default=16, ge=1, description="steps between two looks at its cells")
    occupancy_density: float = Field(default=0.01, gt=0, description="a cell that holds less counts as empty")
    background: Literal["constant", "learned", "random"] = Field(
        default="constant", description="random: another in each training view, round background_rgb's"
    )
    background_spread: float = Field(
        default=1.0, ge=0, description="most that a channel of a random background differs by, in latents"
    )
    background_rgb: tuple[float, float, float] = Field(
        default=(0.62, 0.68, 0.75), description="the constant colour, RGB in 0..1"
    )
    entropy: float = Field(default=1e-3, ge=0, description="weight of the opacity entropy")
    sparsity: float = Field(default=0.0, ge=0, description="weight of the mean opacity")
    orientation: float = Field(default=0.0, ge=0, description="weight of the orientation loss")

    def __hash__(self) -> int:
        return hash(json.dumps(self.model_dump(mode="json"), sort_keys=True))  # a dict has none


class CameraConfig(Strict):
    """Where training cameras are drawn: degrees and world units, z up, azimuth 0 = front."""

    elevation: Range = Field(default=(-5.0, 75.0), description="degrees above the horizon, uniform")
    azimuth: Range = Field(default=(0.0, 360.0), description="degrees around, 0 is the front")
    distance: Range = Field(default=(2.5, 3.1), description="from the origin, world units")
    fov: Range = Field(default=(38.0, 42.0), description="vertical field of view, degrees")
    front_sector: float = Field(
        default=90.0, gt=0, le=180, description="width of the front and of the back sector"
    )
    overhead: float = Field(
        default=30.0, ge=0, le=90, description="degrees from the pole that count as overhead"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not -90 <= self.elevation[0] <= self.elevation[1] <= 90:
            raise ValueError("elevation must lie in -90..90")
        if self.distance[0] <= 0:
            raise ValueError("distance must be above 0")
        if not 0 < self.fov[0] <= self.fov[1] < 180:
            raise ValueError("fov must lie between 0 and 180")
        return self


class OptimConfig(Strict):
    """Adam's settings."""

    lr: float = Field(default=1e-2, gt=0, le=10, description="Adam's learning rate")
    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.99), description="Adam's decay of both moments")
    eps: float = Field(default=1e-15, gt=0, description="Adam's epsilon")
    clip_norm: float | None = Field(
        default=None, gt=0, description="largest norm of the method's gradient at the latent; none: any"
    )
    clip_pixel: float | None = Field(
        default=None, gt=0, description="largest value of a pixel in it (PGC); none: any"
    )


class ViewsConfig(Strict):
    """The fixed evaluation cameras: `azimuths` on a ring, then a held-out view from azimuth 0, if any."""

    azimuths: int = Field(default=8, ge=1, le=3600, description="views on the ring, evenly around")
    elevation: float = Field(default=30.0, ge=-90, le=90, description="degrees of the ring above the horizon")
    heldout_elevation: float | None = Field(
        default=45.0, ge=-90, le=90, description="none: there is no held-out view"
    )
    distance: float = Field(default=2.8, gt=0, description="of the evaluation cameras, world units")
    fov: float = Field(default=40.0, gt=0, lt=180, description="their field of view, degrees")
    count: int = Field(
        default=10, ge=1, le=10_000, description="evaluation points, evenly spaced, the last at the last step"
    )

    @property
    def tiles(self) -> int:
        """V: how many views there are."""
        return self.azimuths + (self.heldout_elevation is not None)

    def steps(self, total: int) -> list[int]:
        """The steps (1..total) after which views are stored, for a run of `total` steps."""
        return sorted({max(1, round(total * k / self.count)) for k in range(1, self.count + 1)})


class Config(Strict):
    """Everything a run's result depends on beside its method, prompt and seed."""

    preset: str = Field(
        default="toy", pattern=r"^[\w+-][\w.+-]{0,79}$", description="a label: whose settings"
    )
    guidance: GuidanceConfig = GuidanceConfig()
    scene: SceneConfig = SceneConfig()
    camera: CameraConfig = CameraConfig()
    optim: OptimConfig = OptimConfig()
    views: ViewsConfig = ViewsConfig()
    steps: int = Field(
        default=400,
        ge=1,
        le=10**9,
        description="N: the run's own number of steps, which schedules are tied to",
    )

    if TYPE_CHECKING:  # pydantic gives a frozen model one

        def __hash__(self) -> int: ...


ENCODERS = ("auto", "numba", "torch", "triton", "tinycudann")


class Execution(Strict):
    """How runs are advanced; nothing here changes a result or an identity.

    `pack`: most runs advanced in lockstep, None = chosen for the device; `threads`: CPU threads of a worker,
    None = torch's own choice; `checkpoint_every`, `log_every`: steps; `keep_params`: keep the parameters of
    every evaluated step, not only of the last; `deterministic`: the same bits again on a GPU, at a price.
    """

    pack: int | None = Field(default=None, ge=1)
    jobs: int | None = Field(default=None, ge=1)
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    checkpoint_every: int = Field(default=100, ge=1)
    log_every: int = Field(default=10, ge=1)
    wandb: Literal["online", "offline", "disabled"] = "offline"
    study: str = "dreamtime"
    sweep: str = "sweep"
    encoder: str = "auto"
    keep_params: bool = False
    deterministic: bool = False
    methods_dirs: tuple[str, ...] = ()
    scenes_dirs: tuple[str, ...] = ()


_NOT_TO_SET = ("preset", "scene.own", "scene.own_set")


def override_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key that `--set` takes for `model`, in the order of its fields."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += override_keys(kind, f"{prefix}{name}.")
        elif prefix + name not in _NOT_TO_SET:
            keys.append(prefix + name)
    return keys


def annotation_of(key: str) -> Any:
    """The annotation of a dotted key's field; None where `--set` takes no such key."""
    model: type[BaseModel] = Config
    if key not in override_keys(model):
        return None
    *sections, name = key.split(".")
    for section in sections:
        inner = model.model_fields[section].annotation
        assert isinstance(inner, type) and issubclass(inner, BaseModel)
        model = inner
    return model.model_fields[name].annotation


def dotted(config: Config) -> dict[str, Any]:
    """Every setting under the dotted key that `--set` takes it by, as JSON has it."""
    data = config.model_dump(mode="json")
    scene = data["scene"]
    own = {f"scene.{scene['kind']}.{key}": value for key, value in scene.pop("own", {}).items()}
    scene.pop("own_set", None)
    return flattened(data) | own


def flattened(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested sections under their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        found |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def _kinds(annotation: Any) -> list[Any]:
    """The types that an annotation allows: unions, aliases and `Annotated` taken apart."""
    annotation = getattr(annotation, "__value__", getattr(annotation, "__supertype__", annotation))
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [annotation]


def _is_text(kind: Any) -> bool:
    """Whether a value of this type is written as plain text: a string, a path, a word to choose."""
    if get_origin(kind) is Literal:
        return any(isinstance(word, str) for word in get_args(kind))
    return isinstance(kind, type) and issubclass(kind, (str, PurePath, Enum, bytes))


def parse_value(text: str, annotation: Any) -> Any:
    """A command line's value for a field of that annotation.

    `none` where it takes None; text where it takes text, whatever it looks like (a revision 39593e5 is no
    number), less the quotes of a JSON string; `a,b` for a sequence, part by part; JSON for the rest. What
    JSON gives up on (thousands of brackets or digits) is text, too.
    """
    kinds = _kinds(annotation)
    if text in ("None", "none", "null") and type(None) in kinds:
        return None
    if text in ("True", "False") and bool in kinds:
        return text == "True"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if any(map(_is_text, kinds)):
        fits = isinstance(value, str) or any(type(value) is (get_origin(kind) or kind) for kind in kinds)
        return value if fits else text
    if isinstance(value, (list, dict)):
        return value
    for kind in kinds:
        if (get_origin(kind) or kind) in _SEQUENCES:
            parts = [part.strip() for part in text.strip("()[] ").split(",")]
            inner = [part for part in get_args(kind) if part is not Ellipsis] or [str]
            inner += inner[-1:] * (len(parts) - len(inner))
            return [parse_value(part, each) for part, each in zip(parts, inner, strict=False)]
    return value


_SEQUENCES = (tuple, list, set, frozenset)
_PARTS = re.compile(r"""(?:"(?:[^"\\]|\\.)*"|\[[^\]]*\]|\([^)]*\)|[^,\[("])+""")


def alternatives(text: str, annotation: Any) -> list[str]:
    """The values that a command line's text spans for a field of that annotation: `7.5,20` is two numbers.

    A comma inside a value is the value's: of a sequence, whose several values stand in brackets each
    (`[0.02,0.5],[0.02,0.98]`), and of a text, whose several values stand in quotation marks each.
    """
    if annotation is None:
        return [text]
    kinds = _kinds(annotation)
    parts = [part.strip() for part in _PARTS.findall(text)]
    if any((get_origin(kind) or kind) in _SEQUENCES for kind in kinds):
        fits = all(part[:1] in ("[", "(") for part in parts)
    elif any(isinstance(kind, type) and issubclass(kind, (str, PurePath, bytes)) for kind in kinds):
        fits = all(part[:1] == '"' == part[-1:] for part in parts)
    else:
        parts, fits = [part.strip() for part in text.split(",")], not text.startswith(("[", "{"))
    return parts if fits and len(parts) > 1 else [text]


def split_override(item: str) -> tuple[str, str]:
    """`key=value` as (key, value); anything else is a UserError."""
    key, equals, value = item.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set takes key=value, not '{short(item)}'")
    return key.strip(), value.strip()


def first_line(error: BaseException) -> str:
    """An error as one line."""
    return short((str(error).strip().splitlines() or [type(error).__name__])[0])


def named_line(error: BaseException) -> str:
    """An error as one line that names its type."""
    name = type(error).__name__
    return f"{name}: {first_line(error)}" if str(error).strip() else name


@contextmanager
def fitting(where: object) -> Iterator[None]:
    """What pydantic refuses within, as a UserError that says where."""
    try:
        yield
    except ValidationError as error:
        raise UserError(f"{where}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """A pydantic error as one line: where and what."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    got = "" if isinstance(problem["input"], (dict, BaseModel)) else f" (got {_shown(problem['input'])})"
    return f"{where}: {message}{got}" if where else f"{message}{got}"


def _shown(value: Any) -> str:
    """A value as people would write it, cut where it is long; Python refuses to write numbers of thousands of
    digits."""
    try:
        return short(repr(value), 200)
    except (ValueError, RecursionError):
        return "a value too long to be shown"


def read_toml(text: str, source: object) -> dict[str, Any]:
    """The keys of a TOML text; UserError, naming its source, where it is none."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "brackets too deep" if isinstance(error, RecursionError) else first_line(error)
        raise UserError(f"{source}: {reason}") from None


def overrides(settings: Mapping[str, Any]) -> list[str]:
    """Settings by their dotted keys, as `--set` takes them."""
    return [
        f"{key}={value if isinstance(value, str) else json.dumps(value, default=str)}"
        for key, value in settings.items()
    ]


def apply_overrides(config: Config, items: Sequence[str]) -> Config:
    """`config` with each `dotted.key=value` applied.

    Raises UserError for an unknown key, naming the nearest, and for a value that does not fit.
    """
    data = config.model_dump(mode="json")
    keys = override_keys(Config)
    for item in items:
        key, text = split_override(item)
        if key not in keys:
            leaf = [k for k in keys if k.split(".")[-1] == key]
            raise UserError(f"unknown setting '{key}'{nearest(key, leaf or keys)}")
        *sections, name = key.split(".")
        target = data
        for section in sections:
            target = target[section]
        target[name] = parse_value(text, annotation_of(key))
        with fitting(f"--set {short(item, 200)}"):
            for section in sections:
                kind = Config.model_fields[section].annotation
                assert isinstance(kind, type) and issubclass(kind, BaseModel)
                kind.model_validate(target)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise UserError(first_problem(error)) from None
