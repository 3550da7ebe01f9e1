"""Programs that sort a folder of films by body part, to compare the router with.

    python -m benchmarks.contenders NAME FOLDER OUTPUT

Each reads every film of FOLDER, classifies it with the default bundle's network (`paper`: with the
paper's own recipe), copies its bytes below OUTPUT by label and writes a table of what it decided. They
differ in how much they decode, in what overlaps, and in what they promise: only `without_beam` does
all that the router does.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import JPEGLosslessSV1

from models.bundle import load_network, read_info
from models.default_bundle import DEFAULT_BUNDLE
from models.fused import CPU_FORWARD_BATCH, fuse
from transforms.core.labels import LABELS
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.imaging.read_image import decode_thumbnail

LOADER_BATCH: Final = 8
"""A batch is one worker's: small ones keep all of them busy."""

T = TypeVar("T")
Input = npt.NDArray[np.uint8]
Said = tuple[str, str]
"""Name of a file, and its label."""


def naive(files: Sequence[Path], output: Path) -> Iterator[Said]:
    """What one writes first: a film at a time, decoded whole, resized, classified alone."""
    network = load_network(DEFAULT_BUNDLE)
    side = _side()
    for file in files:
        film = torch.from_numpy(decoded_whole(file, side))
        with torch.inference_mode():
            label = LABELS[int(network(film[None])[0, :-1].argmax())]
        shutil.copyfile(file, _place(output, label) / file.name)
        yield file.name, label


def paper(files: Sequence[Path], output: Path) -> Iterator[Said]:
    """The recipe of Pham, Do, Nguyen 2021: MobileNet-V1 on 512 x 512 pixels, a film at a time."""
    import timm

    from benchmarks.forward import PAPER, PAPER_SIDE

    network = timm.create_model(PAPER, pretrained=False, num_classes=5).eval()
    for file in files:
        film = torch.from_numpy(decoded_whole(file, PAPER_SIDE)).float() / 255
        with torch.inference_mode():
            label = LABELS[int(network(film.expand(1, 3, -1, -1))[0].argmax())]
        shutil.copyfile(file, _place(output, label) / file.name)
        yield file.name, label


class WholeFilms(torch.utils.data.Dataset[tuple[int, Input]]):
    """Films decoded whole, for the loader's workers."""

    def __init__(self, files: Sequence[Path], side: int) -> None:
        self._files, self._side = files, side

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> tuple[int, Input]:
        return number, decoded_whole(self._files[number], self._side)


def loader(files: Sequence[Path], output: Path) -> Iterator[Said]:
    """The best script by hand: PyTorch's loader with a worker for each core, films in batches."""
    network = load_network(DEFAULT_BUNDLE)
    films = torch.utils.data.DataLoader(
        WholeFilms(files, _side()), batch_size=LOADER_BATCH, num_workers=torch.get_num_threads()
    )
    for numbers, batch in films:
        with torch.inference_mode():
            labels = network(batch)[:, :-1].argmax(1)
        for number, label in zip(numbers.tolist(), labels.tolist(), strict=True):
            shutil.copyfile(files[number], _place(output, LABELS[label]) / files[number].name)
            yield files[number].name, LABELS[label]


def floor(files: Sequence[Path], output: Path) -> Iterator[Said]:
    """The least that can be done: read, hash, the cheapest decode and a forward; nothing is written.

    One thread a core, a core each: its wall time is what is left when nothing waits.
    """
    network, side, limits = load_network(DEFAULT_BUNDLE), _side(), Limits()
    fuse(network, side)
    cores = torch.get_num_threads()
    torch.set_num_threads(1)

    def share(mine: Sequence[Path]) -> list[Said]:
        said = []
        for some in batched(mine, CPU_FORWARD_BATCH):
            films = []
            for file in some:
                data = file.read_bytes()
                hashlib.sha256(data).digest()
                films.append(decode_thumbnail(parse(data, limits), side, limits=limits)[0])
            with torch.inference_mode():
                labels = network(torch.from_numpy(np.stack(films)))[:, :-1].argmax(1).tolist()
            said += [(f.name, LABELS[label]) for f, label in zip(some, labels, strict=True)]
        return said

    with ThreadPoolExecutor(cores) as pool:
        for said in pool.map(share, [files[number::cores] for number in range(cores)]):
            yield from said


