"""The application: sources, graph, runs and command line."""

__version__ = "0.2.0"
