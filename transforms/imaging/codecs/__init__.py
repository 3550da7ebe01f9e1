"""Decoders that bring no more of a frame into memory than the network needs."""
