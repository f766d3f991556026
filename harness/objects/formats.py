"""A coloured mesh as the bytes of a glTF, OBJ or PLY file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import trimesh
from trimesh.exchange.gltf import export_glb
from trimesh.exchange.obj import export_obj
from trimesh.exchange.ply import export_ply

from harness.text import plain

FORMATS = ("glb", "obj", "ply")
AXES = {
    "glb": "y up, front +z: (x, y, z) = world (y, z, x), as glTF 2.0 asks",
    "obj": "y up, front +z: (x, y, z) = world (y, z, x), as viewers take it",
    "ply": "the world's: z up, front +x",
}
COLOURS = {
    "glb": "COLOR_0, linear, 8 bits; unlit",
    "obj": "vertex lines, sRGB",
    "ply": "vertices, sRGB, 8 bits",
}


def as_bytes(mesh: trimesh.Trimesh, rgb_N3: np.ndarray, kind: str, about: Mapping[str, Any]) -> bytes:
    """The file of `mesh` (world's frame) with vertex colours (sRGB, [0, 1]), in the axes and colours that
    AXES and COLOURS say. `about` names the run, its prompt and its mark: they stand in the file, too."""
    rgb_N3 = linear(rgb_N3) if kind == "glb" else rgb_N3
    turned = trimesh.Trimesh(
        mesh.vertices if kind == "ply" else mesh.vertices[:, [1, 2, 0]],
        mesh.faces,
        vertex_normals=mesh.vertex_normals if kind == "ply" else mesh.vertex_normals[:, [1, 2, 0]],
        vertex_colors=np.round(rgb_N3 * 255).astype(np.uint8),
        process=False,
    )
    told = [plain(f"{about['mark']} {about['prompt']}").strip(), plain(about["run"])]
    if kind == "obj":
        return export_obj(turned, include_normals=True, include_color=True, header="\n# ".join(told)).encode()
    if kind == "ply":
        head, end, body = export_ply(turned, vertex_normal=True).partition(b"1.0\n")
        # ASCII by the format, and readers look for the head's end in comments, too.
        lines = "".join(f"comment {line}\n" for line in told).replace("end_header", "end-header")
        return head + end + lines.encode("ascii", "backslashreplace") + body
    return export_glb(
        trimesh.Scene({"object": turned}),
        include_normals=True,
        tree_postprocessor=lambda tree: _unlit(tree, about),
    )


def _unlit(tree: dict[str, Any], about: Mapping[str, Any]) -> None:
    # glTF's own default is a metal, black where there is nothing to reflect. The colours hold their shading.
    tree["materials"] = [
        {
            "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
            "extensions": {"KHR_materials_unlit": {}},
        }
    ]
    tree["extensionsUsed"] = ["KHR_materials_unlit"]
    tree["asset"]["extras"] = {name: about[name] for name in ("run", "prompt", "mark")}
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive["material"] = 0


def linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] → linear light (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
