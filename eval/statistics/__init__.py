"""Intervals, tests and estimators, of arrays and tables of numbers alone."""
