"""Sources of objects: one module and one `PTransform` each, with the outputs in `outputs`."""
