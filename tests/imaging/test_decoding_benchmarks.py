"""The benchmarks of decoding measure what is installed, and nothing that gives other values."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import codecs, profile_route
from benchmarks.codecs import HT, JPEG_LS, ROUTER, Codec
from tests.synthetic import image

REQUIRED = {"imagecodecs", "pyjpegls", "Pillow", "pylibjpeg-openjpeg", "pylibjpeg-rle", ROUTER}
SHAPE = (96, 80)


def test_each_installed_codec_is_measured_in_each_of_its_syntaxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = Codec("missing", "no_such_module", "no-such-package", "MIT", {})
    required = [codec for codec in codecs.CODECS if codec.name in REQUIRED]
    monkeypatch.setattr(codecs, "CODECS", (*required, missing))
    out = tmp_path / "results" / "codecs.json"
    arguments = ["--images", "2", "--rounds", "2", "--shape", *map(str, SHAPE)]
    assert codecs.main([*arguments, "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    assert {(one["syntax"], one["codec"]) for one in results["measurements"]} == {
        (syntax, codec.name) for codec in required for syntax in codec.decoders
    }
    for one in results["measurements"]:
        assert len(one["wall_ms"]) == len(one["cpu_ms"]) == 2, one.get("problem")
    assert {"imagecodecs", "charls", "openjph", "pillow"} <= results["versions"].keys()
    printed = capsys.readouterr().out
    assert (
        "skipped: missing (No module named 'no_such_module'); pip install no-such-pack" in printed
    )
    assert f'"imagecodecs": "{results["versions"]["imagecodecs"]}"' in printed
    assert "| router / fastest codec |" in printed


def broken(_: object, encoded: codecs.Encoded) -> Any:
    raise ValueError("bad marker")


@pytest.mark.parametrize(
    ("decode", "expected"),
    [
        (lambda _, encoded: encoded.pixels, ""),
        (lambda _, encoded: encoded.pixels + np.eye(*SHAPE, dtype=int), "values differ by 1"),
        (broken, "ValueError: bad marker"),
    ],
)
@pytest.mark.parametrize("syntax", [JPEG_LS, HT])
def test_a_codec_that_gives_other_values_gets_no_rate(
    syntax: str, decode: codecs.Decode, expected: str, tmp_path: Path
) -> None:
    encoded = codecs.encode(syntax, image(shape=SHAPE), tmp_path)
    codec = Codec("other", "other", "other", "MIT", {syntax: decode})
    assert codecs.problem(syntax, codec, None, encoded) == expected


@pytest.mark.parametrize("stage", list(profile_route.STAGES))
def test_the_profile_of_a_run_times_functions_that_exist(stage: str) -> None:
    """It did not start after one had another name."""
    module, function = profile_route.STAGES[stage]
    assert callable(getattr(importlib.import_module(module), function))
