"""A small world that is real: objects, captions and renders, and the training of its weights."""
