"""Text and code as tokens of a small byte-pair encoding, learned here from the training part alone.

Text is the King James Bible; code is the Python standard library of the running interpreter, its files in a fixed
shuffle. The last tenth is held out: its first half for tuning, its second half for reports.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import itertools
import os
import re
import sysconfig
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.workloads.workload import Batch, held_out
from workloads.data import bible

CACHE = Path(__file__).parents[2] / "out" / "workloads"
WORD = re.compile(rb" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+")
LEARNED = 2_000_000  # bytes that merges are learned from
LEFT_OUT = {"test", "tests", "site-packages", "idlelib", "__pycache__"}
Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids (long), on the CPU."""

    vocabulary: int
    train: Tensor
    tuning: Tensor
    held_out: Tensor

    def batch(self, rows: int, context: int, generator: torch.Generator, device: str) -> Batch:
        """Return windows of the training part, and the same one token on: {"ids", "next"}, long [rows, context]."""
        return windows(self.train, rows, context, generator, device)

    def measured(self, rows: int, context: int, count: int, device: str) -> tuple[tuple[Batch, ...], tuple[Batch, ...]]:
        """Return `count` batches of the tuning part and of the held-out part."""
        first = held_out(lambda generator: windows(self.tuning, rows, context, generator, device), 0, count)
        return first, held_out(lambda generator: windows(self.held_out, rows, context, generator, device), 1, count)


def windows(ids: Tensor, rows: int, context: int, generator: torch.Generator, device: str) -> Batch:
    """Return windows of `ids` whose places are drawn from `generator`."""
    starts = torch.randint(0, ids.numel() - context, (rows, 1), generator=generator)
    cut = ids[starts + torch.arange(context + 1)].long().to(device)
    return {"ids": cut[:, :-1], "next": cut[:, 1:]}


def code(most: int) -> bytes:
    """Return up to `most` bytes of the standard library's sources, by the hash of each file's path."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [path.relative_to(root) for path in root.rglob("*.py") if not LEFT_OUT & set(path.relative_to(root).parts)]
    files.sort(key=lambda path: hashlib.sha256(path.as_posix().encode()).digest())
    found, size = [], 0
    for path in files:
        if size >= most:
            break
        found.append((root / path).read_bytes())
        size += len(found[-1])
    return b"\n".join(found)[:most]


@functools.cache
def raw(name: str, quick: bool) -> bytes:
    """Return the corpus "text" or "code" as bytes."""
    most = 60_000 if quick else 8_000_000
    if name == "code":
        return code(most)
    split = bible()
    return torch.cat((split.train, split.validation)).numpy().tobytes()[:most]


@functools.cache
def corpus(name: str, quick: bool, units: str = "") -> Tokens:
    """Return the corpus "text" or "code" as `units`: its own tokens, those of another corpus by its name, or "bytes".

    Tokens of the full size are kept in out/workloads once they are made.
    """
    vocabulary = 320 if quick else 2048
    data, other = raw(name, quick), raw(name if units in ("", "bytes") else units, quick)
    if units == "bytes":
        return _split(torch.frombuffer(bytearray(data), dtype=torch.uint8), 256)
    sample = other[: min(LEARNED, len(other) * 9 // 10)]
    mark = hashlib.sha256(data + sample + f"{vocabulary} {WORD.pattern!r}".encode()).hexdigest()[:16]
    file = CACHE / f"{name}-{mark}.pt"
    if not quick and file.is_file():
        return _split(torch.load(file), vocabulary)
    ids = torch.tensor(encode(data, learn(sample, vocabulary)), dtype=torch.int32)
    if not quick:
        file.parent.mkdir(parents=True, exist_ok=True)
        own = file.with_suffix(f".{os.getpid()}")  # processes that make it at once don't meet
        torch.save(ids, own)
        own.replace(file)
    return _split(ids, vocabulary)


def _split(ids: Tensor, vocabulary: int) -> Tokens:
    first, second = ids.numel() * 18 // 20, ids.numel() * 19 // 20
    return Tokens(vocabulary, ids[:first], ids[first:second], ids[second:])


def learn(data: bytes, vocabulary: int) -> dict[Pair, int]:
    """Return merges of byte pairs in the order of their ids: the most frequent first, ties by the larger pair."""
    counted = sorted(Counter(WORD.findall(data)).items())
    words, times = [list(word) for word, _ in counted], [count for _, count in counted]
    pairs: Counter[Pair] = Counter()
    places: dict[Pair, set[int]] = {}
    for index, word in enumerate(words):
        _count(pairs, places, word, index, times[index])
    heap = [(-count, -pair[0], -pair[1]) for pair, count in pairs.items()]
    heapq.heapify(heap)
    merges: dict[Pair, int] = {}
    while heap and 256 + len(merges) < vocabulary:
        count, first, second = heapq.heappop(heap)
        pair = (-first, -second)
        if pair in merges or pairs[pair] != -count or not count:
            continue  # an older count; the present one is in the heap too
        merges[pair] = new = 256 + len(merges)
        touched: set[Pair] = set()
        for index in sorted(places[pair]):
            touched |= _count(pairs, places, words[index], index, -times[index])
            words[index] = merged(words[index], pair, new)
            touched |= _count(pairs, places, words[index], index, times[index])
        for other in touched - {pair}:
            heapq.heappush(heap, (-pairs[other], -other[0], -other[1]))
    return merges


def _count(pairs: Counter[Pair], places: dict[Pair, set[int]], word: list[int], index: int, times: int) -> set[Pair]:
    """Add a word's pairs `times` times (take them away if negative); return them."""
    found = list(itertools.pairwise(word))
    for pair in found:
        pairs[pair] += times
        places.setdefault(pair, set()).add(index)
    return set(found)


def merged(word: list[int], pair: Pair, new: int) -> list[int]:
    """Return `word` with every occurrence of `pair` replaced by `new`, from the left."""
    out: list[int] = []
    index = 0
    while index < len(word):
        both = index + 1 < len(word) and (word[index], word[index + 1]) == pair
        out.append(new if both else word[index])
        index += 2 if both else 1
    return out


def encode(data: bytes, merges: dict[Pair, int]) -> list[int]:
    """Return the ids of `data`, each word by the earliest merge that it holds until it holds none."""
    known: dict[bytes, list[int]] = {}
    ids: list[int] = []
    for word in WORD.findall(data):
        if word not in known:
            own = list(word)
            while found := [pair for pair in itertools.pairwise(own) if pair in merges]:
                first = min(found, key=merges.__getitem__)
                own = merged(own, first, merges[first])
            known[word] = own
        ids += known[word]
    return ids
