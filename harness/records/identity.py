"""What was asked of a run, and the name that follows from it."""

from __future__ import annotations

import hashlib
import json
import operator
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from harness.config import SPEC_VERSION, Config

T = TypeVar("T")
V = TypeVar("V")

LARGEST_SEED = 2**63 - 1  # what every file format that holds one can say
LONGEST_METHOD = 80  # letters of a method's name in a folder's; with the rest it stays below 255

# Labels, not causes: two runs that differ only here are one run.
NOT_HASHED = ("preset",)


# `csd@tp_sds`: a distillation on the timesteps of a schedule; the params of either lie under its half's name.
COMPOSED = "@"
HALVES = ("distillation", "schedule")
OWN = "own"  # the part of a variant that says: at the settings its authors recommend


class Part(NamedTuple):
    """A method as it was named: on its own, or as a half of a composed one."""

    name: str
    params: dict[str, Any]
    params_set: tuple[str, ...] = ()
    variant: str = ""

    @property
    def label(self) -> str:
        """`tp_sds`, or `tp_sds:iclr`."""
        return f"{self.name}:{self.variant}" if self.variant else self.name


class SuiteRef(BaseModel):
    """Which suite a prompt came from; its text lies in `suites/<sha256[:12]>.json` of the runs' root."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str
    size: int


class RunSpec(BaseModel):
    """What a run is: method × prompt × seed under a config; written to spec.json.

    `params` are the method's full settings; `params_set` names those that differ from the method's defaults,
    which alone enter the identity. `variant` (a preset's name, changed settings) and `suite` are for readers,
    not hashed. So is `own`: what of the method's recommended settings `config` holds in the place of the
    sweep's; `own_kept` names those of them that were set by hand. `axes` names the settings of `config` that
    the sweep spanned: rows tell them. Of a composed method, params are
    {"distillation": …, "schedule": …}, params_set has names such as schedule.m, and the variant joins both
    halves' with an @.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec_version: int = SPEC_VERSION
    method: str
    params: dict[str, Any] = Field(default_factory=dict)
    params_set: tuple[str, ...] = ()
    variant: str = ""
    own: dict[str, Any] = Field(default_factory=dict, exclude_if=operator.not_)
    own_kept: tuple[str, ...] = Field(default=(), exclude_if=operator.not_)
    axes: tuple[str, ...] = Field(default=(), exclude_if=operator.not_)
    prompt: str
    seed: int = Field(ge=0, le=LARGEST_SEED)
    config: Config = Config()
    suite: SuiteRef | None = None

    @property
    def label(self) -> str:
        """The method as tables name it: `tp_sds`, `tp_sds:iclr`, or `csd@tp_sds:iclr`."""
        return COMPOSED.join(part.label for part in self.parts)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The method by itself, or the two halves of a composed one."""
        if self.method.count(COMPOSED) != 1:
            return (Part(self.method, self.params, self.params_set, self.variant),)
        variants = (*self.variant.split(COMPOSED), "", "")
        return tuple(
            Part(
                name,
                self.params.get(half, {}),
                tuple(key.removeprefix(f"{half}.") for key in self.params_set if key.startswith(f"{half}.")),
                variant,
            )
            for name, half, variant in zip(self.method.split(COMPOSED), HALVES, variants, strict=False)
        )

    @property
    def alike(self) -> dict[str, Any]:
        """The settings that runs of one pack share: of a composed method its distillation's, since the
        schedule's move each run's own timesteps and nothing else."""
        return {HALVES[0]: self.params.get(HALVES[0])} if COMPOSED in self.method else self.params

    @property
    def settings(self) -> dict[str, Any]:
        """`params` as `params_set` names them."""
        if COMPOSED not in self.method:
            return self.params
        halves = zip(HALVES, self.parts, strict=False)
        return {f"{half}.{key}": value for half, part in halves for key, value in part.params.items()}


def canonical_json(value: Any) -> str:
    """JSON with one spelling per value: sorted keys, no spaces, no NaN."""
    return _CANONICAL.encode(value)


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def slug(prompt: str, length: int = 40) -> str:
    """A file-name-safe hint of the prompt: [a-z0-9-], at most `length` characters, cut at a word."""
    ascii_text = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", ascii_text)
    text = ""
    for word in words:
        longer = f"{text}-{word}" if text else word[:length]
        if len(longer) > length:
            break
        text = longer
    return text or "prompt"


def hashed(spec: RunSpec) -> dict[str, Any]:
    """The part of a spec that its identity covers: all that can change the result, less defaults.

    A field added later with a default that keeps the old behaviour therefore leaves ids alone; a default that
    is changed needs a new SPEC_VERSION.
    """
    return {
        "spec_version": spec.spec_version,
        "method": spec.method,
        "params": {key: spec.settings[key] for key in spec.params_set},
        "prompt": spec.prompt,
        "seed": spec.seed,
        "config": hashed_config(spec.config),
    }


def without_place(config: Config) -> Config:
    """`config` with a prior that is known by its content named by its folder's name: where it lies is no
    setting, and it is found there only."""
    guidance = config.guidance
    if guidance.content is None:
        return config
    named = guidance.model_copy(update={"prior": Path(guidance.prior).name})
    return config.model_copy(update={"guidance": named})


def by_identity(function: Callable[[T], V]) -> Callable[[T], V]:
    """`function` of frozen objects that many runs share, called once for each object: to hash a configuration
    and to compare it costs more than what is made of it."""
    kept: dict[int, tuple[T, V]] = {}

    def call(given: T) -> V:
        found = kept.get(id(given))
        if found is None or found[0] is not given:
            if len(kept) >= 256:
                kept.clear()
            found = kept[id(given)] = (given, function(given))
        return found[1]

    return call


@by_identity
def hashed_config(config: Config) -> dict[str, Any]:
    """What of a configuration tells one from another: all that differs from the defaults, so that a setting
    that is added changes no hash."""
    config = without_place(config)
    data = config.model_dump(mode="json", exclude_defaults=True, exclude=set(NOT_HASHED))
    if config.scene.own:
        own = data["scene"].pop("own")
        if differing := data["scene"].pop("own_set", ()):
            data["scene"]["own"] = {key: own[key] for key in differing}
    return {key: value for key, value in data.items() if value != {}}


def _in_a_name(method: str) -> str:
    """A method's name as a folder's begins with it: itself, unless a file system or a shell would mind."""
    text = unicodedata.normalize("NFKD", method).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_.+=@-]+", "_", text)[:LONGEST_METHOD].lstrip(".-") or "method"


def run_id(spec: RunSpec) -> str:
    """`<method>-<slug>-s<seed>-<8 hex>`; the prompt itself is never part of a file name."""
    digest = hashlib.sha256(canonical_json(hashed(spec)).encode()).hexdigest()[:8]
    return f"{_in_a_name(spec.method)}-{slug(spec.prompt)}-s{spec.seed}-{digest}"
