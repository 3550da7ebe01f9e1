"""Alternatives to the router that sort a folder of radiographs by body part.

    python -m benchmarks.contenders NAME FOLDER OUTPUT

Each reads the images in FOLDER, classifies them with the network of the default bundle (`paper`: with the
network of the paper), copies them to OUTPUT by label and writes the labels to a table. They differ in
decoding, concurrency and guarantees: only `without_beam` does everything that the router does; `floor`
does not copy, `copy` does nothing else.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import imagecodecs
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import JPEGLosslessSV1

from models.bundle import read_info
from models.default_bundle import DEFAULT_BUNDLE
from models.fused import CPU_FORWARD_BATCH, fuse
from models.weights import load_network
from transforms.core.labels import LABELS
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.imaging.read_image import decode_inputs
from transforms.storage.folders import sync_folder

COPIED: Final = "copied"
COPY_CHUNK: Final = 1 << 20
"""Bytes."""
LOADER_BATCH: Final = 8
"""Each batch is decoded by one worker: small batches keep all workers busy."""

T = TypeVar("T")
Input = npt.NDArray[np.uint8]
Labeled = tuple[str, str]
"""File name and label."""


def naive(files: Sequence[Path], output: Path) -> Iterator[Labeled]:
    """The simplest script: one image at a time, decoded at full resolution, without batches."""
    network = load_network(DEFAULT_BUNDLE)
    size = _input_size()
    for file in files:
        image = torch.from_numpy(decode_at_full_resolution(file, size))
        with torch.inference_mode():
            label = LABELS[int(network(image[None])[0, :-1].argmax())]
        shutil.copyfile(file, _folder(output, label) / file.name)
        yield file.name, label


def paper(files: Sequence[Path], output: Path) -> Iterator[Labeled]:
    """The method of Pham, Do, Nguyen 2021: MobileNet-V1 on 512 x 512 pixels, one image at a time."""
    import timm

    from benchmarks.forward import PAPER, PAPER_SIDE

    network = timm.create_model(PAPER, pretrained=False, num_classes=5).eval()
    for file in files:
        image = torch.from_numpy(decode_at_full_resolution(file, PAPER_SIDE)).float() / 255
        with torch.inference_mode():
            label = LABELS[int(network(image.expand(1, 3, -1, -1))[0].argmax())]
        shutil.copyfile(file, _folder(output, label) / file.name)
        yield file.name, label


class FullResolutionImages(torch.utils.data.Dataset[tuple[int, Input]]):
    """Images decoded at full resolution, for the workers of a `DataLoader`."""

    def __init__(self, files: Sequence[Path], size: int) -> None:
        self._files, self._size = files, size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> tuple[int, Input]:
        return number, decode_at_full_resolution(self._files[number], self._size)


def loader(files: Sequence[Path], output: Path) -> Iterator[Labeled]:
    """A good script: PyTorch's `DataLoader` with one worker per core, and batches."""
    network = load_network(DEFAULT_BUNDLE)
    images = FullResolutionImages(files, _input_size())
    batches = torch.utils.data.DataLoader(
        images, batch_size=LOADER_BATCH, num_workers=torch.get_num_threads()
    )
    for numbers, batch in batches:
        with torch.inference_mode():
            labels = network(batch)[:, :-1].argmax(1)
        for number, label in zip(numbers.tolist(), labels.tolist(), strict=True):
            shutil.copyfile(files[number], _folder(output, LABELS[label]) / files[number].name)
            yield files[number].name, LABELS[label]


def floor(files: Sequence[Path], output: Path) -> Iterator[Labeled]:
    """The lower bound: read, hash, decode at reduced resolution and classify; write nothing.

    One thread per core, without any waiting between them.
    """
    network, size, limits = load_network(DEFAULT_BUNDLE), _input_size(), Limits()
    fuse(network, size)
    cores = torch.get_num_threads()
    torch.set_num_threads(1)

    def classify(share: Sequence[Path]) -> list[Labeled]:
        torch.get_num_threads()  # sets the number of threads of this one, as in `models.inference`
        labeled = []
        for batch in batched(share, CPU_FORWARD_BATCH):
            images = []
            for file in batch:
                data = file.read_bytes()
                hashlib.sha256(data).digest()
                images.append(decode_inputs(parse(data, limits), size, limits=limits)[0][:1])
            with torch.inference_mode():
                labels = network(torch.from_numpy(np.stack(images)))[:, :-1].argmax(1).tolist()
            labeled += [(f.name, LABELS[label]) for f, label in zip(batch, labels, strict=True)]
        return labeled

    with ThreadPoolExecutor(cores) as pool:
        for labeled in pool.map(classify, [files[number::cores] for number in range(cores)]):
            yield from labeled


def copy(files: Sequence[Path], output: Path) -> Iterator[Labeled]:
    """The lower bound of the disk: copy and sync the files, one thread per core; classify nothing."""
    folder = _folder(output, COPIED)

    def put(file: Path) -> Labeled:
        with file.open("rb") as source, (folder / file.name).open("wb") as target:
            shutil.copyfileobj(source, target, COPY_CHUNK)
            target.flush()
            os.fsync(target.fileno())
        sync_folder(folder)
        return file.name, COPIED

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield from pool.map(put, files)


