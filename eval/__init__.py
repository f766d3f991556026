"""Pure functions of run folders: load → metrics (cached per version) → statistics → tables."""

import os

# Figures are files: a notebook's or a desktop's own backend, which may not be here, has no part in them.
os.environ["MPLBACKEND"] = "agg"
