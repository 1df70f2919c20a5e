"""How a model came to each of its tokens."""
