"""The loops over all parameters that every step makes on the host, compiled by the machine's own C++ compiler.

Optional: they only say what is as it was, and without a compiler Python's loops do the same, slower. Needs torch alone.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sysconfig
import threading
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import torch
from torch import Tensor

MANY = 256  # parameters from which on the loops are compiled
_SECONDS = 600  # that a compiler may take
_MODULE = "normc_host"

_LOOPS = r"""
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>

// Strided, in memory, and nobody's subclass: what it says of itself needs no Python.
static bool plain(const c10::TensorImpl* own) {
  return own->layout() == c10::kStrided && own->has_storage() && !own->is_python_dispatch();
}

static PyObject* bytes(const void* from, size_t size) {
  return PyBytes_FromStringAndSize(static_cast<const char*>(from), static_cast<Py_ssize_t>(size));
}

// look(parameters) -> (without, kinds, weights, gradients), or None if Python must look closely.
static PyObject* look(PyObject*, PyObject* parameters) {
  if (!PyList_CheckExact(parameters)) Py_RETURN_NONE;
  const Py_ssize_t number = PyList_GET_SIZE(parameters);
  std::vector<Py_ssize_t> without;
  std::vector<uint8_t> kinds;
  std::vector<int64_t> weights, gradients;
  try {
    kinds.reserve(number), weights.reserve(number), gradients.reserve(number);
    for (Py_ssize_t index = 0; index < number; index++) {
      PyObject* item = PyList_GET_ITEM(parameters, index);
      if (!THPVariable_CheckExact(item)) Py_RETURN_NONE;
      const at::Tensor& weight = THPVariable_Unpack(item);
      const at::Tensor& gradient = weight.unsafeGetTensorImpl()->grad();
      if (!gradient.defined()) {
        without.push_back(index);
        continue;
      }
      if (!plain(weight.unsafeGetTensorImpl()) || !plain(gradient.unsafeGetTensorImpl())) Py_RETURN_NONE;
      kinds.push_back(static_cast<uint8_t>(gradient.scalar_type()) | (gradient.is_contiguous() ? 0 : 128));
      weights.push_back(reinterpret_cast<int64_t>(weight.data_ptr()));
      gradients.push_back(reinterpret_cast<int64_t>(gradient.data_ptr()));
    }
  } catch (const std::exception&) {
    PyErr_Clear();
    Py_RETURN_NONE;
  }
  PyObject* missing = PyTuple_New(static_cast<Py_ssize_t>(without.size()));
  for (size_t place = 0; missing && place < without.size(); place++)
    PyTuple_SET_ITEM(missing, place, PyLong_FromSsize_t(without[place]));
  return Py_BuildValue("NNNN", missing, bytes(kinds.data(), kinds.size()), bytes(weights.data(), 8 * weights.size()),
                       bytes(gradients.data(), 8 * gradients.size()));
}

// The rest say True where all is known to be as it was; False is to look closely.
// same(old, new) -> whether two lists hold the same objects.
static PyObject* same(PyObject*, PyObject* args) {
  PyObject *old, *now;
  if (!PyArg_ParseTuple(args, "OO", &old, &now)) return nullptr;
  bool equal = PyList_CheckExact(old) && PyList_CheckExact(now) && PyList_GET_SIZE(old) == PyList_GET_SIZE(now);
  for (Py_ssize_t place = 0; equal && place < PyList_GET_SIZE(old); place++)
    equal = PyList_GET_ITEM(old, place) == PyList_GET_ITEM(now, place);
  return PyBool_FromLong(equal);
}

// holds(dict, values) -> whether these objects are its values, in this order.
static PyObject* holds(PyObject*, PyObject* args) {
  PyObject *from, *values, *key, *value;
  if (!PyArg_ParseTuple(args, "OO!", &from, &PyList_Type, &values)) return nullptr;
  Py_ssize_t at = 0, place = 0, end = PyList_GET_SIZE(values);
  bool equal = PyDict_Check(from) && PyDict_GET_SIZE(from) == end;
  for (; equal && PyDict_Next(from, &at, &key, &value); place++)
    equal = place < end && PyList_GET_ITEM(values, place) == value;
  return PyBool_FromLong(equal);
}

// Some places in memory are asked for before they are read: one wait for many.
constexpr Py_ssize_t SPAN = 32;
static void ask(const void* place, int lines = 1) {
  for (int line = 0; line < lines; line++) __builtin_prefetch(static_cast<const char*>(place) + 64 * line);
}

