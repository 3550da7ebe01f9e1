"""The application: sources, graph, runs, command line and Python API (`pipeline.api`)."""

__version__ = "0.2.0"
