"""The classifier: normalization, forward pass, softmax and OOD score in one module.

All steps from uint8 images to probabilities are part of `forward`, so that they also run in Beam's model
server process, where context managers around the call do not apply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from models import efficientnet_lite
from models.architectures import require_architecture
from models.ensemble import Ensemble, members_of
from models.ood_vim import VirtualLogit, VirtualLogits, stage_statistics
from models.region_head import RegionHead
from transforms.core.errors import UsageError, did_you_mean

WHITE: Final = 255.0


class BodyPartClassifier(nn.Module):
    """A backbone, or an ensemble of them, on single-channel images, with calibrated probabilities.

    Attributes:
        labels: label of each output, in order.
        temperature: divisor of the logits before the softmax (Guo et al. 2017, "On Calibration of
            Modern Neural Networks"); 1.0 leaves them unchanged.
        ood: computes the OOD score; None uses the energy.
        regions: the second head, or None.

    Args:
        architecture: a timm name.
        labels: of the outputs.
        members: input size of each member of an ensemble, in pixels; empty for a single network.
        temperature: see above.
        drop_rate: dropout rate of the features in training.
        backbone: the network, if it is not to be created by name.
    """

    def __init__(
        self,
        architecture: str,
        labels: tuple[str, ...],
        *,
        members: Sequence[int] = (),
        temperature: float = 1.0,
        drop_rate: float = 0.0,
        backbone: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.labels = labels
        self.temperature = temperature
        self.ood: VirtualLogit | VirtualLogits | None = None
        self.regions: RegionHead | None = None
        self.backbone: Any = backbone
        if backbone is None:
            networks = [
                _create_backbone(architecture, len(labels), drop_rate)
                for _ in range(len(members) or 1)
            ]
            self.backbone = Ensemble(networks, members) if members else networks[0]

    def logits(self, images: Tensor) -> Tensor:
        """Return logits, float[N, n_labels], for uint8[N, 1, S, S]."""
        out: Tensor = self.backbone(self.normalize(images))
        return out

    def features(self, images: Tensor) -> Tensor:
        """Return the input of the last layer, float[N, F], for uint8[N, 1, S, S]."""
        maps = self.backbone.forward_features(self.normalize(images))
        out: Tensor = self.backbone.forward_head(maps, pre_logits=True)
        return out

    def features_and_statistics(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return `features`, and the statistics of the stages, float32[N, S], for uint8[N, 1, S, S].

        The backbone gives the outputs of its stages; see `has_stages`.
        """
        maps, stages = self.backbone.forward_intermediates(self.normalize(images))
        return self.backbone.forward_head(maps, pre_logits=True), stage_statistics(stages)

    @property
    def has_stages(self) -> bool:
        """Whether the backbone, or each network of an ensemble, gives the outputs of its stages."""
        networks = members_of(self.backbone)
        return all(hasattr(network, "forward_intermediates") for network in networks)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: uint8[N, 1, S, S].

        Returns:
            float32[N, n_labels + 1]: probabilities, which sum to 1, then the OOD score; higher is less
            like the training images. Without `ood` it is the energy.
        """
        logits, score = self._logits_and_score(images)
        return torch.cat((self._probabilities(logits), score[:, None]), dim=1)

    def forward_with_energy(self, images: Tensor) -> Tensor:
        """Classify images; return float32[N, n_labels + 2], `forward` followed by the energy."""
        logits, score = self._logits_and_score(images)
        columns = (self._probabilities(logits), score[:, None], energy(logits)[:, None])
        return torch.cat(columns, dim=1)

    def forward_with_regions(self, images: Tensor) -> Tensor:
        """Classify images, and predict their regions if the network has a second head.

        Returns:
            float32[N, n_labels + 1 + n_regions]: as `forward`, then the probabilities of the regions.
        """
        if self.regions is None:
            out: Tensor = self(images)
            return out
        if self.ood is None:
            maps = self.backbone.forward_features(self.normalize(images))
            features = self.backbone.forward_head(maps, pre_logits=True)
            logits = self.backbone.forward_head(maps).float()
            score = energy(logits)
        else:
            features, logits, score = self._with_score(images, self.ood)
        columns = (self._probabilities(logits), score[:, None], self.regions(features))
        return torch.cat(columns, dim=1)

    def _logits_and_score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, float32[N, n_labels], and OOD scores, float32[N]."""
        if self.ood is None:
            logits = self.logits(images).float()
            return logits, energy(logits)
        _, logits, score = self._with_score(images, self.ood)
        return logits, score

    def _with_score(
        self, images: Tensor, ood: VirtualLogit | VirtualLogits
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return features, float[N, F], logits, float32[N, n_labels], and OOD scores, float32[N]."""
        statistics = None
        if ood.uses_statistics:
            features, statistics = self.features_and_statistics(images)
        else:
            features = self.features(images)
        layer = self.backbone.get_classifier()
        return features, layer(features).float(), ood(features, layer, statistics)

    def _probabilities(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits / self.temperature, dim=1)

    def normalize(self, images: Tensor) -> Tensor:
        """Return float[N, 1, S, S] in -1..1, the backbones' input, for [N, 1, S, S] in 0..255."""
        normalized = images.to(self.dtype, copy=True).mul_(2.0 / WHITE).sub_(1.0)
        return normalized.contiguous(memory_format=torch.channels_last)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device


def energy(logits: Tensor) -> Tensor:
    """Return -log sum exp(logits), float[N], for float[N, n_labels].

    Source: Liu et al. 2020, "Energy-based Out-of-distribution Detection".
    """
    return -torch.logsumexp(logits, dim=1)


def _create_backbone(architecture: str, outputs: int, drop_rate: float) -> nn.Module:
    """Return a network on single-channel images by its timm name.

    Raises:
        UsageError: timm has no architecture of this name.
    """
    options: dict[str, Any] = {"in_chans": 1, "num_classes": outputs, "drop_rate": drop_rate}
    if architecture in efficientnet_lite.VARIANTS:
        return efficientnet_lite.EfficientNetLite(architecture, **options)
    require_architecture(architecture)
    import timm  # takes seconds to import, and the default model does not need it

    if not timm.is_model(architecture):
        near = did_you_mean(architecture, timm.list_models())
        hint = f"; did you mean {near}?" if near else ""
        raise UsageError(f"architecture: timm {timm.__version__} has no {architecture!r}{hint}")
    network: nn.Module = timm.create_model(architecture, pretrained=False, **options)
    return network
