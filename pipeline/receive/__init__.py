"""The receiver: C-STORE and STOW-RS, which write objects into a watched folder."""
