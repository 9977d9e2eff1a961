"""The project's files as guards read them: tracked and new ones, and modules as syntax trees."""

import ast
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "judgify_engine"


def modules(*folders: str) -> list[Path]:
    """The Python files of the package (and of these folders of the project)."""
    found = [path for folder in (folders or ("judgify_engine",)) for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if not {"node_modules", "static", "_files"} & set(path.parts)]


def name_of(path: Path) -> str:
    """`judgify_engine/core/rules.py` as `judgify_engine.core.rules`."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def project_files() -> list[Path]:
    """What git tracks or would add. Raises FileNotFoundError or CalledProcessError outside a checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]
