"""A prompt suite × methods × seeds becomes durable run folders, advanced many at a time through one prior."""
