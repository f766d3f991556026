"""Sweeps on a Slurm cluster: packs of runs as array tasks, and a small real cluster to test them on."""
