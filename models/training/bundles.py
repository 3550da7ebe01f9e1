"""From a data set to a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scipy.special import softmax

from models import bundle
from models.ensemble import Ensemble, members_of
from models.networks import FilmClassifier
from models.ood_vim import HighestVirtualLogit
from models.training import provenance
from models.training.calibrate import TARGET_ERROR, calibrate, strangeness
from models.training.films import Film, FilmsError, read_films, split_of
from models.training.fit import finish, fit
from models.training.options import FitOptions
from models.training.predict import inputs_of, load_to_predict, predict, predict_logits
from models.training.score import score
from models.training.subspace import fit_virtual_logit
from models.training.thresholds import Predictions
from transforms.core.errors import UsageError


def train_bundle(
    data: Path,
    output: Path,
    options: FitOptions,
    device: str,
    *,
    more_data: Sequence[Path] = (),
    more_weight: float = 1.0,
    leave_out: Sequence[str] = (),
) -> bundle.BundleInfo:
    """Train on the train split, choose and calibrate on val, and write a bundle.

    The test split is not looked at, not even of what is left out.

    Args:
        data: manifest or folder per label, see `films.read_films`.
        output: folder of the bundle; gets `training.jsonl` too.
        options: of the training.
        device: "cpu" or "cuda".
        more_data: further data sets, all of whose films are learnt from, less those of sources that are
            left out: simulated ones, say.
        more_weight: their films are drawn so many times as often as others of a source of their size.
        leave_out: sources whose train and val films are only looked at in the end: what the network
            is worth on films of hospitals that it never saw.

    Raises:
        BundleError: a teacher cannot be read, has other labels, or has learnt from what is left out.
        FilmsError: a data set cannot be used, has no such source, or groups that must not be learnt
            from stand in `more_data`.
        UsageError: bundles take no films of the input size, or as of `fit`.
    """
    if not bundle.LEAST_SIDE <= options.input_size <= bundle.MOST_SIDE:
        raise UsageError(
            f"--input_size {options.input_size}: give {bundle.LEAST_SIDE} to {bundle.MOST_SIDE} pixels"
        )
    films, strange = _films(data, leave_out)
    more = [film for path in more_data for film in read_films(path) if film.source not in leave_out]
    kept = {(film.source, film.group) for film in films if film.split != "train"}
    if torn := kept & {(film.source, film.group) for film in more}:
        raise FilmsError(f"{len(torn)} groups of --more_data stand in val or test of {data}")
    films += [replace(film, split="train", weight=more_weight) for film in more]
    teachers = [bundle.read_info(uri) for uri in options.teachers]
    for uri, info in zip(options.teachers, teachers, strict=True):
        provenance.require_not_learnt(uri, info, leave_out)
    training = provenance.of_training(films, data, (more_data, more_weight), options, teachers)
    output.mkdir(parents=True, exist_ok=True)
    network = fit(films, options, device, output)
    network.backbone.load_state_dict(bundle.as_stored(network.backbone.state_dict()))
    fixed = {
        "architecture": options.architecture,
        "input_size": options.input_size,
        "training": training,
    }
    learnt, _ = inputs_of(split_of(films, "train"), options.input_size)
    network.ood = fit_virtual_logit(network, learnt)
    decided = _calibrate(network, films, data, options.input_size, TARGET_ERROR)
    _score_left_out(network, strange, options.input_size, decided["metrics"])
    info = bundle.save(output, network, {**fixed, **decided})
    finish(output)
    return info


def calibrate_bundle(
    uris: Sequence[str],
    data: Path,
    output: Path,
    target_error: float,
    *,
    leave_out: Sequence[str] = (),
    without: Sequence[str] = (),
    device: str = "cpu",
) -> bundle.BundleInfo:
    """Set temperature, thresholds and OOD limit anew, on the val split of a data set.

    Args:
        uris: of a bundle; several of one architecture become one, side by side, which takes films of
            the largest input size.
        data: manifest or folder per label, see `films.read_films`.
        output: folder of the new bundle.
        target_error: share of wrong films among those routed under a label.
        leave_out: sources that none has learnt from, whose train and val films are only looked at in
            the end, as in `train_bundle`.
        without: bundles of the same training without some sources. What they say of the films of
            these, train and val, counts in the thresholds as films of strange hospitals do, and
            their figures are taken over.
        device: "cpu" or "cuda", where networks run.

    Raises:
        BundleError: bundles do not go together, one has learnt from what is left out, or one of
            `without` left nothing out.
        FilmsError: the data set cannot be used, or lacks what a bundle left out.
    """
    infos = [bundle.read_info(uri) for uri in uris]
    if len({(info.architecture, info.labels) for info in infos}) > 1:
        raise bundle.BundleError("bundles of several architectures or labels make no ensemble")
    sides = [side for info in infos for side in info.members or (info.input_size,)]
    if len(sides) > bundle.MOST_MEMBERS:
        raise bundle.BundleError(
            f"{len(sides)} networks side by side: at most {bundle.MOST_MEMBERS}"
        )
    for uri, info in zip(uris, infos, strict=True):
        provenance.require_not_learnt(uri, info, leave_out)
    left_out = [_figures_left_out(uri, bundle.read_info(uri)) for uri in without]
    films, strange = _films(data, leave_out)
    side = max(sides)
    if len(infos) == 1:
        network = bundle.load_network(uris[0])
        training = {name: of for name, of in infos[0].training.items() if name != "left_out"}
    else:
        network = _side_by_side([bundle.load_network(uri) for uri in uris], sides)
        training = provenance.of_ensemble(infos)
    if left_out:
        training["left_out"] = left_out
    network.to(device)
    elsewhere = [
        _predict_left_out(uri, figures, films, device)
        for uri, figures in zip(without, left_out, strict=True)
    ]
    fixed = {
        "architecture": infos[0].architecture,
        "input_size": side,
        "training": training,
    }
    decided = _calibrate(network, films, data, side, target_error, elsewhere)
    _score_left_out(network, strange, side, decided["metrics"])
    return bundle.save(output, network, {**fixed, **decided})


def _side_by_side(networks: Sequence[FilmClassifier], sides: Sequence[int]) -> FilmClassifier:
    """Make the first of networks the ensemble of them all; it has the energy if one of them has."""
    whole = networks[0]
    members = [member for one in networks for member in members_of(one.backbone)]
    scores = [of for one in networks if one.ood is not None for of in members_of(one.ood)]
    whole.backbone = Ensemble(members, sides)
    whole.ood = HighestVirtualLogit(scores) if len(scores) == len(members) else None
    return whole


def _films(data: Path, leave_out: Sequence[str]) -> tuple[list[Film], list[Film]]:
    """Return the films of a data set, and those of sources that are left out, less test films."""
    films = read_films(data)
    if missing := set(leave_out) - {film.source for film in films}:
        raise FilmsError(f"{data}: no source {', '.join(sorted(missing))}")
    strange = [f for f in films if f.source in leave_out and f.split != "test"]
    return [film for film in films if film.source not in leave_out], strange


def _score_left_out(
    network: FilmClassifier, strange: Sequence[Film], side: int, metrics: dict[str, Any]
) -> None:
    if not strange:
        return
    inputs, labels = inputs_of(strange, side)
    metrics["left_out"] = {
        "sources": sorted({film.source for film in strange}),
        **score(strange, predict(network, inputs)[:, :-1], labels),
    }


def _figures_left_out(uri: str, info: bundle.BundleInfo) -> dict[str, Any]:
    """Figures of a bundle on what it was trained without, and of that training."""
    figures = info.metrics.get("left_out")
    if figures is None:
        raise bundle.BundleError(f"model bundle {uri}: trained without --leave_out")
    passes = provenance.options_of(info).get("passes", "")
    sides = {"input_size": info.input_size, "members": list(info.members)}
    return {**sides, "passes": passes, **figures}


def _predict_left_out(
    uri: str, figures: dict[str, Any], films: Sequence[Film], device: str
) -> Predictions:
    """What a bundle says of the films that it was trained without."""
    sources, side = set(figures["sources"]), figures["input_size"]
    if missing := sources - {film.source for film in films}:
        raise FilmsError(
            f"no source {', '.join(sorted(missing))}, as {uri} left out, in the data less --leave_out"
        )
    network = load_to_predict(uri, device)
    known = [film for film in films if film.source not in sources]
    own = predict(network, inputs_of(split_of(known, "val"), side)[0])[:, -1]
    strange = [f for f in films if f.source in sources and f.split != "test"]
    if not strange:
        raise FilmsError(f"of what {uri} left out, the data has test films only")
    inputs, labels = inputs_of(strange, side)
    outputs = predict(network, inputs)
    return Predictions(outputs[:, :-1], labels, strangeness(outputs[:, -1], own))


def _calibrate(
    network: FilmClassifier,
    films: Sequence[Film],
    data: Path,
    input_size: int,
    target_error: float,
    elsewhere: Sequence[Predictions] = (),
) -> dict[str, Any]:
    """Calibrate a network on the val split; returns fields of `BundleInfo`."""
    val = split_of(films, "val")
    inputs, labels = inputs_of(val, input_size)
    logits, ood_scores = predict_logits(network, inputs), predict(network, inputs)[:, -1]
    found = calibrate(logits, ood_scores, labels, target_error=target_error, elsewhere=elsewhere)
    network.temperature = found.temperature
    return {
        "thresholds": found.thresholds,
        "ood_threshold": found.ood_threshold,
        "calibration": {"data": data.name, "split": "val", **found.evidence},
        "metrics": {"val": score(val, softmax(logits / found.temperature, axis=1), labels)},
    }