def without_beam(files: Sequence[Path], output: Path) -> Iterator[Said]:
    """Every step of the router, called one after the other as it calls them, without Beam."""
    from models.classify import decide_row
    from models.handler import RadiographModelHandler
    from pipeline.cli.route import add_arguments, route_config
    from transforms.core.batch_sizes import PLACE_BATCH
    from transforms.core.object_ref import ObjectRef
    from transforms.lake.index_files import shard_of, write_index
    from transforms.lake.journal import sweep_journal, write_journal
    from transforms.lake.resolve_duplicates import resolve_all
    from transforms.lake.schema import to_table
    from transforms.place import place, with_object_uri
    from transforms.sandbox.child_process import SandboxProcess
    from transforms.sandbox.examine import Examined, ExamineOptions, examine
    from transforms.storage.schemes import storage_of

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    where = ["--input", str(files[0].parent), "--lake", str(output)]
    config = route_config(parser.parse_args(where))
    limits, policy = config.limits, config.policy
    idle: SimpleQueue[SandboxProcess] = SimpleQueue()
    children = [
        SandboxProcess(timeout_s=limits.max_object_seconds, memory_bytes=limits.max_memory_bytes)
        for _ in range(config.fetch_threads)
    ]
    for child in children:
        idle.put(child)
    handler = RadiographModelHandler(DEFAULT_BUNDLE, max_batch_size=config.batch_size)
    model = handler.load_model()

    options = ExamineOptions.from_config(config)

    def examine_one(ref: ObjectRef) -> Examined:
        child = idle.get()
        try:
            return examine(ref, options, child)
        finally:
            idle.put(child)

    refs = [
        ObjectRef.of(found) for found in storage_of(str(output)).list_below(str(files[0].parent))
    ]
    rows = []
    with ThreadPoolExecutor(config.fetch_threads) as pool:
        for batch in batched(refs, config.batch_size):
            examined = list(pool.map(examine_one, batch))
            images = [e.image for e in examined if e.image is not None]
            undecided = [e.row for e in examined if e.image is not None]
            results = handler.run_inference(images, model)
            decided = [decide_row(r, s, policy) for r, s in zip(undecided, results, strict=True)]
            decided += [e.row for e in examined if e.image is None]
            targets = (with_object_uri(row, config.layout, config.placement) for row in decided)
            for placed in batched(targets, PLACE_BATCH):
                write_journal(config.layout, placed, config.fingerprint())
                for row in placed:
                    place(row, config.layout, config.placement)
                rows += placed
    for child in children:
        child.close()
    for shard in range(config.index_shards):
        mine = [row for row in rows if shard_of(row.identity, config.index_shards) == shard]
        if settled := resolve_all(mine, []).rows:
            write_index(config.layout, config.ingest_date, to_table(settled), shard)
    sweep_journal(config.layout)
    yield from ((Path(row.source_uri).name, str(row.predicted_label)) for row in rows)


CONTENDERS: Final[dict[str, Callable[[Sequence[Path], Path], Iterator[Said]]]] = {
    one.__name__: one for one in (without_beam, naive, loader, paper, floor)
}


def decoded_whole(file: Path, side: int) -> Input:
    """Return uint8[1, side, side] of a film as pydicom decodes and presents it, padded to a square."""
    ds = dcmread(file)
    values = apply_voi_lut(apply_modality_lut(_stored(ds), ds), ds).astype(np.float32)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        values = -values
    low, high = float(values.min()), float(values.max())
    gray = ((values - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)
    image = Image.fromarray(gray)
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    square = Image.new("L", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square)[None].copy()


def _stored(ds: Dataset) -> npt.NDArray[Any]:
    """Return the stored values; lossless JPEG by imagecodecs, as pydicom reads it by GPL codecs only."""
    if ds.file_meta.TransferSyntaxUID == JPEGLosslessSV1:
        return np.asarray(imagecodecs.jpeg8_decode(get_frame(ds.PixelData, 0)))
    return ds.pixel_array


def batched(items: Iterable[T], number: int) -> Iterator[list[T]]:
    """Give items in lists of so many."""
    rest = iter(items)
    while batch := list(islice(rest, number)):
        yield batch


def _side() -> int:
    return read_info(DEFAULT_BUNDLE).input_size


def _place(output: Path, label: str) -> Path:
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
    said = list(CONTENDERS[args.name](sorted(args.folder.iterdir()), args.output))
    with (args.output / "labels.csv").open("w") as table:
        csv.writer(table).writerows(said)
    print(json.dumps({"films": len(said)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
