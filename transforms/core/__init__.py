"""Shared by all packages: labels, reasons, options, references and codecs; without Beam and pixels."""
