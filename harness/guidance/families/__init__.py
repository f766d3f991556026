"""Families of text-to-image pipelines, a file each; found by `harness.guidance.family`."""
