"""What every part of the router shares: labels, reasons, errors, references; no Beam, no pixels."""
