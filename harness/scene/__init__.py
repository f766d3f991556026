"""Generators g(θ): cameras, the hash-grid field and its backends, the volume renderer, regularisers."""
