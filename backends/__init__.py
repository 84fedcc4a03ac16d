"""Backends, one file each: how a program runs on a kind of device. Importing a file registers its backend."""

from normc.backends.backend import Backend as Backend
from normc.backends.backend import backends as backends
