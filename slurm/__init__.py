"""Sweeps on Slurm: profiles of sites, launching packs as array tasks, what a task does, and the queue."""
