"""Objects as composites of signed-distance primitives, in a z-up world whose objects face +x.

A scene becomes one float32 array [K, 26], a row a primitive:
0 shape · 1:4 centre · 4:13 rotation (world to local, row-major) · 13:17 sizes · 17:20 colour ·
20 pattern (0 none, 1 striped, 2 spotted) · 21:24 pattern colour · 24 spare · 25 the object's scale.
"""

import math
import random
from collections.abc import Callable
from itertools import product

import numpy as np

from harness.toyworld.grammar import KINDS, Scene, Thing

WIDTH = 26
ELLIPSOID, BOX, CONE, TORUS = 0, 1, 2, 3
RGB = {
    "red": (0.84, 0.10, 0.10),
    "orange": (0.96, 0.50, 0.05),
    "yellow": (0.96, 0.88, 0.15),
    "green": (0.10, 0.58, 0.18),
    "blue": (0.12, 0.28, 0.86),
    "purple": (0.50, 0.14, 0.66),
    "pink": (0.97, 0.56, 0.72),
    "brown": (0.44, 0.26, 0.12),
    "black": (0.07, 0.07, 0.08),
    "white": (0.96, 0.96, 0.96),
    "glass": (0.30, 0.36, 0.42),
    "lamp": (0.98, 0.95, 0.62),
    "dark": (0.20, 0.13, 0.10),
}
Vector = tuple[float, float, float]
Row = list[float]
UP: Vector = (0.0, 0.0, 1.0)


