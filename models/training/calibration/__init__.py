"""Temperature, thresholds and the OOD score."""
