"""Films are shown otherwise as the names of the views say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from models.training.films import Film
from models.training.views import AS_IT_IS, PAIRED, VARIANTS, load_views
from tests.synthetic import image


def test_views_show_the_same_film_otherwise(tmp_path: Path) -> None:
    films = []
    for number in range(3):
        Image.fromarray((image(number, (128, 96)) >> 4).astype(np.uint8)).save(
            tmp_path / f"{number}.png"
        )
        films.append(Film(tmp_path / f"{number}.png", "spine", "test", "s", str(number)))
    views = load_views(films, 128)
    assert list(views) == [AS_IT_IS, *VARIANTS, PAIRED]
    plain = views[AS_IT_IS].numpy()[:, 0]
    for name, view in views.items():
        assert view.shape == (3, 1, 128, 128)
        assert name == AS_IT_IS or not np.array_equal(view[:, 0], plain), name
    assert np.array_equal(views["mirrored"].numpy()[0, 0], plain[0, :, ::-1])
    assert np.array_equal(views["rotated by 90°"].numpy()[0, 0], np.rot90(plain[0]))
    squeezed = views["squeezed into a square"].numpy()[:, 0]
    assert (squeezed[:, :, 0] > 0).mean() > 0.5, "no bar at the side"
    assert (plain[:, :, 0] == 0).all()
    black = views["in a black frame"].numpy()[:, 0]
    assert not black[:, :20].any()
    assert (views["in a white frame"].numpy()[:, 0, 0, 30:98] == 255).all()
    assert views["of gamma 0.4"].float().mean() > views[AS_IT_IS].float().mean() + 10
    assert views["of gamma 2.5"].float().mean() < views[AS_IT_IS].float().mean() - 10
    lettered = views["letters burned in"].numpy()[:, 0].astype(int)
    assert ((lettered != plain).any((0, 2)).nonzero()[0] // 16).tolist().count(2) > 4, "at a third"
    again = load_views(films, 128)
    assert all(np.array_equal(again[name], views[name]) for name in views)
