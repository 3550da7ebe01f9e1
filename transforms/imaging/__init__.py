"""DICOM without Beam or PyTorch: parsing, header values, pixels."""
