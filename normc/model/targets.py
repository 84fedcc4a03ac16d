"""From what a command line says to a model: `hf:gpt2`, `timm:resnet50`, `package.module:factory`, `file.py:factory`.

Models of transformers and timm are built without weights: any size fits, none are made or fetched.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

from torch import nn

from normc.arguments import shown
from normc.errors import NormcError
from normc.model.weightless import without_weights

# Heads in the order in which they are tried on a configuration that names no architecture.
_HEADS = (
    "CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_CLASSIFICATION", "IMAGE_TEXT_TO_TEXT", "SPEECH_SEQ_2_SEQ",
    "CTC", "AUDIO_CLASSIFICATION", "OBJECT_DETECTION", "SEMANTIC_SEGMENTATION", "PRETRAINING",
)  # fmt: skip
# What the code of a library or of a user raises where its installation is broken, or its settings make no sense.
_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError, NameError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip
_DEBUG = "NORMC_DEBUG=1 shows the traceback"


class Target(NamedTuple):
    """A model, and inputs for its forward if the factory gave any."""

    model: nn.Module
    example_inputs: Any


def load_target(text: str, settings: Mapping[str, Any] | None = None, weights: bool = False) -> Target:
    """The model that `text` names; `settings` are fields of its configuration, or arguments of its factory.

    `weights`: give models of transformers and timm their random initial weights, instead of none.

    NormcError for a target that doesn't exist, with what to write instead.
    """
    settings = settings or {}
    if text.startswith("hf:"):
        return Target(_transformers_model(text.removeprefix("hf:"), settings, weights), None)
    if text.startswith("timm:"):
        return Target(_timm_model(text.removeprefix("timm:"), settings, weights), None)
    place, colon, factory = text.rpartition(":")
    if not colon or not place or not factory:
        raise NormcError(
            f"{text!r} is no target", "write hf:gpt2, timm:resnet50, package.module:factory or path/to/file.py:factory"
        )
    module = _file(Path(place)) if place.endswith(".py") else _module(place)
    return _made(text, _factory(module, place, factory), settings)


@contextmanager
def _explained(what: str, fix: str, kinds: tuple[type[Exception], ...] = _FAILURES) -> Iterator[None]:
    """Turn what the code inside raises into one NormcError that says `what` failed. Its own pass."""
    try:
        yield
    except kinds as problem:
        lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
        told = ": ".join([type(problem).__name__, *lines[:1]])
        raise NormcError(f"{what}: {told}", f"{fix}; {_DEBUG}") from problem


def _library(name: str) -> ModuleType:
    try:
        found = importlib.util.find_spec(name)
    except ValueError:  # imported by hand
        found = sys.modules[name].__spec__
    if found is None and name not in sys.modules:
        raise NormcError(f"{name} isn't installed", f"pip install {name}")
    with _explained(f"{name} is installed, but can't be imported", _reinstall(name)):
        return importlib.import_module(name)


def _reinstall(name: str) -> str:
    return f"install versions that fit together: pip install --upgrade torch torchvision {name}"


def _transformers_model(name: str, settings: Mapping[str, Any], weights: bool) -> nn.Module:
    transformers = _library("transformers")
    # Its parts are imported as they are first used, and with them torchvision and others.
    with _explained(f"transformers is installed, but can't make hf:{name}", _reinstall("transformers")):
        config = _config(transformers, name, settings)
        cls = _model_class(transformers, config)
    with _explained(f"hf:{name} can't be built", "mend its settings (--set), or install what it asks for"):
        return _module_of(f"hf:{name}", _built(lambda: cls(config), weights))


def _module_of(text: str, made: object) -> nn.Module:
    if not isinstance(made, nn.Module):
        raise NormcError(
            f"{text} returned {type(made).__name__}, which is no torch.nn.Module",
            "return a model, or (model, example_inputs)",
        )
    return made


def _config(transformers: ModuleType, name: str, settings: Mapping[str, Any]) -> Any:
    """The configuration of a model type, a local folder or config.json, else of a model of the hub."""
    hub_errors = importlib.import_module("huggingface_hub.errors")
    known = transformers.CONFIG_MAPPING
    try:
        if name in known and not (Path(name) / "config.json").is_file():
            blank = known[name]()
            _check_settings(name, blank, settings)
            return known[name](**settings) if settings else blank
        plain, _ = transformers.PretrainedConfig.get_config_dict(name)
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        _check_settings(name, config, settings)
        # Built again rather than changed: a field may have been derived from another one.
        return type(config).from_dict({**plain, **settings}) if settings else config
    except hub_errors.StrictDataclassError as wrong:
        raise NormcError(
            f"hf:{name} refuses its settings: {str(wrong).splitlines()[-1].strip()}", "mend --set"
        ) from None
    except (OSError, ValueError) as problem:
        near = difflib.get_close_matches(name, list(known), n=3)
        guess = f"did you mean {' or '.join(f'hf:{other}' for other in near)}? " if near else ""
        raise NormcError(
            f"hf:{name} is no model type of transformers, no folder or config.json, and the hub was no help: "
            f"{(str(problem).splitlines() or [''])[0]}",
            f"{guess}give a model type (hf:gpt2, hf:llama), a folder with a config.json, or a model's full name",
        ) from None


def _check_settings(name: str, config: Any, settings: Mapping[str, Any]) -> None:
    known = set(config.to_dict()) | set(getattr(config, "attribute_map", {}))
    for key in settings:
        if key not in known:
            raise NormcError(
                f"the configuration of hf:{name} has no {key!r}", _nearest(key, known, "see its config class")
            )


def _nearest(word: str, known: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(word, [name for name in known if not name.startswith("_")], n=3)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else otherwise


def _model_class(transformers: ModuleType, config: Any) -> Callable[[Any], nn.Module]:
    """The architecture that the configuration names, else the first head that knows it."""
    for architecture in config.architectures or ():
        found = getattr(transformers, architecture, None) if isinstance(architecture, str) else None
        if isinstance(found, type):  # a file names it, and it is called
            return cast("Callable[[Any], nn.Module]", found)
    heads = list(_HEADS)
    if getattr(config, "is_encoder_decoder", False):
        heads.insert(0, "SEQ_TO_SEQ_CAUSAL_LM")
    # An encoder such as BERT has a causal head too, for use as a decoder.
    elif not getattr(config, "is_decoder", False) and type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING:
        heads.insert(0, "MASKED_LM")
    mappings = [getattr(transformers, f"MODEL_FOR_{head}_MAPPING", {}) for head in heads] + [transformers.MODEL_MAPPING]
    for mapping in mappings:
        if type(config) in mapping:
            entry = mapping[type(config)]
            return cast("Callable[[Any], nn.Module]", entry[0] if isinstance(entry, tuple) else entry)
    raise NormcError(
        f"no model class of transformers takes a {type(config).__name__}", "write a factory: path/to/file.py:factory"
    )


def _timm_model(name: str, settings: Mapping[str, Any], weights: bool) -> nn.Module:
    timm = _library("timm")
    if not timm.is_model(name):
        raise NormcError(f"timm has no model {name!r}", _nearest(name, timm.list_models(), "see timm.list_models()"))
    with _explained(f"timm:{name} can't be built", "mend its settings (--set)"):
        return _built(lambda: timm.create_model(name, pretrained=False, **settings), weights)


def _built(build: Callable[[], nn.Module], weights: bool) -> nn.Module:
    return build() if weights else without_weights(build)


def _file(path: Path) -> ModuleType:
    """The module in a file, which may import what lies beside it."""
    if not os.path.isfile(path):  # noqa: PTH113  # Path.is_file raises for names that no file can have
        raise NormcError(
            f"there is no file {shown(str(path))}", "give the path of a Python file, a colon, and a function in it"
        )
    name = f"normc_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    with _explained(f"{path} can't be imported", "run it with python to see where"):
        spec.loader.exec_module(module)
    return module


def _module(name: str) -> ModuleType:
    """A module by its dotted name, found from the working directory too."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    with _explained(f"the module {shown(name)} can't be imported", "install it, or run normc where python finds it"):
        return importlib.import_module(name)


