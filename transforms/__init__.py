"""The steps of the graph, one `PTransform` per module, built on the packages below."""
