"""Load the YAML text of a policy file, whatever it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any, Final

import yaml

MAX_POLICY_BYTES: Final = 256 << 10
MAX_VALUES: Final = 20_000
"""Values of a document, in which each alias counts as what it refers to."""


def load_mapping(text: str) -> dict[Any, Any]:
    """Return the mapping in a YAML text; an empty text is an empty mapping.

    Raises:
        ValueError: the text is too large or no YAML of plain data, or it holds no mapping.
    """
    if len(text) > MAX_POLICY_BYTES:
        raise ValueError(f"larger than {MAX_POLICY_BYTES} bytes")
    try:
        document = yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # such as a date of no calendar
        raise ValueError(f"not valid YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ValueError("the policy must be a mapping")
    return document


class _Loader(yaml.SafeLoader):
    """Load plain data. A duplicate key is an error, and so are aliases that make much of little text."""

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _expanded_size(node) > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES} values, after aliases")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := sorted(key for key, count in keys.items() if count > 1):
            raise yaml.constructor.ConstructorError(
                None, None, f"{', '.join(twice)}: given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _expanded_size(node: yaml.Node, sizes: dict[int, int] | None = None) -> int:
    """Return the number of values of a document, in which each alias counts as what it refers to.

    Raises:
        YAMLError: a value contains itself.
    """
    sizes = {} if sizes is None else sizes
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise yaml.YAMLError("a value contains itself")
        return sizes[id(node)]
    sizes[id(node)] = 0
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inner = [one for pair in node.value for one in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    sizes[id(node)] = 1 + sum(_expanded_size(one, sizes) for one in inner)
    return sizes[id(node)]
