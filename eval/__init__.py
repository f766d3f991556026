"""Pure functions of run folders: load → metrics (cached per version) → statistics → tables."""
