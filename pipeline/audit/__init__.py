"""The audit trail: DICOM audit messages about what happens to studies, off by default."""
