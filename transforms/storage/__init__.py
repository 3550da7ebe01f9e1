"""Local files and object stores behind one interface; no Beam, no DICOM."""
