"""Every code that an answer or an exit may carry is unique and listed in ERRORS.md, with what to do about it."""

import importlib
import re

from source_tree import PACKAGE, modules, name_of

from judgify_engine.errors import JudgifyError

NO_ANSWER = "\N{EN DASH}"
ROW = re.compile(rf"^\| `(?P<code>[a-z_]+)` \| (?P<status>\d{{3}}|{NO_ANSWER}) \| (?P<title>[^|]+) \| (?P<todo>[^|]+) \|$")


def every_error() -> list[type[JudgifyError]]:
    """All classes, of all modules."""
    for path in modules():
        if path.name != "__main__.py":
            importlib.import_module(name_of(path))

    def below(kind: type[JudgifyError]) -> list[type[JudgifyError]]:
        return [kind, *(found for sub in kind.__subclasses__() for found in below(sub))]

    return [kind for kind in below(JudgifyError) if kind.__module__.startswith("judgify_engine")]


def listed() -> dict[str, re.Match[str]]:
    lines = (PACKAGE / "ERRORS.md").read_text(encoding="utf-8").splitlines()
    rows = [match for line in lines if (match := ROW.match(line))]
    assert len(rows) == len({row["code"] for row in rows}), "a code is listed twice"
    assert len(rows) == sum(line.startswith("| `") for line in lines), "a row is not of the form of the others"
    return {row["code"]: row for row in rows}


def test_codes_are_unique() -> None:
    codes: dict[str, str] = {}
    for kind in every_error():
        assert re.fullmatch("[a-z]+(_[a-z]+)*", kind.code)
        assert kind.code not in codes, f"{kind.__qualname__} and {codes[kind.code]} share {kind.code}"
        codes[kind.code] = kind.__qualname__


def test_every_error_says_its_own_code_and_title() -> None:
    for kind in every_error():
        assert "code" in vars(kind), f"{kind.__qualname__} has the code of its base"
        assert "title" in vars(kind), kind.__qualname__


def test_errors_md_lists_every_code_and_no_other() -> None:
    assert set(listed()) == {kind.code for kind in every_error()}


def test_errors_md_tells_the_status_and_the_title() -> None:
    rows = listed()
    for kind in every_error():
        row = rows[kind.code]
        if row["status"] != NO_ANSWER:  # that one ends the process and is never an answer
            assert int(row["status"]) == kind.status, kind.code
        assert row["title"].strip() == kind.title, kind.code


def test_the_page_has_words_in_each_language_for_every_code_that_may_be_answered() -> None:
    english, korean = (PACKAGE / "live/web/src/i18n/problems.ts").read_text(encoding="utf-8").split("export const ko", 1)
    answered = {code for code, row in listed().items() if row["status"] != NO_ANSWER}
    for words in (english, korean):
        assert set(re.findall(r'^  "problem\.([a-z_]+)": ".+",$', words, re.MULTILINE)) == answered


def test_errors_md_says_what_to_do() -> None:
    for code, row in listed().items():
        assert len(row["todo"].split()) >= 4, code
