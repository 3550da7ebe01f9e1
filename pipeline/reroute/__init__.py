"""Decide the images of a lake again, with another policy or model."""
