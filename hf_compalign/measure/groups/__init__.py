"""Groups of items: who is in them, and what the models do to each."""
