"""Models that score images, and the features that they give."""
