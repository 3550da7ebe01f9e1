"""Saves time in tests that run many small pipelines in one process: they share the default model."""

from __future__ import annotations

from models.classifier import Classifier
from models.default_bundle import DEFAULT_BUNDLE, resolve_uri
from models.reloading import LoadedBundle
from pipeline.beam_caches import cache_graph_construction


def install() -> None:
    """Change Beam and the classifier in this process; runs in other processes are as they are."""
    cache_graph_construction()
    _load_default_model_once()


def _load_default_model_once() -> None:
    """Let the runs in this process share the default model."""
    load = Classifier.load_bundle
    loaded: dict[str, LoadedBundle] = {}

    def load_bundle(self: Classifier, uri: str) -> LoadedBundle:
        if resolve_uri(uri) != DEFAULT_BUNDLE:
            return load(self, uri)
        device = self._device
        if device not in loaded:
            loaded[device] = load(self, uri)
        return loaded[device]

    Classifier.load_bundle = load_bundle  # type: ignore[method-assign]
