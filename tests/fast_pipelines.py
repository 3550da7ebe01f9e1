"""Saves time in tests that run many small pipelines in one process; the pipelines are the same.

Beam inspects each method of each DoFn again for each bundle, and parses its options again for each
transform; each run loads its model.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable
from typing import Any, TypeAlias, cast

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core

from models.default_bundle import DEFAULT_BUNDLE, resolve_uri
from models.handler import RadiographModelHandler
from models.reloading import LoadedBundle

Arguments: TypeAlias = tuple[list[str], list[Any]]


def install() -> None:
    """Change Beam and the model's handler in this process; runs in other processes are as they are."""
    _inspect_functions_once()
    _parse_options_once()
    _load_default_model_once()


def _inspect_functions_once() -> None:
    """Let Beam inspect the signature of each method once."""
    inspect: Callable[[Any], Arguments] = core.get_function_args_defaults
    inspected: dict[Callable[..., Any], Arguments] = {}

    def get_function_args_defaults(f: Any) -> Arguments:
        if not isinstance(f, types.MethodType):
            return inspect(f)
        key = f.__func__
        if key not in inspected:
            inspected[key] = inspect(f)
        args, defaults = inspected[key]
        return list(args), list(defaults)

    core.get_function_args_defaults = get_function_args_defaults


def _parse_options_once() -> None:
    """Let Beam parse the same flags once for each class of options."""

    @functools.cache
    def parsed(cls: Callable[..., Any], flags: tuple[str, ...]) -> Any:
        return cls(list(flags))

    view_as = PipelineOptions.view_as

    def cached_view_as(self: Any, cls: type[PipelineOptions]) -> Any:
        if self._flags is None:
            return view_as(self, cls)
        source = parsed(cast(Callable[..., Any], cls), tuple(self._flags))
        view: Any = object.__new__(cls)
        view.__dict__.update(source.__dict__)
        for name in view._visible_option_list():
            if name not in self._all_options:
                self._all_options[name] = copy.copy(getattr(view._visible_options, name))
        view._all_options = self._all_options
        return view

    PipelineOptions.view_as = cached_view_as  # type: ignore[method-assign]


def _load_default_model_once() -> None:
    """Let the runs in this process share the default model."""
    load = RadiographModelHandler.load_bundle
    loaded: dict[str, LoadedBundle] = {}

    def load_bundle(self: RadiographModelHandler, uri: str) -> LoadedBundle:
        if resolve_uri(uri) != DEFAULT_BUNDLE:
            return load(self, uri)
        device = self._device
        if device not in loaded:
            loaded[device] = load(self, uri)
        return loaded[device]

    RadiographModelHandler.load_bundle = load_bundle  # type: ignore[method-assign]
