"""The options of `train` are the fields of `FitOptions`, and former spellings still work."""

from __future__ import annotations

import argparse

import pytest

from models.training.options import FitOptions
from pipeline.cli import build_parser, command_parser, main, parse
from pipeline.cli.train import TrainOptions
from transforms.core.option import from_values, options_of

REQUIRED = ["--data", "d", "--output", "o"]


def parse_command(command: str, *arguments: str) -> argparse.Namespace:
    return parse([command, *REQUIRED, *arguments])


def test_the_defaults_are_those_of_the_fields() -> None:
    assert from_values(TrainOptions, vars(parse_command("train"))).fit == FitOptions()


def test_every_option_is_in_the_help_with_its_default() -> None:
    parser = build_parser(["train"])
    text = " ".join(command_parser(parser, "train").format_help().split())
    for one in options_of(FitOptions):
        assert f"--{one.flag} " in text
    assert "draws as many images as the train split has [default: 6]" in text
    assert "--passes" not in text


def test_values_have_the_types_of_the_fields() -> None:
    given = parse_command(
        "train", "--epochs", "3", "--teachers", "a", "b", "--augmentation", "plain"
    )
    options = from_values(TrainOptions, vars(given)).fit
    assert (options.epochs, options.teachers, options.augmentation) == (3, ("a", "b"), "plain")


@pytest.mark.parametrize(
    ("command", "former", "name", "value"),
    [
        ("train", ["--passes", "3"], "epochs", 3),
        ("train", ["--doubt", "0.3"], "outlier_exposure", 0.3),
        ("train", ["--variation", "wide"], "augmentation", "strong"),
        ("train", ["--variation", "plain"], "augmentation", "plain"),
        ("train", ["--leave_out", "a", "b"], "holdout_sources", ["a", "b"]),
        ("calibrate", ["--leave_out", "a"], "holdout_sources", ["a"]),
        ("calibrate", ["--without", "a"], "holdout_bundles", ["a"]),
    ],
    ids=str,
)
def test_a_former_spelling_is_accepted_with_a_warning(
    command: str, former: list[str], name: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    found = getattr(parse_command(command, *former), name)
    assert (list(found) if isinstance(found, tuple) else found) == value
    assert f"{former[0]} is deprecated; use --{name}" in capsys.readouterr().err


def test_values_out_of_range_are_refused_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *REQUIRED, "--epochs", "0", "--pairs", "2", "--mixup", "-1"]) == 2
    error = capsys.readouterr().err
    for problem in (
        "--epochs must be above 0", "--pairs must be in 0..1", "--mixup must be at least 0",
    ):  # fmt: skip
        assert problem in error
