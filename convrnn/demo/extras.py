"""The optional packages the demonstrations stand on: drawing, progress bars and the data inside wheels."""

from __future__ import annotations

import importlib.util
from pathlib import Path

__all__ = ["MissingPackage", "package_folder", "require"]


class MissingPackage(Exception):
    """A package of the extra ``convrnn[demo]`` is not installed; the message says how to install it."""


def require(*names: str) -> None:
    """Raises `MissingPackage` for the packages that cannot be found. Imports none of them."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackage(f'{", ".join(missing)} not found; install with: pip install "convrnn[demo]"')


def package_folder(name: str) -> Path:
    """Where an installed package lies; its code is not run, so that what it depends on does not matter."""
    require(name)
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage(f"{name} is not a package")
    return Path(spec.submodule_search_locations[0])
