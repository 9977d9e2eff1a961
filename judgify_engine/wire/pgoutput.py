"""The logical replication messages of `pgoutput`, protocol version 1, columns in binary. Pure.

Source: PostgreSQL documentation, "Logical Replication Message Formats". One call takes one whole message; one that is cut
anywhere, or holds anything else than the format says, raises Corrupt: a row is never half read. Types, origins and the logical
messages of others are passed over unread; one of ours, a mark, is a change of the table `MARK`, without rows.
"""

from collections.abc import Callable, Mapping
from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple

from judgify_engine.core.model import Change
from judgify_engine.errors import Corrupt
from judgify_engine.units import Position
from judgify_engine.wire.pgcopy import POSTGRES_EPOCH_US


class Begin(NamedTuple):
    """A transaction starts; all its changes carry its commit LSN."""

    commit_lsn: int


class Commit(NamedTuple):
    """A transaction ended at `commit_lsn`; the log after it starts at `end_lsn`, which is what one confirms."""

    commit_lsn: int
    end_lsn: int


class _Column(NamedTuple):
    name: str
    read: Callable[[bytes], Any] | None
    """None: nobody wants this column."""


class _Relation(NamedTuple):
    table: str
    columns: tuple[_Column, ...]


MARK = "judgify"
"""The prefix of our own logical messages."""
_MARK = b"M\x01"
UNCHANGED = object()
"""A large value that an update did not touch and the log therefore does not repeat; taken from the old row."""

_u16 = Struct(">H").unpack_from
_u32 = Struct(">I").unpack_from
_i32 = Struct(">i").unpack_from
_i16 = Struct(">h").unpack
_int4 = Struct(">i").unpack
_int8 = Struct(">q").unpack
_float8 = Struct(">d").unpack
_float4 = Struct(">f").unpack
_begin = Struct(">cQqI").unpack
_commit = Struct(">cBQQq").unpack
_truncate = Struct(">cIB").unpack_from


def jsonb_text(data: bytes) -> str:
    """The JSON in a `jsonb` in binary. Raises Corrupt."""
    if data[:1] != b"\x01":
        raise Corrupt(f"jsonb of version {data[:1]!r}")
    return data[1:].decode()


# By type OID (pg_type.dat).
_READERS: dict[int, Callable[[bytes], Any]] = {
    16: lambda data: data != b"\0",  # bool
    20: lambda data: _int8(data)[0],
    21: lambda data: _i16(data)[0],
    23: lambda data: _int4(data)[0],
    25: bytes.decode,  # text
    114: bytes.decode,  # json
    700: lambda data: _float4(data)[0],
    701: lambda data: _float8(data)[0],
    1043: bytes.decode,  # varchar
    1184: lambda data: _int8(data)[0] + POSTGRES_EPOCH_US,  # timestamptz
    3802: jsonb_text,
}


