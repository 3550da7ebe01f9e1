"""Mixed images follow their weights, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.training.data.mixing import cutmix, mixup


@pytest.fixture
def images() -> torch.Tensor:
    """Return uniform images of different gray levels."""
    torch.manual_seed(0)
    return (torch.arange(8, dtype=torch.uint8) * 30)[:, None, None, None].expand(8, 1, 20, 30)


def test_mixup_superimposes_images_by_weight(images: torch.Tensor) -> None:
    mixed = mixup(images, 0.4, np.random.default_rng(1))
    assert 0 < mixed.weight < 1
    assert sorted(mixed.partners.tolist()) == list(range(8))
    expected = mixed.weight * images.float() + (1 - mixed.weight) * images[mixed.partners].float()
    assert torch.allclose(mixed.images, expected, atol=1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_cutmix_replaces_a_rectangle_by_another_image(images: torch.Tensor, seed: int) -> None:
    before = images.clone()
    mixed = cutmix(images, 1.0, np.random.default_rng(seed))
    assert torch.equal(images, before)
    assert mixed.images.dtype == torch.uint8
    others = images[mixed.partners]
    assert ((mixed.images == images) | (mixed.images == others)).all()
    changed = (mixed.images != images)[:, 0]
    for index in torch.nonzero(mixed.partners != torch.arange(8)).flatten().tolist():
        assert float(changed[index].float().mean()) == pytest.approx(1 - mixed.weight)
        rows, columns = changed[index].any(1), changed[index].any(0)
        assert torch.equal(changed[index], rows[:, None] & columns[None, :])
    assert 0 <= mixed.weight <= 1
