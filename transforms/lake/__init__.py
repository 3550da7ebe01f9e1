"""A lake on storage: layout, index, journal, recovery, verification; without Beam and PyTorch."""
