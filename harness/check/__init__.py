"""`harness check-scene` and `check-method`: what extensions keep, tried on one of them."""
