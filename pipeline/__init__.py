"""The application: sources, the graph, the run and the command line."""

__version__ = "0.2.0"
