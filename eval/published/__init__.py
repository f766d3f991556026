"""Runs as a dataset that anybody can host and read: parquet, a card, Croissant metadata; and back to runs."""
