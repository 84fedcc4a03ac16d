"""What is packed, what is promised: the wheel, the list of packages, the README's commands, the size of modules."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

from tests.house.tree import ROOT, modules, packages

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FORBIDDEN = {"utils", "util", "helpers", "helper", "common", "misc"}


def test_the_list_of_packages_is_the_tree() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages()


def test_passes_and_backends_are_relative_links() -> None:
    for name in ("passes", "backends"):
        link = ROOT / "normc" / name
        assert link.is_symlink()
        assert link.readlink() == Path("..") / name


def test_modules_are_short_and_named_for_what_they_are() -> None:
    for module, file in modules().items():
        assert len(file.read_text().splitlines()) < 300, f"{module} is too long: split it"
        assert not FORBIDDEN & set(module.split(".")), f"{module}: name it for what it does"


def test_constraints_satisfy_what_is_declared() -> None:
    from packaging.requirements import Requirement

    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "constraints.txt").read_text(), re.M))
    pinned = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    extras = PROJECT["project"]["optional-dependencies"].values()
    for line in [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]:
        wanted = Requirement(line)
        if wanted.name == "normc":
            continue
        assert wanted.name in pinned, f"{wanted.name} has no pin in constraints.txt"
        assert wanted.specifier.contains(pinned[wanted.name]), f"{line}, but {pinned[wanted.name]} is pinned"


def test_the_readmes_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"^(?:\$ )?make ([a-z]+)", readme, re.M)) | set(re.findall(r"`make ([a-z]+)`", readme))
    assert {"demo", "test"} <= named <= targets
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", readme):
        assert (ROOT / path).exists(), f"README.md links to {path}, which isn't there"


def test_the_wheel_holds_every_module_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    source = tmp_path / "source"
    source.mkdir()
    kept = ["pyproject.toml", "README.md", "LICENSE", "normc", "passes", "backends"]
    subprocess.run(["cp", "-a", *(str(ROOT / name) for name in kept), str(source)], check=True)
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("normc-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = Counter(name for name in archive.namelist() if name.endswith(".py"))
        assert "normc/py.typed" in archive.namelist()
    assert max(files.values()) == 1
    expected = {
        f"{name.replace('.', '/')}/__init__.py" if name in packages() else f"{name.replace('.', '/')}.py"
        for name in modules()
    }
    assert set(files) == expected
