"""What is kept of a run: its identity, its folder, its log."""
