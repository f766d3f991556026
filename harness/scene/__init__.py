"""Scenes g(θ): the contract of their kinds, the kinds, cameras, encoders, volume rendering, regularisers."""
