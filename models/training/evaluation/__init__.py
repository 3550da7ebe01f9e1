"""Predictions, metrics and the model card."""
