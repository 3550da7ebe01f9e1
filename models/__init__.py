"""PyTorch lives here: bundles, networks, Beam's model handler, training."""
