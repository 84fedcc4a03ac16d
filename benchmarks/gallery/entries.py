"""All entries, in the order of the index."""

from __future__ import annotations

from benchmarks.gallery.attention import ATTENTION
from benchmarks.gallery.convolutions import CONVOLUTIONS
from benchmarks.gallery.entry import Entry
from benchmarks.gallery.experts import EXPERTS
from benchmarks.gallery.gates import GATES
from benchmarks.gallery.heads import HEADS
from benchmarks.gallery.others import OTHERS

ENTRIES: dict[str, Entry] = ATTENTION | GATES | EXPERTS | CONVOLUTIONS | HEADS | OTHERS
