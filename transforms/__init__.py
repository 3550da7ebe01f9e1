"""The steps of the graph, over plain functions in `imaging` and `lake`."""
