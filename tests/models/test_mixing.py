"""MixedBatch images are what their shares say, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.training.data.mixing import cutmix, mixup


@pytest.fixture
def images() -> torch.Tensor:
    """Every image of one gray of its own."""
    torch.manual_seed(0)
    return (torch.arange(8, dtype=torch.uint8) * 30)[:, None, None, None].expand(8, 1, 20, 30)


def test_mixup_shows_each_film_by_its_share(images: torch.Tensor) -> None:
    shown = mixup(images, 0.4, np.random.default_rng(1))
    assert 0 < shown.share < 1
    assert sorted(shown.order.tolist()) == list(range(8))
    expected = shown.share * images.float() + (1 - shown.share) * images[shown.order].float()
    assert torch.allclose(shown.images, expected, atol=1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_cutmix_shows_a_rectangle_of_another_film(images: torch.Tensor, seed: int) -> None:
    before = images.clone()
    shown = cutmix(images, 1.0, np.random.default_rng(seed))
    assert torch.equal(images, before)
    assert shown.images.dtype == torch.uint8
    others = images[shown.order]
    assert ((shown.images == images) | (shown.images == others)).all()
    changed = (shown.images != images)[:, 0]
    for index in torch.nonzero(shown.order != torch.arange(8)).flatten().tolist():
        assert float(changed[index].float().mean()) == pytest.approx(1 - shown.share)
        rows, columns = changed[index].any(1), changed[index].any(0)
        assert torch.equal(changed[index], rows[:, None] & columns[None, :])
    assert 0 <= shown.share <= 1
