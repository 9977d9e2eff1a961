"""Rows of a CSV or NDJSON file as request bodies of `POST /api/v1/judgments/execute`. Pure: bytes in, bytes out.

Numbers travel as they are written (74.93588199999998 stays that); nothing is clamped, rounded or re-quoted. A line that
cannot be a request becomes a `BadRow` with its line number, so that one bad line never hides another. Memory is
constant: a line is at most `MAX_LINE_BYTES`, and one row is held at a time. Sending is left to `feed`.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import BinaryIO, NamedTuple

import msgspec

from judgify_engine.units import MIB

MAX_LINE_BYTES = 16 * MIB
"""Longest line that is read as one; a longer one is a `BadRow`, its rest is skipped."""

MAX_CELL_BYTES = 1 * MIB
"""Longest CSV cell; bounds what a quote that is never closed can swallow."""

TIMESTAMP_COLUMN = "timestamp"
"""The CSV column that becomes `occurred_at`."""

_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NO_LEADING_ZERO = re.compile(r"(-?)(\.[0-9]+(?:[eE][+-]?[0-9]+)?)")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Row(NamedTuple):
    """One request, ready to be posted; `line` counts from 1 and is where the row ends."""

    line: int
    body: bytes


class BadRow(NamedTuple):
    """A line that cannot become a request, and why."""

    line: int
    reason: str


class WrongHeader(ValueError):
    """The first line of a CSV file cannot name columns; nothing was read beyond it."""


class LineReader:
    """Lines of a binary file, counted in lines and bytes while they are read.

    `bytes_read` may be read from another thread; it only grows. A line above `max_bytes` comes out cut
    there and without its line end; `overlong` is then its number, and its rest is skipped.
    """

    def __init__(self, file: BinaryIO, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self.lines = 0
        self.bytes_read = 0
        self.overlong = 0

    def __iter__(self) -> Iterator[bytes]:
        while line := self._file.readline(self._max_bytes):
            self.lines += 1
            self.bytes_read += len(line)
            if len(line) == self._max_bytes and not line.endswith(b"\n"):
                self.overlong = self.lines
                self._skip_rest()
            yield line

    def _skip_rest(self) -> None:
        while rest := self._file.readline(self._max_bytes):
            self.bytes_read += len(rest)
            if rest.endswith(b"\n"):
                return


class _Named(msgspec.Struct):
    """What is looked at in an NDJSON line; the rest of it is the server's to judge."""

    workflow_id: str | None = None


_named_decoder = msgspec.json.Decoder(_Named)
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_ndjson(lines: LineReader, workflow_id: str | None) -> Iterator[Row | BadRow]:
    """Turn each line into a request; `workflow_id` fills in where a line names none. Blank lines are skipped.

    A line that names its workflow is passed on byte for byte.
    """
    for line in lines:
        text = line.strip()
        if lines.lines == 1:
            text = text.removeprefix(b"\xef\xbb\xbf")
        if not text:
            continue
        if lines.overlong == lines.lines:
            yield BadRow(lines.lines, f"longer than {MAX_LINE_BYTES // MIB} MiB")
            continue
        try:
            if _named_decoder.decode(text).workflow_id is not None:
                yield Row(lines.lines, text)
                continue
            request = _object_decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            yield BadRow(lines.lines, f"not a JSON request: {error}")
            continue
        if workflow_id is None:
            yield BadRow(lines.lines, "names no workflow_id, and there is no --workflow")
            continue
        request["workflow_id"] = msgspec.Raw(msgspec.json.encode(workflow_id))
        yield Row(lines.lines, msgspec.json.encode(request))


def read_csv(lines: LineReader, workflow_id: str) -> Iterator[Row | BadRow]:
    """Turn each row into a request to `workflow_id`, its columns the fields of `input_data`.

    Reads and checks the header before it returns. Raises WrongHeader when that names no columns, one twice
    or one not at all.
    """
    csv.field_size_limit(MAX_CELL_BYTES)
    reader = csv.reader(_decoded(lines))
    names = _read_header(reader)
    prefix = b'{"workflow_id":' + msgspec.json.encode(workflow_id) + b',"input_data":{'
    return _csv_rows(lines, reader, names, prefix)


