"""One file, one metric: found by being here."""