// named(dicts, names, values) -> whether each dict has these names and no others, in this order, of these values, which
// are in one list for all dicts.
static PyObject* named(PyObject*, PyObject* args) {
  PyObject *dicts, *names, *values, *key, *value;
  if (!PyArg_ParseTuple(args, "O!O!O!", &PyList_Type, &dicts, &PyTuple_Type, &names, &PyList_Type, &values))
    return nullptr;
  const Py_ssize_t number = PyTuple_GET_SIZE(names);
  bool equal = PyList_GET_SIZE(values) == number * PyList_GET_SIZE(dicts);
  const Py_ssize_t all = PyList_GET_SIZE(dicts);
  for (Py_ssize_t place = 0, start = 0; equal && place < all; place++, start += number) {
    const Py_ssize_t end = place % SPAN == 0 ? std::min(place + SPAN, all) : place;
    for (Py_ssize_t next = place; next < end; next++) ask(PyList_GET_ITEM(dicts, next));
    for (Py_ssize_t next = place; next < end; next++)
      if (PyDict_CheckExact(PyList_GET_ITEM(dicts, next)))
        ask(reinterpret_cast<PyDictObject*>(PyList_GET_ITEM(dicts, next))->ma_keys, 3);
    PyObject* from = PyList_GET_ITEM(dicts, place);
    equal = PyDict_CheckExact(from) && PyDict_GET_SIZE(from) == number;
    for (Py_ssize_t at = 0, entry = 0; equal && entry < number; entry++)
      equal = PyDict_Next(from, &at, &key, &value) && key == PyTuple_GET_ITEM(names, entry) &&
              value == PyList_GET_ITEM(values, start + entry);
  }
  return PyBool_FromLong(equal);
}

static PyMethodDef functions[] = {
    {"look", look, METH_O, ""}, {"same", same, METH_VARARGS, ""}, {"holds", holds, METH_VARARGS, ""},
    {"named", named, METH_VARARGS, ""}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "normc_host", "", -1, functions};
PyMODINIT_FUNC PyInit_normc_host() { return PyModule_Create(&module); }
"""


Addresses = list[int] | bytes  # 8 bytes each
Looked = tuple[tuple[int, ...], bytes | None, Addresses | None, Addresses]


class Loops(Protocol):
    """What the compiled module has. Where it says None or False, Python looks closely."""

    def look(self, parameters: list[Tensor], /) -> Looked | None:
        """The places of parameters without a gradient; of the others' gradients a byte each (dtype, whether they are
        contiguous), then the addresses of weights and of gradients.
        """

    def same(self, old: Any, new: Any, /) -> bool:
        """Whether two lists hold the same objects."""

    def holds(self, mapping: Any, values: list[Any], /) -> bool:
        """Whether a dict's values are these objects, in this order."""

    def named(self, dicts: list[Any], names: tuple[str, ...], values: list[Any], /) -> bool:
        """Whether all dicts have these names, in this order, and one after another these objects as values."""


def cache() -> Path:
    """The folder of compiled loops: that of torch's own extensions."""
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(given) if given else Path(user) / "torch_extensions") / _MODULE


def compiled() -> Loops:
    """The loops, compiled unless they are in the cache: about 15 s of one core.

    OSError, RuntimeError, ImportError or SubprocessError where that doesn't work.
    """
    root = Path(torch.__file__).parent
    include = (root / "include", root / "include/torch/csrc/api/include", sysconfig.get_paths()["include"])
    abi = int(torch.compiled_with_cxx11_abi())
    command = [*shlex.split(os.environ.get("CXX") or "c++"), "-O2", "-std=c++20", "-fPIC", "-shared", "-w"]
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={abi}", *(f"-isystem{folder}" for folder in include)]
    after = [f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch_python"]
    versions = (torch.__version__, torch.version.git_version, EXTENSION_SUFFIXES[0], *command, *after, _LOOPS)
    key = hashlib.sha256("\0".join(map(str, versions)).encode()).hexdigest()[:24]
    library = cache() / f"{key}{EXTENSION_SUFFIXES[0]}"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        _build([*command, "-xc++", "-", "-xnone", *after], library)
    spec = spec_from_file_location(_MODULE, library, loader=ExtensionFileLoader(_MODULE, str(library)))
    assert spec is not None and spec.loader is not None
    loops: Any = module_from_spec(spec)
    spec.loader.exec_module(loops)
    return loops  # type: ignore[no-any-return]  # a module has no type of its own


def _build(command: list[str], library: Path) -> None:
    """Compile to a name of its own, then rename: other processes may do the same. What waits for the compiler outlives
    this process, so that a short one leaves its work to the next.
    """
    draft = f"{library}.{uuid4().hex}"
    script = 'draft=$1; library=$2; shift 2; nice "$@" -o "$draft" && mv -f "$draft" "$library" || rm -f "$draft"'
    subprocess.run(
        ["/bin/sh", "-c", script, "sh", draft, str(library), *command],
        input=_LOOPS,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=_SECONDS,
        start_new_session=True,
        check=True,
    )


class Background:
    """The loops, as soon as they are there: `loops` is None before, and for ever where they can't be compiled."""

    def __init__(self, wanted: bool = True) -> None:
        self.loops: Loops | None = None
        self._maker = threading.Thread(target=self._make, name=_MODULE, daemon=True)
        if wanted and os.name == "posix" and os.environ.get("NORMC_NATIVE", "1") != "0":
            self._maker.start()

    def wait(self) -> None:
        """Until the loops are there, or can't be."""
        if self._maker.ident is not None:
            self._maker.join()

    def _make(self) -> None:
        try:
            self.loops = compiled()
        except (OSError, RuntimeError, ImportError, ValueError, subprocess.SubprocessError):
            return  # nothing is lost but time


@lru_cache(maxsize=2)
def background(wanted: bool) -> Background:
    """The same for all optimizers of a process."""
    return Background(wanted)
