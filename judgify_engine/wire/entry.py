"""A change as an entry of a stream: the fields that users' own services read (README, "Streams"). Pure.

The columns of a row are turned into JSON one by one while the log is decoded (`JSON_READERS`), and only joined here: `jsonb` is
JSON already, and nothing is parsed that is not looked into.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from struct import Struct

import msgspec

from judgify_engine.core.model import Change
from judgify_engine.errors import Corrupt
from judgify_engine.units import MIB
from judgify_engine.wire.pgcopy import POSTGRES_EPOCH_US
from judgify_engine.wire.pgoutput import jsonb_text

_int2, _int4, _int8 = Struct(">h").unpack, Struct(">i").unpack, Struct(">q").unpack
_float4, _float8 = Struct(">f").unpack, Struct(">d").unpack
KEYS = {"judgment_executions": "id", "action_executions": "id", "workflows": "workflow_id"}
"""Table to the column that names its rows within a tenant; these tables are in the streams."""
MAX_DATA_BYTES = 16 * MIB
"""Of a row that is larger, which only an INSERT by hand makes, the entry tells the size: Redis would not take it in time, or
not at all, and all that follows would wait for it."""
_CYCLE_S, _CYCLE_YEARS = 146_097 * 86_400, 400
_TABLES = {table: table.encode() for table in KEYS}


def json_uuid(data: bytes) -> str:
    """16 bytes as a UUID, quoted."""
    digits = data.hex()
    return f'"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"'


def rfc3339(time_us: int) -> str:
    """A time in UTC, to the microsecond. PostgreSQL knows years before 1 and after 9999, too."""
    second, fraction = divmod(time_us, 1_000_000)
    return f"{_second_text(second)}.{fraction:06d}Z"


@lru_cache(maxsize=256)
def _second_text(second: int) -> str:
    cycles, rest = divmod(second, _CYCLE_S)  # Python's calendar ends with 9999, but repeats itself
    moment = datetime.fromtimestamp(rest, UTC)
    return f"{moment.year + cycles * _CYCLE_YEARS:04d}-{moment:%m-%dT%H:%M:%S}"


@lru_cache(maxsize=1024)
def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


@lru_cache(maxsize=4096)
def _plain(json_text: str) -> str:
    return msgspec.json.decode(json_text, type=str)


def _text(data: bytes) -> str:
    return msgspec.json.encode(data.decode()).decode()


def json_time(since_2000_us: int) -> str:
    """A `timestamptz` as the log has it: µs since 2000, or one of the infinities."""
    return _INFINITIES.get(since_2000_us) or f'"{rfc3339(since_2000_us + POSTGRES_EPOCH_US)}"'


def json_float(value: float) -> str:
    """A number; what JSON has none for is a text, as in PostgreSQL."""
    return repr(value) if isfinite(value) else _NO_NUMBERS[str(value)]


_INFINITIES = {2**63 - 1: '"infinity"', -(2**63): '"-infinity"'}
_NO_NUMBERS = {"inf": '"Infinity"', "-inf": '"-Infinity"', "nan": '"NaN"'}
JSON_READERS: dict[int, Callable[[bytes], str]] = {
    16: lambda data: "true" if data != b"\0" else "false",  # bool
    20: lambda data: str(_int8(data)[0]),
    21: lambda data: str(_int2(data)[0]),
    23: lambda data: str(_int4(data)[0]),
    25: _text,
    114: bytes.decode,  # json
    700: lambda data: json_float(_float4(data)[0]),
    701: lambda data: json_float(_float8(data)[0]),
    1043: _text,  # varchar
    1184: lambda data: json_time(_int8(data)[0]),  # timestamptz
    2950: json_uuid,
    3802: jsonb_text,
}
"""By type OID (pg_type.dat): a value in binary to JSON. Columns of other types, which somebody else added, are left out."""


def entry_of(change: Change) -> tuple[str | None, dict[bytes, bytes]]:
    """The tenant whom a change belongs to (None: everybody, a truncate), and the fields of its entry.

    `change`: decoded with `JSON_READERS`, of a table of `KEYS`. Raises Corrupt when it lacks its tenant or key.
    """
    row = change.new if change.new is not None else change.old
    fields = {b"table": _TABLES[change.table], b"committed_at": rfc3339(change.commit_time_us).encode()}
    if row is None:
        return None, {b"op": b"truncate", **fields}
    tenant, key = row.get("tenant_id"), row.get(KEYS[change.table])
    if tenant is None or key is None:
        raise Corrupt(f"a row of {change.table} without its tenant or its key")
    op = b"delete" if change.new is None else b"insert" if change.old is None else b"update"
    tenant_id = _plain(tenant)
    data = ",".join([f"{_quoted(name)}:{'null' if value is None else value}" for name, value in row.items()])
    encoded = b"{%b}" % data.encode()
    whole = len(encoded) <= MAX_DATA_BYTES
    return tenant_id, {
        b"op": op,
        **fields,
        b"tenant_id": tenant_id.encode(),
        b"key": msgspec.json.decode(key, type=str).encode(),
        **({b"data": encoded} if whole else {b"data_bytes": b"%d" % len(encoded)}),
    }
