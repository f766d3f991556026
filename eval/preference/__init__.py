"""A blind preference study over paired runs: its folder, its web application, its results."""
