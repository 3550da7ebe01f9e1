"""First stages that the members of an ensemble have in common, which are then computed once.

Stages that are frozen in training (`train --freeze`) keep the weights that all members begin with. Only
the statistics of their batch norms are estimated in each training, from the same images: they differ by
about one percent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from models.efficientnet_lite import EfficientNetLite


def share_first_stages(networks: Sequence[nn.Module]) -> int:
    """Give networks the first one's batch-norm statistics in all first stages of the same weights.

    Args:
        networks: modified in place.

    Returns:
        The number of stages that all have in common now, after the stem, as `shared_stages`.
    """
    if not all(isinstance(network, EfficientNetLite) for network in networks):
        return 0
    for same in zip(*map(_stem_and_stages, networks), strict=False):
        if not all(_have_same_weights(same[0], part) for part in same[1:]):
            break
        for part in same[1:]:
            part.load_state_dict(same[0].state_dict())
    return shared_stages(networks)


def shared_stages(networks: Sequence[nn.Module]) -> int:
    """Return how many first stages have the same weights and statistics in all networks.

    Returns:
        The number of stages after the stem; 0 if the stem differs, too, there is one network only, or one
        is not an EfficientNet-Lite.
    """
    if len(networks) < 2 or not all(isinstance(n, EfficientNetLite) for n in networks):
        return 0
    equal = 0
    for first, *others in zip(*map(_stem_and_stages, networks), strict=False):
        if not all(_are_equal(first.state_dict(), part.state_dict()) for part in others):
            break
        equal += 1
    return max(equal - 1, 0)


def _stem_and_stages(network: nn.Module) -> Iterator[nn.Module]:
    assert isinstance(network, EfficientNetLite)
    yield nn.ModuleList((network.conv_stem, network.bn1))
    yield from network.blocks.children()


def _have_same_weights(one: nn.Module, other: nn.Module) -> bool:
    return _are_equal(dict(one.named_parameters()), dict(other.named_parameters()))


def _are_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        tensor.shape == other[name].shape and torch.equal(tensor, other[name])
        for name, tensor in one.items()
    )