def _frame(axis: Vector) -> np.ndarray:
    """A rotation [3, 3] whose last row is `axis`: it takes world vectors to a frame with that axis as z."""
    z = np.asarray(axis, dtype=np.float64)
    z = z / np.linalg.norm(z)
    helper = np.array([0.0, 1.0, 0.0]) if abs(z[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    x = np.cross(helper, z)
    x = x / np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def _row(shape: int, centre: Vector, sizes: tuple[float, ...], colour: str, axis: Vector = UP) -> Row:
    sizes = sizes + (0.0,) * (4 - len(sizes))
    rotation = np.eye(3) if axis == UP else _frame(axis)
    return [shape, *centre, *rotation.ravel(), *sizes, *RGB[colour], 0, 0, 0, 0, 0, 1]


def ball(centre: Vector, radii: float | Vector, colour: str, axis: Vector = UP) -> Row:
    """An ellipsoid."""
    return _row(ELLIPSOID, centre, radii if isinstance(radii, tuple) else (radii,) * 3, colour, axis)


def box(centre: Vector, half: Vector, colour: str, rounding: float = 0.03, axis: Vector = UP) -> Row:
    """A box of half-sizes `half` with rounded edges."""
    return _row(BOX, centre, (*half, rounding), colour, axis)


def rod(centre: Vector, radius: float, half: float, colour: str, axis: Vector = UP) -> Row:
    """A capped cylinder of half-length `half`."""
    return _row(CONE, centre, (radius, radius, half), colour, axis)


def cone(centre: Vector, low: float, high: float, half: float, colour: str, axis: Vector = UP) -> Row:
    """A capped cone with radius `low` at its foot and `high` at its head."""
    return _row(CONE, centre, (low, high, half), colour, axis)


def ring(centre: Vector, radius: float, tube: float, colour: str, axis: Vector = UP) -> Row:
    """A torus around `axis`."""
    return _row(TORUS, centre, (radius, tube), colour, axis)


X: Vector = (1.0, 0.0, 0.0)
Y: Vector = (0.0, 1.0, 0.0)


def _wheels(xs: tuple[float, ...], y: float, z: float, radius: float, colour: str) -> list[Row]:
    return [rod((x, s * y, z), radius, 0.09, colour, Y) for x in xs for s in (-1, 1)]


def _legs(x: float, y: float, z: float, radius: float, half: float, colour: str) -> list[Row]:
    return [rod((sx * x, sy * y, z), radius, half, colour) for sx in (-1, 1) for sy in (-1, 1)]


def _lamps(x: float, y: float, z: float) -> list[Row]:
    return [ball((x, s * y, z), (0.05, 0.09, 0.09), "lamp") for s in (-1, 1)]


Parts = dict[str, str]
Builder = Callable[[str, Parts], list[Row]]
BUILDERS: dict[str, Builder] = {
    "car": lambda c, p: [
        box((0, 0, -0.1), (0.9, 0.42, 0.18), c, 0.08),
        box((-0.1, 0, 0.2), (0.46, 0.37, 0.16), "glass", 0.08),
        box((-0.1, 0, 0.38), (0.44, 0.38, 0.06), p["roof"]),
        *_wheels((-0.52, 0.52), 0.4, -0.27, 0.23, p["wheels"]),
        *_lamps(0.88, 0.27, -0.06),
    ],
    "truck": lambda c, p: [
        box((-0.28, 0, 0.2), (0.62, 0.42, 0.42), c),
        box((0.62, 0, 0.02), (0.26, 0.4, 0.26), p["cab"], 0.05),
        box((0.7, 0, 0.14), (0.2, 0.34, 0.1), "glass", 0.03),
        *_wheels((-0.6, 0.55), 0.38, -0.33, 0.21, p["wheels"]),
        *_lamps(0.88, 0.27, -0.12),
    ],
    "bus": lambda c, p: [
        box((0, 0, 0.0), (0.92, 0.38, 0.34), c, 0.06),
        box((0.03, 0, 0.13), (0.82, 0.4, 0.12), "glass", 0.02),
        box((0.86, 0, 0.1), (0.08, 0.33, 0.16), "glass", 0.02),
        box((0, 0, 0.38), (0.9, 0.38, 0.06), p["roof"], 0.04),
        *_wheels((-0.55, 0.55), 0.36, -0.34, 0.19, p["wheels"]),
        *_lamps(0.92, 0.25, -0.2),
    ],
    "train": lambda c, p: [
        rod((0.25, 0, 0.02), 0.3, 0.6, c, X),
        box((-0.55, 0, 0.16), (0.32, 0.38, 0.44), c, 0.04),
        box((-0.5, 0, 0.3), (0.22, 0.4, 0.14), "glass", 0.02),
        box((-0.55, 0, 0.62), (0.38, 0.42, 0.04), "dark", 0.02),
        cone((0.6, 0, 0.46), 0.1, 0.17, 0.18, p["chimney"]),
        ball((0.86, 0, 0.02), (0.05, 0.14, 0.14), "lamp"),
        *_wheels((-0.6, -0.05, 0.5), 0.3, -0.36, 0.2, p["wheels"]),
    ],
    "airplane": lambda c, p: [
        ball((0, 0, 0), (0.95, 0.2, 0.2), c),
        box((0.05, 0, -0.03), (0.2, 0.9, 0.035), p["wings"], 0.02),
        box((-0.8, 0, 0.22), (0.12, 0.04, 0.24), p["tail"], 0.02),
        box((-0.8, 0, 0.06), (0.12, 0.36, 0.03), p["tail"], 0.02),
        ball((0.66, 0, 0.1), (0.18, 0.12, 0.1), "glass"),
    ],
    "boat": lambda c, p: [
        ball((0, 0, -0.42), (0.9, 0.36, 0.3), c),
        box((0, 0, -0.22), (0.66, 0.24, 0.05), "brown", 0.02),
        rod((0.05, 0, 0.3), 0.045, 0.6, "dark"),
        cone((-0.24, 0, 0.28), 0.33, 0.03, 0.46, p["sail"]),
    ],
    "chair": lambda c, p: [
        box((0, 0, -0.08), (0.44, 0.44, 0.08), c),
        box((-0.4, 0, 0.46), (0.08, 0.44, 0.48), p["back"]),
        *_legs(0.35, 0.35, -0.52, 0.08, 0.4, p["legs"]),
    ],
    "bench": lambda c, p: [
        box((0, 0, -0.06), (0.36, 0.95, 0.08), c),
        *_legs(0.24, 0.74, -0.34, 0.09, 0.24, p["legs"]),
    ],
    "couch": lambda c, p: [
        box((0, 0, -0.2), (0.4, 0.9, 0.2), c, 0.06),
        box((-0.36, 0, 0.18), (0.12, 0.9, 0.36), c, 0.08),
        *[box((0.02, s * 0.8, 0.02), (0.4, 0.12, 0.24), c, 0.08) for s in (-1, 1)],
        *[box((0.1, s * 0.33, 0.06), (0.3, 0.3, 0.1), p["cushions"], 0.06) for s in (-1, 1)],
    ],
    "table": lambda c, p: [
        box((0, 0, 0.3), (0.66, 0.66, 0.07), c),
        *_legs(0.52, 0.52, -0.15, 0.09, 0.42, p["legs"]),
    ],
    "bed": lambda c, p: [
        box((0, 0, -0.1), (0.85, 0.5, 0.14), c, 0.06),
        box((-0.86, 0, 0.12), (0.06, 0.52, 0.36), "brown"),
        box((-0.6, 0, 0.1), (0.18, 0.38, 0.09), p["pillow"], 0.07),
        *_legs(0.75, 0.4, -0.34, 0.07, 0.14, "brown"),
    ],
    "tv": lambda c, p: [
        box((0, 0, 0.1), (0.1, 0.86, 0.54), c, 0.04),
        box((0.1, 0, 0.1), (0.03, 0.74, 0.42), p["screen"], 0.01),
        rod((0, 0, -0.52), 0.08, 0.1, c),
        box((0, 0, -0.62), (0.24, 0.4, 0.05), c),
    ],
    "laptop": lambda c, p: [
        box((0.1, 0, -0.3), (0.5, 0.74, 0.06), c),
        box((0.14, 0, -0.23), (0.3, 0.6, 0.02), "dark", 0.01),
        box((-0.5, 0, 0.18), (0.06, 0.74, 0.5), c, 0.02, (-0.35, 0, 1)),
        box((-0.45, 0, 0.2), (0.04, 0.64, 0.4), p["screen"], 0.01, (-0.35, 0, 1)),
    ],
    "cup": lambda c, p: [
        cone((0, 0, 0), 0.46, 0.56, 0.58, c),
        rod((0, 0, 0.57), 0.46, 0.03, "dark"),
        ring((0, 0.62, 0.0), 0.3, 0.085, p["handle"], X),
    ],
    "bottle": lambda c, p: [
        rod((0, 0, -0.35), 0.36, 0.55, c),
        ball((0, 0, 0.2), (0.36, 0.36, 0.26), c),
        rod((0, 0, 0.5), 0.13, 0.25, c),
        rod((0, 0, 0.8), 0.18, 0.13, p["cap"]),
    ],
    "vase": lambda c, p: [
        ball((0, 0, -0.25), (0.56, 0.56, 0.62), c),
        cone((0, 0, 0.45), 0.2, 0.34, 0.3, c),
        ring((0, 0, 0.78), 0.33, 0.1, p["rim"]),
        rod((0, 0, 0.76), 0.26, 0.03, "dark"),
        rod((0, 0, -0.84), 0.3, 0.06, c),
    ],
    "wine glass": lambda c, p: [
        ball((0, 0, 0.28), (0.45, 0.45, 0.45), c),
        cone((0, 0, 0.58), 0.42, 0.36, 0.22, c),
        rod((0, 0, 0.8), 0.29, 0.03, "dark"),
        rod((0, 0, -0.42), 0.08, 0.42, p["stem"]),
        cone((0, 0, -0.86), 0.44, 0.1, 0.07, p["stem"]),
    ],
    "bowl": lambda c, p: [
        cone((0, 0, -0.05), 0.36, 0.86, 0.36, c),
        ring((0, 0, 0.32), 0.84, 0.09, p["rim"]),
        rod((0, 0, 0.32), 0.74, 0.03, "dark"),
    ],
    "plate": lambda c, p: [cone((0, 0, 0), 0.6, 0.9, 0.06, c), ring((0, 0, 0.06), 0.84, 0.1, p["rim"])],
    "apple": lambda c, p: [
        ball((0, 0.2, -0.05), (0.62, 0.52, 0.66), c),
        ball((0, -0.2, -0.05), (0.62, 0.52, 0.66), c),
        rod((0, 0, 0.7), 0.06, 0.16, "dark"),
        ball((0.2, 0.12, 0.74), (0.3, 0.16, 0.09), p["leaf"]),
    ],
    "orange": lambda c, p: [
        ball((0, 0, -0.05), (0.78, 0.78, 0.72), c),
        rod((0, 0, 0.67), 0.12, 0.05, "dark"),
        ball((0.0, -0.25, 0.7), (0.16, 0.3, 0.08), p["leaf"]),
    ],
    "banana": lambda c, p: [
        *[
            ball(
                (0, 0.7 * math.sin(a), 0.45 - 0.7 * math.cos(a)),
                (0.19, 0.26, 0.19),
                c,
                (0, -math.sin(a), math.cos(a)),
            )
            for a in map(math.radians, (-55, -28, 0, 28, 55))
        ],
        *[rod((0, s * 0.72, 0.17), 0.1, 0.1, p["tip"], (0, s * 0.5, 0.87)) for s in (-1, 1)],
    ],
    "carrot": lambda c, p: [
        cone((0, 0, -0.25), 0.06, 0.34, 0.62, c),
        ball((0, 0, 0.34), (0.34, 0.34, 0.14), c),
        *[
            ball(
                (0.16 * math.cos(a), 0.16 * math.sin(a), 0.62),
                (0.1, 0.1, 0.32),
                p["leaves"],
                (math.cos(a) * 0.5, math.sin(a) * 0.5, 1),
            )
            for a in (0.5, 2.6, 4.7)
        ],
    ],
    "donut": lambda c, p: [ring((0, 0, 0), 0.58, 0.32, c), ring((0, 0, 0.1), 0.58, 0.28, p["icing"])],
    "pizza": lambda c, p: [
        rod((0, 0, 0), 0.84, 0.06, c),
        ring((0, 0, 0.02), 0.84, 0.1, p["crust"]),
        *[
            rod((x, y, 0.06), 0.13, 0.04, "red" if c != "red" else "yellow")
            for x, y in ((0.4, 0.1), (-0.1, 0.45), (-0.42, -0.05), (0.08, -0.42), (0.0, 0.0))
        ],
    ],
    "cake": lambda c, p: [
        rod((0, 0, -0.2), 0.72, 0.3, c),
        rod((0, 0, 0.16), 0.76, 0.1, p["icing"]),
        ball((0, 0, 0.38), 0.2, p["cherry"]),
    ],
    "traffic light": lambda c, p: [
        box((0, 0, 0.38), (0.24, 0.3, 0.56), c),
        *[
            ball((0.24, 0, z), (0.08, 0.15, 0.15), lamp)
            for lamp, z in (("red", 0.72), ("yellow", 0.38), ("green", 0.04))
        ],
        rod((0, 0, -0.55), 0.1, 0.4, p["pole"]),
    ],
    "fire hydrant": lambda c, p: [
        rod((0, 0, -0.15), 0.34, 0.6, c),
        rod((0, 0, -0.78), 0.46, 0.08, c),
        ball((0, 0, 0.46), (0.4, 0.4, 0.3), p["cap"]),
        rod((0, 0, 0.8), 0.1, 0.08, p["cap"]),
        *[rod((0, s * 0.42, 0.12), 0.15, 0.12, c, Y) for s in (-1, 1)],
        rod((0.4, 0, 0.05), 0.2, 0.12, p["cap"], X),
    ],
    "stop sign": lambda c, p: [
        rod((0, 0, 0.45), 0.5, 0.05, c, X),
        rod((0.03, 0, 0.45), 0.36, 0.05, "white", X),
        rod((0.05, 0, 0.45), 0.27, 0.05, c, X),
        rod((-0.02, 0, -0.5), 0.07, 0.48, p["pole"]),
    ],
    "traffic cone": lambda c, p: [
        cone((0, 0, 0.05), 0.5, 0.08, 0.8, c),
        cone((0, 0, 0.06), 0.38, 0.27, 0.17, p["band"]),
        box((0, 0, -0.78), (0.58, 0.58, 0.07), p["base"]),
    ],
    "dog": lambda c, p: [
        ball((-0.1, 0, -0.05), (0.56, 0.28, 0.28), c),
        ball((0.52, 0, 0.36), (0.28, 0.26, 0.26), c),
        ball((0.8, 0, 0.28), (0.18, 0.13, 0.12), c),
        ball((0.97, 0, 0.33), 0.07, "black"),
        rod((0.4, 0, 0.14), 0.24, 0.07, p["collar"], (0.5, 0, 1)),
        *[ball((0.48, s * 0.28, 0.38), (0.13, 0.07, 0.28), p["ears"]) for s in (-1, 1)],
        *_legs(0.38, 0.17, -0.48, 0.1, 0.28, c),
        ball((-0.72, 0, 0.2), (0.07, 0.07, 0.28), c, (-0.5, 0, 1)),
    ],
    "cat": lambda c, p: [
        ball((-0.1, 0, -0.3), (0.4, 0.34, 0.5), c),
        ball((0.18, 0, 0.4), (0.32, 0.36, 0.3), c),
        *[cone((0.16, s * 0.23, 0.72), 0.14, 0.02, 0.16, c) for s in (-1, 1)],
        *[ball((0.46, s * 0.14, 0.46), (0.05, 0.06, 0.07), "black") for s in (-1, 1)],
        ball((0.5, 0, 0.34), (0.05, 0.06, 0.05), "pink"),
        rod((0.1, 0, 0.12), 0.27, 0.06, p["collar"]),
        ball((-0.56, 0.0, -0.1), (0.11, 0.11, 0.52), p["tail"], (-0.35, 0, 1)),
        *[rod((0.22, s * 0.15, -0.58), 0.1, 0.2, c) for s in (-1, 1)],
    ],
    "bird": lambda c, p: [
        ball((-0.05, 0, -0.1), (0.56, 0.38, 0.4), c),
        ball((0.36, 0, 0.36), 0.29, c),
        cone((0.74, 0, 0.34), 0.14, 0.02, 0.18, p["beak"], X),
        *[ball((0.52, s * 0.2, 0.46), 0.07, "black") for s in (-1, 1)],
        *[ball((-0.15, s * 0.4, -0.04), (0.44, 0.1, 0.26), p["wings"]) for s in (-1, 1)],
        box((-0.68, 0, 0.02), (0.22, 0.16, 0.04), c, 0.02),
        *[rod((0.05, s * 0.16, -0.58), 0.05, 0.16, "orange") for s in (-1, 1)],
    ],
    "sheep": lambda c, p: [
        ball((-0.1, 0, 0.08), (0.6, 0.46, 0.46), c),
        ball((0.3, 0, 0.32), (0.3, 0.34, 0.3), c),
        ball((0.66, 0, 0.24), (0.26, 0.18, 0.2), p["head"]),
        *[ball((0.54, s * 0.26, 0.3), (0.08, 0.14, 0.06), p["head"]) for s in (-1, 1)],
        *_legs(0.34, 0.22, -0.48, 0.1, 0.26, p["legs"]),
    ],
    "elephant": lambda c, p: [
        ball((-0.2, 0, 0.05), (0.6, 0.44, 0.44), c),
        ball((0.45, 0, 0.25), (0.32, 0.3, 0.34), c),
        *[ball((0.36, s * 0.42, 0.26), (0.08, 0.28, 0.34), p["ears"]) for s in (-1, 1)],
        rod((0.82, 0, -0.1), 0.1, 0.34, c, (-0.25, 0, 1)),
        *[cone((0.75, s * 0.17, 0.0), 0.07, 0.02, 0.16, "white", (1, 0, -0.3)) for s in (-1, 1)],
        *_legs(0.36, 0.24, -0.48, 0.15, 0.28, c),
    ],
    "giraffe": lambda c, p: [
        ball((-0.15, 0, -0.1), (0.46, 0.26, 0.24), c),
        rod((0.3, 0, 0.3), 0.12, 0.46, c, (0.35, 0, 1)),
        ball((0.56, 0, 0.74), (0.26, 0.14, 0.14), c),
        *[rod((0.42, s * 0.09, 0.92), 0.04, 0.1, "dark") for s in (-1, 1)],
        *[
            rod((-0.15 + sx * 0.3, sy * 0.15, -0.58), 0.08, 0.4, p["legs"])
            for sx in (-1, 1)
            for sy in (-1, 1)
        ],
    ],
    "teddy bear": lambda c, p: [
        ball((0, 0, -0.3), (0.38, 0.4, 0.44), c),
        ball((0.04, 0, 0.42), (0.36, 0.38, 0.34), c),
        *[ball((0, s * 0.32, 0.74), (0.1, 0.17, 0.17), p["ears"]) for s in (-1, 1)],
        ball((0.36, 0, 0.34), (0.12, 0.15, 0.12), "lamp"),
        *[ball((0.36, s * 0.15, 0.52), 0.05, "black") for s in (-1, 1)],
        *[ball((0.34, s * 0.14, 0.06), (0.08, 0.16, 0.11), p["bow"]) for s in (-1, 1)],
        *[ball((0.1, s * 0.48, -0.16), (0.15, 0.15, 0.28), c, (0, s * -0.6, 1)) for s in (-1, 1)],
        *[ball((0.26, s * 0.26, -0.72), (0.3, 0.17, 0.17), c) for s in (-1, 1)],
    ],
    "sports ball": lambda c, p: [
        ball((0, 0, 0), 0.85, c),
        rod((0, 0, 0), 0.86, 0.14, p["band"]),
        ring((0, 0, 0), 0.79, 0.09, p["band"], Y),
    ],
    "frisbee": lambda c, p: [
        cone((0, 0, 0), 0.88, 0.7, 0.1, c),
        ring((0, 0, -0.06), 0.84, 0.1, p["rim"]),
        rod((0, 0, 0.1), 0.3, 0.04, p["rim"]),
    ],
    "snowman": lambda c, p: [
        ball((0, 0, -0.55), 0.42, c),
        ball((0, 0, 0.1), 0.32, c),
        ball((0, 0, 0.5), 0.24, c),
        rod((0, 0, 0.32), 0.25, 0.07, p["scarf"]),
        rod((0, 0, 0.68), 0.3, 0.03, p["hat"]),
        rod((0, 0, 0.84), 0.2, 0.14, p["hat"]),
        cone((0.32, 0, 0.5), 0.07, 0.01, 0.14, "orange", X),
        *[ball((0.22, s * 0.1, 0.58), 0.04, "black") for s in (-1, 1)],
    ],
    "clock": lambda c, p: [
        rod((0, 0, 0), 0.88, 0.12, c, X),
        rod((0.06, 0, 0), 0.68, 0.1, "white" if c != "white" else "lamp", X),
        box((0.17, 0, 0.24), (0.03, 0.06, 0.3), p["hands"], 0.01),
        box((0.17, -0.18, 0), (0.03, 0.22, 0.06), p["hands"], 0.01),
    ],
    "suitcase": lambda c, p: [
        box((0, 0, -0.15), (0.28, 0.78, 0.56), c, 0.06),
        ring((0, 0, 0.46), 0.24, 0.075, p["handle"], X),
        *[box((0, s * 0.42, -0.15), (0.3, 0.06, 0.58), "dark", 0.02) for s in (-1, 1)],
    ],
    "umbrella": lambda c, p: [
        cone((0, 0, 0.42), 0.86, 0.06, 0.3, c),
        rod((0, 0, -0.25), 0.055, 0.62, "dark"),
        rod((0, 0, -0.62), 0.11, 0.24, p["handle"]),
    ],
    "potted plant": lambda c, p: [
        cone((0, 0, -0.58), 0.3, 0.46, 0.32, p["pot"]),
        ring((0, 0, -0.26), 0.42, 0.08, p["pot"]),
        ball((0, 0, 0.32), (0.4, 0.4, 0.44), c),
        *[ball((0.32 * math.cos(a), 0.32 * math.sin(a), 0.14), 0.28, c) for a in (0.3, 2.4, 4.5)],
    ],
}
# How large a thing is on each support, as a share of its size alone.
CARRY_SCALE = {"plate": 0.62, "table": 0.6, "bench": 0.62}


def _surface(rows: np.ndarray) -> np.ndarray:
    """Points [N, 3] on the primitives' outlines, enough to bound them."""
    points = []
    for row in rows:
        rotation, sizes = row[4:13].reshape(3, 3), row[13:17]
        if row[0] == ELLIPSOID:
            local = np.array([place for place in product((-1, 0, 1), repeat=3) if any(place)])
            local = local / np.linalg.norm(local, axis=1, keepdims=True) * sizes[:3]
        elif row[0] == BOX:
            local = np.array(list(product((-1, 1), repeat=3))) * sizes[:3]
        else:
            turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
            circle = np.stack([np.cos(turn), np.sin(turn), np.zeros(12)], 1)
            if row[0] == CONE:
                low, high, half = sizes[:3]
                local = np.concatenate([circle * low - [0, 0, half], circle * high + [0, 0, half]])
            else:
                local = np.concatenate(
                    [circle * (sizes[0] + sizes[1]), [[0, 0, sizes[1]], [0, 0, -sizes[1]]]]
                )
        points.append(local @ rotation + row[1:4])
    return np.concatenate(points)


def _move(rows: np.ndarray, offset: np.ndarray, scale: float) -> np.ndarray:
    rows = rows.copy()
    rows[:, 1:4] = (rows[:, 1:4] + offset) * scale
    rows[:, 13:17] *= scale
    rows[:, 25] *= scale
    return rows


def _fit(rows: np.ndarray, radius: float = 0.95) -> np.ndarray:
    """Centred on its bounding box and scaled into a ball of the given radius."""
    points = _surface(rows)
    centre = (points.min(0) + points.max(0)) / 2
    return _move(rows, -centre, radius / float(np.linalg.norm(points - centre, axis=1).max()))


def _build(thing: Thing) -> np.ndarray:
    kind = KINDS[thing.noun]
    parts = {part: usual or thing.colour for part, usual in kind.parts.items()}
    if thing.part and thing.part_colour:
        parts[thing.part] = thing.part_colour
    rows = np.array(BUILDERS[thing.noun](thing.colour, parts), dtype=np.float64)
    if thing.pattern:
        contrast = RGB["black" if thing.colour in ("white", "yellow", "pink") else "white"]
        own = np.all(np.isclose(rows[:, 17:20], RGB[thing.colour]), axis=1)
        rows[own, 20] = 1 if thing.pattern == "striped" else 2
        rows[own, 21:24] = contrast
    return _fit(rows)


def _part_rows(thing: Thing, part: str) -> np.ndarray:
    """[K] bool: the thing's primitives that its part's colour paints."""
    usual = dict.fromkeys(KINDS[thing.noun].parts, "red")
    one, other = (
        np.array(BUILDERS[thing.noun]("red", usual | {part: colour})) for colour in ("white", "black")
    )
    return np.any(one[:, 17:20] != other[:, 17:20], axis=1)


def misplaced(scene: Scene, rng: random.Random) -> np.ndarray | None:
    """`primitives` with one part of the thing where it does not belong: below instead of above, in front
    instead of behind, … None where nothing stands out when it is moved."""
    thing = scene.thing
    rows, own = primitives(scene, rng), len(_build(thing))
    options = []
    for part in KINDS[thing.noun].parts:
        mask = np.zeros(len(rows), dtype=bool)
        mask[-own:] = _part_rows(thing, part)  # what stands on something comes after it
        for axis in (2, 0):
            moved = rows.copy()
            middle = (rows[-own:, 1 + axis].max() + rows[-own:, 1 + axis].min()) / 2
            moved[mask, 1 + axis] = 2 * middle - rows[mask, 1 + axis]
            if mask.any() and abs(moved[mask, 1 + axis] - rows[mask, 1 + axis]).mean() > 0.35:
                options.append(moved)
    return rng.choice(options) if options else None


def primitives(scene: Scene, jitter: random.Random | None = None) -> np.ndarray:
    """The scene's rows [K, 26] float32, inside the unit ball; `jitter` varies sizes and colours a little."""
    thing = _build(scene.thing)
    if scene.support is not None:
        base = _build(scene.support)
        tall, low = _surface(base)[:, 2].max(), _surface(thing)[:, 2].min()
        thing = _move(thing, np.zeros(3), CARRY_SCALE[scene.support.noun])
        low *= CARRY_SCALE[scene.support.noun]
        thing[:, 1:4] += [0.0, 0.0, tall - low - (0.06 if scene.support.noun == "plate" else 0.0)]
        thing = _fit(np.concatenate([base, thing]))
    if jitter is not None:
        thing = thing.copy()
        thing = _move(thing, np.zeros(3), jitter.uniform(0.93, 1.0))
        shift = np.array([jitter.uniform(-0.03, 0.03) for _ in range(3)])
        thing[:, 1:4] += shift
        thing[:, 13:16] *= jitter.uniform(0.94, 1.06)
        for columns in (slice(17, 20), slice(21, 24)):
            thing[:, columns] = np.clip(
                thing[:, columns] + [jitter.uniform(-0.03, 0.03) for _ in range(3)], 0, 1
            )
    return np.ascontiguousarray(thing, dtype=np.float32)
