"""R-Precision as papers printed it: another prior, other views, other people's runs."""

from __future__ import annotations

from eval.runs import Runs
from eval.tables.table import Table

# R-Precision as published, in per cent, ± one standard error of the mean; a block of its own, the table
# `published`.
PUBLISHED = (
    ("Dream Fields", "ViT-B/32", "68.3 ± 2.7 (s.e.)", "Jain et al. 2022, one held-out view"),
    ("ground-truth images", "ViT-B/32", "77.1 ± 3.4 (s.e.)", "Jain et al. 2022"),
    ("ground-truth images", "ViT-B/16", "79.1 ± 3.3 (s.e.)", "Jain et al. 2022"),
    ("DreamFusion, colour", "ViT-B/32", "75.1", "Poole et al. 2023"),
    ("DreamFusion, colour", "ViT-B/16", "77.5", "Poole et al. 2023"),
    ("DreamFusion, colour", "ViT-L/14", "79.7", "Poole et al. 2023"),
    ("DreamFusion, textureless", "ViT-B/32", "42.5", "Poole et al. 2023"),
    ("DreamFusion, textureless", "ViT-B/16", "46.6", "Poole et al. 2023"),
    ("DreamFusion, textureless", "ViT-L/14", "58.5", "Poole et al. 2023"),
)


def table(runs: Runs) -> Table:
    """R-Precision as papers printed it: another prior, other views, other people's runs."""
    return Table(
        "published",
        [],
        "As published by others, not measured here: R-Precision on Dream Fields' 153 captions, %",
        ["method", "CLIP", "R-Precision", "source"],
        [list(row) for row in PUBLISHED],
        ["± (s.e.): one standard error of the mean; a 95 % interval reaches about twice as far."],
    )
