"""A prompt suite × methods × seeds becomes durable run folders, advanced many at a time through one prior.

From Python: `open_runs` looks at runs, `make_pack` and `step` advance some by hand (`harness.library`).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from harness.library import Run, Runs, make_pack, open_runs, pack_views, step

__all__ = ["Run", "Runs", "__version__", "make_pack", "open_runs", "pack_views", "step"]


def __getattr__(name: str) -> Any:
    """What `harness.library` exports, which loads torch and pandas, once it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    if name == "__version__":
        from importlib import metadata

        return metadata.version("dreamtime-harness")
    from harness import home, library

    home.parts_first()  # for what the library imports later
    return getattr(library, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
