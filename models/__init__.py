"""The catalog of models that have a short name."""
