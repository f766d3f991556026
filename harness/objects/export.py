"""A run's object as a mesh file, and mesh.json beside it: how it was made and what is to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trimesh

from harness.config import UserError
from harness.objects.colours import VertexColours, vertex_colours
from harness.objects.final import Final, load_prior
from harness.objects.formats import AXES, COLOURS, as_bytes
from harness.objects.mesh import (
    Grid,
    default_resolution,
    largest_components,
    level_surface,
    solidity_grid,
    surface_level,
)
from harness.records.files import make_folder, write_bytes, write_json

VERSION = 1


@dataclass(frozen=True)
class Surface:
    """A finished object's surface, the grid it was found on, its vertices' colours, its number of parts."""

    mesh: trimesh.Trimesh
    grid: Grid
    colours: VertexColours
    components: int


def surface(
    final: Final, level: float, resolution: int | None = None, components: int | None = None
) -> Surface:
    """The surface at a level, of `resolution` cells along an axis and of its `components` largest parts.

    Raises UserError for an empty one.
    """
    grid = solidity_grid(final, level, resolution or default_resolution(final))
    mesh, found = largest_components(level_surface(final, grid, level), components)
    colours = vertex_colours(final, load_prior(final), mesh.vertices, mesh.vertex_normals)
    return Surface(mesh, grid, colours, found)


def export_mesh(
    final: Final,
    kind: str,
    out: Path | None = None,
    threshold: float | None = None,
    resolution: int | None = None,
    components: int | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Write the mesh as `kind` (glb, obj or ply) to `out`, `<run>/mesh/object.<kind>` by default; its path
    and what mesh.json says of it.

    threshold: density of the surface, by default that of `silhouette_threshold`; resolution: cells along an
    axis; components: how many of the largest parts are kept, all by default. UserError for an empty surface.
    """
    path = out or final.folder.mesh / f"object.{kind}"
    if not path.parent.is_dir() and out:
        raise UserError(f"--out {out}: there is no folder {path.parent}")
    if threshold is not None and final.scene.quantity == "distance":
        raise UserError(f"--threshold {threshold:g}: a signed distance has its surface at 0")
    if threshold is not None and not threshold > 0:
        raise UserError(f"--threshold {threshold:g}: a density is above 0")
    source, outlines = "asked for", None
    if threshold is None:
        threshold, outlines = surface_level(final)
        source = "the signed distance" if outlines is None else "the outlines of the evaluation views"
    resolution = resolution or default_resolution(final)
    made = surface(final, threshold, resolution, components)
    mesh, grid, colours, found = made.mesh, made.grid, made.colours, made.components
    about = final.about | {
        "version": VERSION,
        "file": path.name,
        "threshold": threshold,
        "threshold_from": source,
        "outline_iou": outlines,
        "grid": {
            "cells": 2 * -(-resolution // 2),
            "spacing": grid.spacing,
            "box": list(grid.solidity_XYZ.shape),
            "queried": grid.queried,
        },
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "components": found,
        "components_kept": found if components is None else min(components, found),
        "watertight": bool(mesh.is_watertight),
        "bounds": mesh.bounds.round(6).tolist(),
        "axes": AXES[kind],
        "units": "world units: the scene lives in the ball of radius "
        f"{final.scene.bound:g} round the origin; bounds are in the world's frame",
        "colours": {
            "stored": COLOURS[kind],
            "views": colours.views,
            "seen_share": colours.seen,
            "guess_error": colours.guess_error,
        },
    }
    make_folder(path.parent)
    write_bytes(path, as_bytes(mesh, colours.rgb_N3, kind, about))
    write_json(path.with_name("mesh.json") if out is None else path.with_name(f"{path.name}.json"), about)
    return path, about
