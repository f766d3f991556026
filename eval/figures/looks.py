"""One fixed colour, marker and line per method, in figures and on pages. No matplotlib, no torch."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Look:
    """What tells one method from the others; the marker and the line do so without colour."""

    colour: str
    marker: str
    line: Any

    def draw(self) -> dict[str, Any]:
        """Keywords of `Axes.plot`."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.line}


# Okabe & Ito 2008, without yellow, which is too pale for lines on white.
BLUE, GREEN, VERMILLION = "#0072B2", "#009E73", "#D55E00"
FREE = ("#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES: tuple[Any, ...] = ((0, (4, 1.2, 1, 1.2)), (0, (3, 1)), (0, (6, 1.5)), (0, (1, 0.8)))
MARKERS = "DvPXhp<>"

# Looks of labels that have none of their own: four colours, then the same with another line and marker.
OTHERS = [
    Look(colour, MARKERS[(k + 4 * turn) % len(MARKERS)], LINES[(k + turn) % len(LINES)])
    for turn in range(len(LINES))
    for k, colour in enumerate(FREE)
]
KNOWN = {
    "uniform_sds": Look(BLUE, "o", "-"),
    "linear_decay": Look(GREEN, "s", (0, (5, 1.2))),
    "tp_sds": Look(VERMILLION, "^", "-"),
    "tp_sds:iclr": OTHERS[0],
    "tp_sds:prior_only": OTHERS[1],
    "tp_sds:snr_only": OTHERS[2],
    "linear_decay:truncated": OTHERS[3],
}


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """Label → its look, in the order given.

    Known labels always look the same. Any other has a place of its own among the free colours, and the next
    one only where a label before it in the alphabet, or a known one, stands there in the same figure.
    """
    labels = list(dict.fromkeys(labels))
    found = {label: KNOWN[label] for label in labels if label in KNOWN}
    for label in sorted(set(labels) - set(found)):
        place = zlib.crc32(label.encode()) % len(FREE)
        turns = [OTHERS[i : i + len(FREE)] for i in range(0, len(OTHERS), len(FREE))]
        order = [look for turn in turns for look in turn[place:] + turn[:place]]
        free = [look for look in order if look not in found.values()]
        found[label] = (free or order)[0]
    return {label: found[label] for label in labels}
