"""Is the compressed model still the same model? Predictions, their comparison, the audit of both."""
