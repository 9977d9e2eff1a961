"""Where the files that are not Python live: beside the package in a checkout, inside it when installed from a wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def folder(name: str) -> Path:
    """The folder `sql`, `profiles` or `bench`."""
    packaged = _PACKAGE / "_files" / name
    return packaged if packaged.is_dir() else _PACKAGE.parent / name


def static() -> Path:
    """The built page; absent in a checkout that has not been set up."""
    return _PACKAGE / "live" / "static"
