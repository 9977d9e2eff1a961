"""SQL is what PostgreSQL 15 reads, too: the tests run on the wheel's, which is newer and forgives more."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "judgify_engine").rglob("*.py"), *(ROOT / "sql").rglob("*.sql"), *(ROOT / "bench").rglob("*.py")])
OPENS = re.compile(r"\b(?:FROM|JOIN|LATERAL)\s*\(\s*(?=SELECT\b|VALUES\b|WITH\b)")
NAMED = re.compile(
    r"\s*(?:AS\s+)?(?!(?:WHERE|GROUP|ORDER|ON|JOIN|LEFT|CROSS|INNER|LIMIT|UNION|USING|AS)\b)[a-z_]\w*", re.IGNORECASE
)


def nameless(text: str) -> list[str]:
    """Subqueries in FROM without a name, which PostgreSQL takes from version 16 on: the lines in which they end."""
    found = []
    for opening in OPENS.finditer(text):
        depth, at = 1, opening.end()
        while depth and at < len(text):
            depth += {"(": 1, ")": -1}.get(text[at], 0)
            at += 1
        if not NAMED.match(text, at):
            found.append(text[:at].rsplit("\n", 1)[-1].strip())
    return found


def test_subqueries_have_names() -> None:
    found = {str(path.relative_to(ROOT)): nameless(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_one_without_a_name_is_found() -> None:
    assert nameless("SELECT x FROM (SELECT (1) AS x) WHERE x > 0")
    assert nameless("FROM a CROSS JOIN LATERAL (\n SELECT f(1))\n")
    assert not nameless("FROM (SELECT (1) AS x) AS y, LATERAL (VALUES (1)) z WHERE x > 0")
