"""Rules that hold in all of the source: docstrings, owned tasks, one reader of the environment, no machine's traces."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from source_tree import ROOT, modules, name_of, project_files, tree_of

ALL = modules("judgify_engine", "bench")
IDS = [name_of(path) for path in ALL]

# Who may read the environment, and which variables of it. All else comes through `config`.
ENVIRONMENT = {
    "judgify_engine.config": None,
    "judgify_engine.commands.feed": {"JUDGIFY_URL", "JUDGIFY_TOKEN"},
    "bench.load": {"JUDGIFY_URL", "JUDGIFY_TOKEN", "JUDGIFY_DATABASE_URL"},
    "bench.peers.fastapi_peer": {"PEER_DSN"},
    # These hand their own environment on to a process that they start.
    "bench.harness": {"PYTHONPATH"},
    "bench.compare": set(),
}


@pytest.mark.parametrize("path", ALL, ids=IDS)
def test_every_module_opens_with_a_docstring(path: Path) -> None:
    tree = tree_of(path)
    if tree.body:
        docstring = ast.get_docstring(tree)
        assert docstring, f"{name_of(path)} has none"
        assert docstring.splitlines()[0].strip().endswith((".", "…", ":", ";", ",")) or len(docstring.splitlines()) > 1


def task_groups(tree: ast.Module) -> set[str]:
    """The names of task groups, opened here or handed in: what is made in them has an owner."""
    handed_in = {
        node.arg for node in ast.walk(tree)
        if isinstance(node, ast.arg) and node.annotation is not None and ast.unparse(node.annotation) == "asyncio.TaskGroup"
    }  # fmt: skip
    return handed_in | {
        item.optional_vars.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if isinstance(item.optional_vars, ast.Name) and "TaskGroup" in ast.unparse(item.context_expr)
    }


def dropped_tasks(path: Path) -> Iterator[str]:
    tree = tree_of(path)
    groups = task_groups(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
            called = node.value.func
            if (
                called.attr in ("create_task", "ensure_future", "run_coroutine_threadsafe")
                and ast.unparse(called.value) not in groups
            ):
                yield f"{name_of(path)}:{node.lineno}: {ast.unparse(node)[:80]}"


@pytest.mark.parametrize("path", ALL, ids=IDS)
def test_every_task_has_an_owner(path: Path) -> None:
    """The event loop keeps only a weak reference: a task whose result is dropped may vanish, and its error is never seen."""
    assert list(dropped_tasks(path)) == []


@pytest.mark.parametrize("path", modules(), ids=[name_of(path) for path in modules()])
def test_every_task_of_the_engine_has_a_name(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "create_task":
            assert any(keyword.arg == "name" for keyword in node.keywords), f"{name_of(path)}:{node.lineno}"


def environment_reads(path: Path) -> Iterator[tuple[int, str | None]]:
    """Where `os.environ` or `os.getenv` stands, and the variable that is read, where it is written out."""
    parents = {child: node for node in ast.walk(tree_of(path)) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree_of(path)):
        if (
            isinstance(node, ast.Attribute)
            and node.attr in ("environ", "getenv", "environb")
            and ast.unparse(node.value) == "os"
        ):
            around = parents[node]
            if isinstance(around, ast.Attribute) and around.attr in ("get", "pop", "setdefault"):
                around = parents[around]
            name = None
            if isinstance(around, ast.Call) and around.args and isinstance(around.args[0], ast.Constant):
                name = around.args[0].value
            elif isinstance(around, ast.Subscript) and isinstance(around.slice, ast.Constant):
                name = around.slice.value
            yield node.lineno, name


@pytest.mark.parametrize("path", ALL, ids=IDS)
def test_the_environment_is_read_by_config_only(path: Path) -> None:
    found = list(environment_reads(path))
    allowed = ENVIRONMENT.get(name_of(path), set())
    if found:
        assert name_of(path) in ENVIRONMENT, f"{name_of(path)}:{found[0][0]}"
    for line, variable in found:
        if allowed is not None and variable is not None:
            assert variable in allowed, f"{name_of(path)}:{line}: {variable}"


@pytest.mark.parametrize("path", modules(), ids=[name_of(path) for path in modules()])
def test_nothing_is_printed_but_by_commands(path: Path) -> None:
    if name_of(path).startswith(
        ("judgify_engine.commands.", "judgify_engine.cli", "judgify_engine.serving", "judgify_engine.__main__")
    ):
        return
    for node in ast.walk(tree_of(path)):
        assert not (isinstance(node, ast.Call) and ast.unparse(node.func) == "print"), f"{name_of(path)}:{node.lineno}"


@pytest.mark.parametrize("path", modules(), ids=[name_of(path) for path in modules()])
def test_log_events_have_constant_text(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and re.fullmatch(
            r"log\.(debug|info|warning|error|exception|critical)", ast.unparse(node.func)
        ):
            assert isinstance(node.args[0], ast.Constant), f"{name_of(path)}:{node.lineno}"
            assert len(node.args) == 1, f"{name_of(path)}:{node.lineno}: fields go into extra"


# Traces of a machine --------------------------------------------------------------------------------------------------

# Written in pieces, so that this file does not hold what it looks for.
TRACES = re.compile(
    "|".join(
        [
            r"(?<![\w.])/(?:" + "work|root|home|Users" + r")/[\w.-]+",
            r"(?<![\w.])/tmp/" + r"(?:lab|unitlab|bash_jobs)",
            r"[A-Z]:\\\\" + "Users",
            "file" + ":///",
            r"https?://[\w.:-]*/(?:" + "simple" + r"|pypi/simple|artifactory|nexus)\b",
            r"--(?:extra-)?index" + "-url",
            r'"resolved"' + r":\s*\"http",
            "regis" + "try\\.npmjs",
            "files\\.python" + "hosted",
        ]
    )
)
TEXT = {
    ".py",
    ".toml",
    ".md",
    ".sql",
    ".txt",
    ".json",
    ".ts",
    ".js",
    ".mjs",
    ".css",
    ".html",
    ".svg",
    ".yml",
    ".yaml",
    ".cfg",
    ".sh",
    ".lua",
    "",
}


def test_no_file_holds_a_path_of_a_machine_or_the_host_of_a_registry() -> None:
    try:
        files = project_files()
    except (OSError, Exception) as error:  # an unpacked archive has no git
        pytest.skip(f"not a checkout: {error}")
    found = []
    for path in files:
        if path.suffix not in TEXT and not path.name.startswith("."):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            match = TRACES.search(line)
            if match:
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert found == []


# Migrations -----------------------------------------------------------------------------------------------------------


def test_migrations_are_numbered_without_gaps() -> None:
    files = sorted(path.name for path in (ROOT / "sql").glob("*.sql"))
    assert files
    for number, name in enumerate(files, 1):
        assert re.fullmatch(rf"{number:04}_[a-z0-9_]+\.sql", name), f"expected {number:04}_….sql, found {name}"
    assert [path.name for path in (ROOT / "sql").iterdir() if path.suffix != ".sql" and path.is_file()] == []


# Metrics --------------------------------------------------------------------------------------------------------------

LABELS = {"stage", "partition", "outcome", "code", "route", "status", "version", "kind"}
NOT_BASE_UNITS = {"ms", "millis", "milliseconds", "us", "microseconds", "minutes", "hours", "kb", "mb", "kib", "mib", "percent"}


def metric_names() -> set[str]:
    """Every name of a metric that the source writes."""
    found = set()
    for path in modules():
        if name_of(path) in ("judgify_engine.observe.metrics", "judgify_engine.worker"):
            for node in ast.walk(tree_of(path)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.match("judgify_[a-z]", node.value):
                    found.add(node.value)
    return found


def test_metrics_are_named_judgify_what_unit() -> None:
    names = metric_names()
    assert len(names) > 15
    for name in names:
        assert re.fullmatch(r"judgify(_[a-z]+)+", name), name
        assert not NOT_BASE_UNITS & set(name.split("_")), f"{name}: base units only"
        assert not name.endswith("_total"), f"{name}: the exposition adds it to counters"


def test_what_is_exported_has_units_and_small_sets_of_labels() -> None:
    from judgify_engine.observe.metrics import Metrics

    metrics = Metrics()
    metrics.slot_held = 1
    metrics.judgments["completed"] = metrics.requests["/health", 200] = 1
    for family in metrics.collect():
        assert family.documentation.endswith("."), family.name
        assert family.name.startswith(("judgify_", "process_"))
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_rows", "_bytes")), family.name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} <= LABELS, sample
            if family.type == "counter":
                assert sample.name.endswith("_total")
