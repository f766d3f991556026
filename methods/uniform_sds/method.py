"""Uniform SDS: the timestep is drawn anew at every step, t ~ U{t_min, …, t_max} (DreamFusion)."""

from harness.distill.method import Method


class UniformSDS(Method):
    """Score distillation sampling as published: every default of `Method`."""