class Decoder:
    """Turns messages into events. Keeps what the stream says about its tables, and where in a transaction it is."""

    def __init__(
        self, wanted: Mapping[str, frozenset[str] | None], readers: Mapping[int, Callable[[bytes], Any]] | None = None
    ) -> None:
        """`wanted`: the columns of interest per table (None: all); changes of other tables come without values.

        `readers`: by type OID; columns of other types are passed over. Without: values as `Change` describes them.
        """
        self._wanted = wanted
        self._readers = readers
        self._relations: dict[int, _Relation] = {}
        self._commit_lsn = 0
        self._commit_time_us = 0
        self._index = 0
        self.in_transaction = False

    def decode(self, message: bytes) -> "Begin | Commit | Change | list[Change] | None":
        """Read one message. None: nothing for us in it (a type, an origin). Raises Corrupt."""
        try:
            return self._decode(message)
        except (StructError, IndexError, UnicodeDecodeError, KeyError, ValueError) as error:
            raise Corrupt(f"a replication message of {len(message)} bytes cannot be read: {error!r}") from error

    def _decode(self, message: bytes) -> "Begin | Commit | Change | list[Change] | None":
        kind = message[:1]
        if kind == b"I":
            relation = self._relations[_u32(message, 1)[0]]
            _expect(message[5:6], b"N")
            new, offset = _read_row(message, 6, relation)
            _expect_end(message, offset)
            if UNCHANGED in new.values():
                raise Corrupt("an insert without all its values")
            return self._change(relation.table, None, new)
        if kind == b"B":
            if self.in_transaction:
                raise Corrupt("a transaction begins inside another one")
            _, self._commit_lsn, time_us, _ = _begin(message)
            self._commit_time_us = time_us + POSTGRES_EPOCH_US
            self._index, self.in_transaction = 0, True
            return Begin(self._commit_lsn)
        if kind == b"C":
            _, _, commit_lsn, end_lsn, _ = _commit(message)
            if commit_lsn != self._commit_lsn or not self.in_transaction:
                raise Corrupt("a commit without its begin")
            self.in_transaction = False
            return Commit(commit_lsn, end_lsn)
        if kind == b"U":
            return self._update(message)
        if kind == b"D":
            relation = self._relations[_u32(message, 1)[0]]
            if message[5:6] not in (b"O", b"K"):
                raise Corrupt(f"a delete with an unknown row {message[5:6]!r}")
            old, offset = _read_old_row(message, 6, relation)
            _expect_end(message, offset)
            return self._change(relation.table, old if message[5:6] == b"O" else {}, None)
        if kind == b"R":
            self._relation(message)
            return None
        if kind == b"T":
            _, count, _ = _truncate(message)
            tables = [self._relations[_u32(message, 6 + 4 * i)[0]].table for i in range(count)]
            _expect_end(message, 6 + 4 * count)
            return [self._change(table, None, None) for table in tables]
        if kind == b"M":
            prefix, _ = _read_name(message, 10)
            return self._change(MARK, None, None) if prefix == MARK and message[:2] == _MARK else None
        if kind in (b"Y", b"O"):
            return None
        raise Corrupt(f"an unknown replication message {kind!r}")

    def _update(self, message: bytes) -> Change:
        relation = self._relations[_u32(message, 1)[0]]
        offset, old, marker = 6, None, message[5:6]
        if marker in (b"O", b"K"):
            old, offset = _read_old_row(message, 6, relation)
            if marker == b"K":
                old = None
            marker, offset = message[offset : offset + 1], offset + 1
        _expect(marker, b"N")
        new, offset = _read_row(message, offset, relation)
        _expect_end(message, offset)
        for name, value in new.items():
            if value is UNCHANGED:
                if old is None:
                    raise Corrupt(f"{relation.table} must have REPLICA IDENTITY FULL")
                new[name] = old[name]
        return self._change(relation.table, old if old is not None else {}, new)

    def _change(self, table: str, old: dict[str, Any] | None, new: dict[str, Any] | None) -> Change:
        if not self.in_transaction:
            raise Corrupt("a change outside a transaction")
        position = Position(self._commit_lsn, self._index)
        self._index += 1
        return Change(position, self._commit_time_us, table, old, new)

    def _relation(self, message: bytes) -> None:
        oid = _u32(message, 1)[0]
        _, offset = _read_name(message, 5)
        table, offset = _read_name(message, offset)
        (count,) = _u16(message, offset + 1)
        offset += 3
        wanted = self._wanted.get(table, frozenset())
        columns = []
        for _ in range(count):
            name, offset = _read_name(message, offset + 1)
            (type_oid,) = _u32(message, offset)
            offset += 8
            is_wanted = wanted is None or name in wanted
            columns.append(_Column(name, self._reader(type_oid) if is_wanted else None))
        _expect_end(message, offset)
        self._relations[oid] = _Relation(table, tuple(columns))

    def _reader(self, type_oid: int) -> Callable[[bytes], Any] | None:
        return _READERS.get(type_oid, bytes) if self._readers is None else self._readers.get(type_oid)


def _read_row(message: bytes, offset: int, relation: _Relation) -> tuple[dict[str, Any], int]:
    """The wanted columns of one row, and where the row ends."""
    (count,) = _u16(message, offset)
    if count != len(relation.columns):
        raise Corrupt(f"a row of {relation.table} has {count} columns instead of {len(relation.columns)}")
    offset += 2
    row: dict[str, Any] = {}
    for name, read in relation.columns:
        kind = message[offset]
        offset += 1
        if kind == 98 or kind == 116:  # b: binary, t: text
            (length,) = _i32(message, offset)
            if length < 0:
                raise Corrupt("a column of negative length")
            offset += 4
            end = offset + length
            if read is not None:
                data = message[offset:end]
                if kind == 116 and read is not bytes.decode:
                    raise Corrupt(f"column {name} came as text; the stream must be binary")
                row[name] = read(data)
            offset = end
        elif kind == 110:  # n: null
            if read is not None:
                row[name] = None
        elif kind == 117:  # u: unchanged
            if read is not None:
                row[name] = UNCHANGED
        else:
            raise Corrupt(f"a column of unknown kind {kind}")
    return row, offset


def _read_old_row(message: bytes, offset: int, relation: _Relation) -> tuple[dict[str, Any], int]:
    """As `_read_row`; an old row has all its values."""
    row, offset = _read_row(message, offset, relation)
    if UNCHANGED in row.values():
        raise Corrupt(f"an old row of {relation.table} without all its values")
    return row, offset


def _read_name(message: bytes, offset: int) -> tuple[str, int]:
    end = message.index(b"\0", offset)
    return message[offset:end].decode(), end + 1


def _expect(found: bytes, wanted: bytes) -> None:
    if found != wanted:
        raise Corrupt(f"expected {wanted!r} in a replication message, found {found!r}")


def _expect_end(message: bytes, offset: int) -> None:
    if offset != len(message):
        raise Corrupt(f"a replication message ends at {len(message)} instead of {offset}")
