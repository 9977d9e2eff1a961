"""Rows of a file become exact requests, bad lines are named, and the tally accounts for each row."""

import argparse
import io
import json
from pathlib import Path

import pytest

from judgify_engine.commands import feed, rows
from judgify_engine.commands.feed_report import Tally
from judgify_engine.commands.rows import (
    BadRow,
    LineReader,
    Row,
    WrongHeader,
    encode_cell,
    read_csv,
    read_ndjson,
    rfc3339,
)


def csv_rows(data: bytes) -> list[Row | BadRow]:
    return list(read_csv(LineReader(io.BytesIO(data)), "w"))


def ndjson_rows(data: bytes, workflow_id: str | None = None) -> list[Row | BadRow]:
    return list(read_ndjson(LineReader(io.BytesIO(data)), workflow_id))


def only(found: list[Row | BadRow]) -> Row | BadRow:
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("cell", "encoded"),
    [
        ("74.93588199999998", b"74.93588199999998"),
        ("73.96732207", b"73.96732207"),
        ("-0.0", b"-0.0"),
        ("1e400", b"1e400"),
        ("12345678901234567890123", b"12345678901234567890123"),
        ("1.50", b"1.50"),
        (" 7 ", b"7"),
        (".5", b"0.5"),
        ("-.5e3", b"-0.5e3"),
        ("true", b"true"),
        ("false", b"false"),
        ("True", b'"True"'),
        ("007", b'"007"'),
        ("+49", b'"+49"'),
        ("5.", b'"5."'),
        ("1_000", b'"1_000"'),
        ("NaN", b'"NaN"'),
        ("null", b'"null"'),
        ("\u0661", '"\u0661"'.encode()),
        (" a b ", b'" a b "'),
        ('say "hi"\n', b'"say \\"hi\\"\\n"'),
    ],
)
def test_cell_is_written_as_it_reads(cell: str, encoded: bytes) -> None:
    assert encode_cell(cell) == encoded


def test_csv_row_passes_literals_and_makes_the_timestamp_utc() -> None:
    row = only(csv_rows(b"timestamp,value\n2013-12-02 21:15:00,74.93588199999998\n"))
    assert row == Row(2, b'{"workflow_id":"w","input_data":{"value":74.93588199999998},"occurred_at":"2013-12-02T21:15:00Z"}')


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2013-12-02 21:15:00", "2013-12-02T21:15:00Z"),
        ("2013-12-02T21:15:00.123456", "2013-12-02T21:15:00.123456Z"),
        ("2013-12-02T21:15:00Z", "2013-12-02T21:15:00Z"),
        ("2013-12-02T21:15:00+05:30", "2013-12-02T21:15:00+05:30"),
        ("2013-12-02", "2013-12-02T00:00:00Z"),
    ],
)
def test_timestamp_without_a_zone_is_utc(text: str, written: str) -> None:
    assert rfc3339(text) == written


def test_empty_cell_is_left_out_and_other_columns_stay() -> None:
    row = only(csv_rows(b"a,timestamp,b,c\n,,x,true\n"))
    assert isinstance(row, Row)
    assert json.loads(row.body) == {"workflow_id": "w", "input_data": {"b": "x", "c": True}}


def test_quoted_cells_may_hold_commas_quotes_and_lines() -> None:
    row = only(csv_rows(b'a,b\r\n"x, ""y""\r\nz",1\r\n'))
    assert isinstance(row, Row)
    assert row.line == 3
    assert json.loads(row.body)["input_data"] == {"a": 'x, "y"\r\nz', "b": 1}


def test_byte_order_mark_is_no_part_of_the_first_name() -> None:
    row = only(csv_rows(b"\xef\xbb\xbfvalue\n1\n"))
    assert isinstance(row, Row)
    assert json.loads(row.body)["input_data"] == {"value": 1}


def test_bad_csv_lines_are_named_and_hide_no_others() -> None:
    found = csv_rows(b"timestamp,value\nsoon,1\n2013-12-02,2,3\n\n2013-12-02,\xff\n2013-12-02,5\n")
    assert [row.line for row in found] == [2, 3, 5, 6]
    assert [type(row) for row in found] == [BadRow, BadRow, BadRow, Row]
    reasons = [row.reason for row in found if isinstance(row, BadRow)]
    assert "timestamp" in reasons[0]
    assert "3 cells" in reasons[1]
    assert "UTF-8" in reasons[2]