def without_beam(files: Sequence[Path], output: Path) -> Iterator[Labeled]:
    """Every step of the router, called in the same order, without Beam."""
    from models.classifier import Classifier
    from models.decide import decide_with_thumbnail
    from pipeline.cli.resolve_config import route_config
    from pipeline.cli.route import add_arguments
    from transforms.core.batch_sizes import PLACE_BATCH
    from transforms.core.object_ref import ObjectRef
    from transforms.lake.append import append_after
    from transforms.lake.append_log import LogEnd, LogShard
    from transforms.lake.index_files import shard_of
    from transforms.lake.journal import clear_journal, write_journal
    from transforms.lake.resolve_duplicates import resolve_all
    from transforms.lake.schema import to_table
    from transforms.place import place, with_object_uri
    from transforms.sandbox.child_process import SandboxProcess
    from transforms.sandbox.examine import Examined, ExamineOptions, examine
    from transforms.storage.schemes import storage_of

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = ["--input", str(files[0].parent), "--lake", str(output)]
    config = route_config(parser.parse_args(arguments))
    limits, policy = config.limits, config.policy
    idle_children: SimpleQueue[SandboxProcess] = SimpleQueue()
    children = [
        SandboxProcess(timeout_s=limits.max_object_seconds, memory_bytes=limits.max_memory_bytes)
        for _ in range(config.concurrency.threads_of_worker)
    ]
    for child in children:
        idle_children.put(child)
    classifier = Classifier(DEFAULT_BUNDLE, max_batch_size=config.batch_size)
    model = classifier.load()

    options = ExamineOptions.from_config(config)

    def examine_one(ref: ObjectRef) -> Examined:
        child = idle_children.get()
        try:
            return examine(ref, options, child)
        finally:
            idle_children.put(child)

    refs = [ObjectRef.of(info) for info in storage_of(str(output)).list_below(str(files[0].parent))]
    rows = []
    with ThreadPoolExecutor(config.concurrency.threads_of_worker) as pool:
        for batch in batched(refs, config.batch_size):
            examined = list(pool.map(examine_one, batch))
            images = [e.image for e in examined if e.image is not None]
            undecided = [e.row for e in examined if e.image is not None]
            answers = classifier.classify(images, model)
            decided = [
                decide_with_thumbnail(row, answer, policy)
                for row, answer in zip(undecided, answers, strict=True)
            ]
            decided += [e.row for e in examined if e.image is None]
            targets = (with_object_uri(row, config.layout, config.placement) for row in decided)
            for placed in batched(targets, PLACE_BATCH):
                write_journal(config.layout, placed, config.fingerprint())
                for row in placed:
                    place(row, config.layout, config.placement)
                rows += [replace(row, thumbnail=None, header=None) for row in placed]
    for child in children:
        child.close()
    for shard in range(config.index_shards):
        rows_of_shard = [r for r in rows if shard_of(r.identity, config.index_shards) == shard]
        if resolved := resolve_all(rows_of_shard, []).rows:
            append_after(
                config.layout,
                LogShard(config.index_shards, shard),
                LogEnd(),
                to_table(resolved),
                run_id=config.run_id,
                ingest_date=config.ingest_date,
            )
    clear_journal(config.layout)
    yield from ((Path(row.source_uri).name, str(row.predicted_label)) for row in rows)


CONTENDERS: Final[dict[str, Callable[[Sequence[Path], Path], Iterator[Labeled]]]] = {
    contender.__name__: contender for contender in (without_beam, naive, loader, paper, floor, copy)
}


def decode_at_full_resolution(file: Path, size: int) -> Input:
    """Return uint8[1, size, size], decoded by pydicom with its LUTs and padded to a square."""
    ds = dcmread(file)
    values = apply_voi_lut(apply_modality_lut(_stored_values(ds), ds), ds).astype(np.float32)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        values = -values
    low, high = float(values.min()), float(values.max())
    gray = ((values - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)
    image = Image.fromarray(gray)
    image.thumbnail((size, size), Image.Resampling.BILINEAR)
    square = Image.new("L", (size, size))
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return np.asarray(square)[None].copy()


def _stored_values(ds: Dataset) -> npt.NDArray[Any]:
    """Return stored values; lossless JPEG by imagecodecs, as pydicom's only plug-ins for it are GPL."""
    if ds.file_meta.TransferSyntaxUID == JPEGLosslessSV1:
        return np.asarray(imagecodecs.jpeg8_decode(get_frame(ds.PixelData, 0)))
    return ds.pixel_array


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of up to `size` items."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _input_size() -> int:
    return read_info(DEFAULT_BUNDLE).input_size


def _folder(output: Path, label: str) -> Path:
    folder = output / label
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    args.output.mkdir(parents=True)
    labeled = list(CONTENDERS[args.name](sorted(args.folder.iterdir()), args.output))
    with (args.output / "labels.csv").open("w") as table:
        csv.writer(table).writerows(labeled)
    print(json.dumps({"images": len(labeled)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
