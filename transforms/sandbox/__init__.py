"""Processing of one untrusted object in isolation, without Beam."""
