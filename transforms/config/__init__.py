"""Configuration of a run: options and policy, checked before a worker starts."""