def _factory(module: ModuleType, place: str, name: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        problem = f"{place} has no {name!r}" if found is None else f"{name!r} in {place} can't be called"
        raise NormcError(problem, _nearest(name, names, f"it has: {', '.join(names[:12]) or 'no functions'}"))
    factory: Callable[..., Any] = found
    return factory


def _made(text: str, factory: Callable[..., Any], settings: Mapping[str, Any]) -> Target:
    """What a factory makes: a model, or a pair of a model and its inputs."""
    try:
        with suppress(ValueError):  # some built-in types have no signature to hold the settings against
            inspect.signature(factory).bind(**settings)
    except TypeError as problem:
        raise NormcError(f"{text} can't be called: {problem}", "give its arguments with --set name=value") from None
    with _explained(f"{text} raised", "mend the factory, or its arguments (--set name=value)"):
        made = factory(**settings)
    model, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    return Target(_module_of(text, model), inputs)


def read_setting(text: str) -> tuple[str, Any]:
    """`hidden_size=8192` as a name and a value: JSON where it is JSON, else text. NormcError without name or `=`."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise NormcError(f"{text!r} sets nothing", "write name=value")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, {"True": True, "False": False, "None": None}.get(value, value)


def read_tare(text: str) -> tuple[str, float]:
    """`GLOB=MASS` as the two. NormcError for anything else."""
    pattern, equals, value = text.rpartition("=")
    try:
        mass = float(value)
    except ValueError:
        equals = ""
    if not (equals and pattern):
        raise NormcError(f"{text!r} is no tare", "write 'GLOB=1.5'")
    return pattern, mass
