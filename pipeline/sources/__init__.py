"""Where references come from; everything after a source is shared."""
