"""Lakes without Beam or PyTorch: layout, placement, index, audit."""