def test_quote_that_is_never_closed_is_bounded_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_CELL_BYTES", 1000)
    found = csv_rows(b'a\n"' + b"x\n" * 2000)
    assert isinstance(found[0], BadRow)
    assert "from line 2 on" in found[0].reason
    assert len(found) > 900  # reading went on behind it


@pytest.mark.parametrize("head", [b"", b"\n1\n", b"a,\n1,2\n", b"a,a\n1,2\n", b"1,2.5\n3,4\n", b"\xff\n1\n"])
def test_header_that_names_no_columns_is_refused(head: bytes) -> None:
    with pytest.raises(WrongHeader):
        csv_rows(head)


def test_ndjson_line_that_names_its_workflow_passes_byte_for_byte() -> None:
    line = b'{ "workflow_id": "own", "input_data": {"v": 74.93588199999998, "w": 1E2, "v": "\\u0041"} }'
    assert ndjson_rows(line + b"\r\n", "other") == [Row(1, line)]


def test_ndjson_line_without_a_workflow_gets_the_given_one_and_keeps_its_literals() -> None:
    row = only(ndjson_rows(b'{"input_data": {"v": 74.93588199999998}, "workflow_id": null}', "given"))
    assert isinstance(row, Row)
    assert b"74.93588199999998" in row.body
    assert json.loads(row.body) == {"workflow_id": "given", "input_data": {"v": 74.93588199999998}}


def test_bad_ndjson_lines_are_named_and_hide_no_others() -> None:
    found = ndjson_rows(
        b'\xef\xbb\xbf{"workflow_id":"a"}\n\n{"a":\n[1]\n{"input_data":{}}\n{"workflow_id":7}\n{"workflow_id":"b"}'
    )
    assert [(row.line, type(row)) for row in found] == [
        (1, Row),
        (3, BadRow),
        (4, BadRow),
        (5, BadRow),
        (6, BadRow),
        (7, Row),
    ]


def test_ndjson_that_is_nested_without_end_is_a_bad_line() -> None:
    assert isinstance(only(ndjson_rows(b'{"input_data":' + b"[" * 100_000, "w")), BadRow)


def test_overlong_line_is_a_bad_line_and_the_next_one_is_read() -> None:
    lines = LineReader(io.BytesIO(b'{"workflow_id":"a","x":"' + b"y" * 100 + b'"}\n{"workflow_id":"b"}\n'), max_bytes=40)
    found = list(read_ndjson(lines, None))
    assert [type(row) for row in found] == [BadRow, Row]
    assert lines.bytes_read == 147
    lines = LineReader(io.BytesIO(b"value\n" + b"9" * 100 + b"\n5\n"), max_bytes=40)
    assert [type(row) for row in read_csv(lines, "w")] == [BadRow, Row]


def test_summary_says_what_came_of_every_row() -> None:
    tally = Tally()
    tally.read = 5
    tally.accept("ok", failed=False)
    tally.accept("", failed=True)
    tally.refuse(7, "422 invalid_field", "confidence\x1b[2J")
    tally.refuse(3, "422 invalid_field", "")
    assert "no loss: every row read was answered" in tally.summary()
    tally.lose(9)
    text = tally.summary()
    assert "LOST: 1 rows have no answer, line 9" in text
    assert "lines 3, 7" in text
    assert "\x1b" not in text
    assert not tally.is_perfect()


def run_feed(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    feed.add_arguments(parser)
    return feed.run(parser.parse_args(arguments))


def test_wrong_usage_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "readings.csv"
    file.write_text("a,a\n1,2\n")
    assert run_feed(str(tmp_path / "none.csv"), "--workflow", "w") == 2
    assert run_feed(str(file)) == 2
    assert run_feed(str(file), "--workflow", "w") == 2
    assert run_feed(str(tmp_path / "readings.txt"), "--workflow", "w") == 2
    assert run_feed("-", "--workflow", "w") == 2
    assert run_feed(str(file), "--workflow", "w", "--url", "ftp://nowhere") == 2
    assert run_feed(str(file), "--workflow", "w", "--token", "secret\nX: y") == 2
    assert "secret" not in capsys.readouterr().err
