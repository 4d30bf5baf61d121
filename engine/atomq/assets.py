"""Where the Lua scripts and the JSON Schemas are: in the wheel, else in the checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent.parent


def lua_dir() -> Path:
    """Return the directory with the verbs (`*.lua`) and their modules (`lib/*.lua`)."""
    return _find("lua")


def schemas_dir() -> Path:
    """Return the directory with the JSON Schemas (`*.schema.json`)."""
    return _find("schemas")


def _find(name: str) -> Path:
    """Prefer the wheel's own copy: what was installed is what runs, wherever that is."""
    packaged = _PACKAGE / name
    if packaged.is_dir():
        return packaged
    checkout = _CHECKOUT / name
    if checkout.is_dir():
        return checkout
    raise FileNotFoundError(
        f"atomq is not whole: {name}/ is neither in {_PACKAGE} nor in {_CHECKOUT}; install it again"
    )
