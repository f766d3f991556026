"""What to run: suites, grids, plans, and a pool of worker processes that advances them."""
