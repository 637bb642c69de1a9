"""Make a model smaller."""
