"""Text-to-image diffusion models as denoisers, and view-dependent prompts."""
