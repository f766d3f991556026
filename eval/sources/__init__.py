"""Where runs come from: run folders, logs, W&B, other people's renders, the prior's own samples."""
