"""Searches for settings: candidates on some prompts, a winner fixed on others, proof on a third part."""