def _decoded(lines: Iterable[bytes]) -> Iterator[str]:
    """UTF-8 text; a byte that is none becomes a lone surrogate, which the row is then refused for."""
    for number, line in enumerate(lines):
        yield line.decode("utf-8-sig" if number == 0 else "utf-8", "surrogateescape")


def _read_header(reader: "Iterator[list[str]]") -> list[str]:
    try:
        names = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise WrongHeader(f"the first line is not CSV: {error}") from error
    if not names:
        raise WrongHeader("the first line is empty; it must name the columns")
    if any(_SURROGATE.search(name) for name in names):
        raise WrongHeader("the first line is not UTF-8")
    if "" in names:
        raise WrongHeader(f"column {names.index('') + 1} has no name in the first line")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise WrongHeader(f"the first line names a column twice: {', '.join(twice)}")
    if all(_JSON_NUMBER.fullmatch(name) for name in names):
        raise WrongHeader("the first line holds numbers; it must name the columns")
    return names


def _csv_rows(lines: LineReader, reader: "Iterator[list[str]]", names: list[str], prefix: bytes) -> Iterator[Row | BadRow]:
    keys = [msgspec.json.encode(name) + b":" for name in names]
    timestamp_at = names.index(TIMESTAMP_COLUMN) if TIMESTAMP_COLUMN in names else -1
    while True:
        before = lines.lines
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield BadRow(lines.lines, f"not CSV: {error}{_span(before + 1, lines.lines)}")
            continue
        if cells is None:
            return
        if not cells:
            continue
        if lines.overlong > before:
            yield BadRow(lines.lines, f"longer than {MAX_LINE_BYTES // MIB} MiB")
        elif len(cells) != len(names):
            counts = f"has {len(cells)} cells, the first line names {len(names)} columns"
            yield BadRow(lines.lines, counts + _span(before + 1, lines.lines))
        else:
            yield _csv_request(lines.lines, cells, keys, timestamp_at, prefix)


def _span(first: int, last: int) -> str:
    """Say that a row took several lines, which is what a quote that is never closed looks like."""
    return f" (one row from line {first} on: is a quote not closed?)" if last > first else ""


def _csv_request(line: int, cells: list[str], keys: list[bytes], timestamp_at: int, prefix: bytes) -> Row | BadRow:
    occurred_at = b""
    fields = []
    for column, cell in enumerate(cells):
        text = cell.strip()
        if not text:
            continue
        if _SURROGATE.search(text):
            return BadRow(line, f"column {column + 1} is not UTF-8")
        if column != timestamp_at:
            fields.append(keys[column] + encode_cell(cell))
            continue
        try:
            occurred_at = b',"occurred_at":"' + rfc3339(text).encode() + b'"'
        except ValueError:
            return BadRow(line, f"the timestamp is not an ISO 8601 time: {text[:40]!r}")
    return Row(line, prefix + b",".join(fields) + b"}" + occurred_at + b"}")


def encode_cell(cell: str) -> bytes:
    """Write one cell as JSON: a number as its own literal, `true` and `false` as booleans, the rest as a string.

    A number is what JSON can write as one; `.5` gets its zero. `007`, `+49`, `1,5` and `NaN` are strings.
    """
    text = cell.strip()
    if _JSON_NUMBER.fullmatch(text):
        return text.encode()
    if text in ("true", "false"):
        return text.encode()
    if match := _NO_LEADING_ZERO.fullmatch(text):
        return f"{match[1]}0{match[2]}".encode()
    return msgspec.json.encode(cell)


def rfc3339(text: str) -> str:
    """Write an ISO 8601 time as RFC 3339; without a zone it is UTC. Raises ValueError for what is no time."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.isoformat().replace("+00:00", "Z")
