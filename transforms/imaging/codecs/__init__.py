"""Decoders that produce no more pixels of a frame than the network needs."""
