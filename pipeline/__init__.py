"""The application: sources, graph, runs and command line."""

from pipeline.safe_path import exclude_working_directory

exclude_working_directory()  # before any other import

__version__ = "0.2.0"
