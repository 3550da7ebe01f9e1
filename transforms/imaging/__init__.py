"""DICOM parsing, header values and pixels, without Beam or PyTorch."""
