"""Replication messages: right ones are read right, and anything else raises Corrupt: a row is never half read."""

import itertools
from struct import pack
from typing import Any

import builders as b
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judgify_engine.core.model import Change
from judgify_engine.errors import Corrupt
from judgify_engine.units import Position
from judgify_engine.wire.pgoutput import Begin, Commit, Decoder

OID = 42
COLUMNS = [
    ("id", 2950), ("name", 25), ("data", 3802), ("n2", 21), ("n4", 23), ("n8", 20), ("f4", 700), ("f8", 701), ("at", 1184),
    ("flag", 16), ("raw", 17), ("doc", 114), ("short", 1043),
]  # fmt: skip
ROW: tuple[b.Value, ...] = (
    bytes(range(16)), "grün 😀".encode(), b.jsonb('{"a": [1, null]}'), pack(">h", -2), pack(">i", -4), pack(">q", -8),
    pack(">f", 0.5),
    pack(">d", 0.1), pack(">q", -1), b"\x01", b"\x00\xff", b'{"x": 1}', b"short",
)  # fmt: skip
READ = {
    "id": bytes(range(16)), "name": "grün 😀", "data": '{"a": [1, null]}', "n2": -2, "n4": -4, "n8": -8, "f4": 0.5, "f8": 0.1,
    "at": 946_684_799_999_999, "flag": True, "raw": b"\x00\xff", "doc": '{"x": 1}', "short": "short",
}  # fmt: skip
NULLS: tuple[b.Value, ...] = (bytes(16), *[None] * 12)
READ_NULLS = {name: None for name in READ} | {"id": bytes(16)}
LSN, TIME_US = 0x1_0000_0010, b.T0 * 1_000_000 + 5


def decoder(*before: bytes, wanted: Any = None) -> Decoder:
    """A decoder of the table `things` that has read these messages."""
    found = Decoder({"things": None} if wanted is None else wanted)
    for message in before:
        found.decode(message)
    return found


def inside(*, wanted: Any = None) -> Decoder:
    """A decoder inside a transaction, which knows the table."""
    return decoder(b.relation(OID, "things", COLUMNS), b.begin(LSN, TIME_US), wanted=wanted)


def one(message: bytes, *, wanted: Any = None) -> Change:
    found = inside(wanted=wanted).decode(message)
    assert isinstance(found, Change)
    return found


# Golden pairs: bytes written out by hand from the documentation, and what they mean. ----------------------------------


def test_golden_begin() -> None:
    message = bytes.fromhex("4200000001000000100002eb89e7de8005000002a7")
    found = Decoder({})
    assert found.decode(message) == Begin(0x1_0000_0010)
    assert found.in_transaction


def test_golden_transaction() -> None:
    found = Decoder({"t": None})
    assert found.decode(bytes.fromhex("52000000077075626c6963007400660002016b0000000017ffffffff00760000000019ffffffff")) is None
    assert found.decode(bytes.fromhex("420000000000000064000000000000000000000001")) == Begin(100)
    inserted = found.decode(bytes.fromhex("49000000074e000262000000040000000562000000026869"))
    assert inserted == Change(Position(100, 0), 946_684_800_000_000, "t", None, {"k": 5, "v": "hi"})
    deleted = found.decode(bytes.fromhex("44000000074f00026200000004000000056e"))
    assert deleted == Change(Position(100, 1), 946_684_800_000_000, "t", {"k": 5, "v": None}, None)
    assert found.decode(bytes.fromhex("4300000000000000006400000000000000800000000000000000")) == Commit(100, 128)
    assert not found.in_transaction


# Reading right --------------------------------------------------------------------------------------------------------


def test_an_insert_is_read_with_every_type() -> None:
    assert one(b.insert(OID, *ROW)) == Change(Position(LSN, 0), TIME_US, "things", None, READ)


def test_nulls_are_none() -> None:
    assert one(b.insert(OID, *NULLS)).new == READ_NULLS


def test_an_update_has_both_rows() -> None:
    found = one(b.update(OID, ROW, NULLS))
    assert (found.old, found.new) == (READ, READ_NULLS)


def test_a_delete_has_the_old_row() -> None:
    found = one(b.delete(OID, *ROW))
    assert (found.old, found.new) == (READ, None)


def test_an_unchanged_large_value_is_that_of_the_old_row() -> None:
    new = tuple("unchanged" if name == "data" else value for (name, _), value in zip(COLUMNS, ROW, strict=True))
    assert one(b.update(OID, ROW, new)).new == READ


def test_an_unchanged_value_without_the_old_row_is_corrupt() -> None:
    """Half a row must not pass as a whole one: the table needs REPLICA IDENTITY FULL."""
    new = tuple("unchanged" if name == "data" else value for (name, _), value in zip(COLUMNS, ROW, strict=True))
    for old, marker in ((None, b"O"), (ROW, b"K")):
        with pytest.raises(Corrupt, match="REPLICA IDENTITY FULL"):
            inside().decode(b.update(OID, old, new, marker))


def test_only_wanted_columns_are_read() -> None:
    assert one(b.insert(OID, *ROW), wanted={"things": frozenset(["name", "n4"])}).new == {"name": "grün 😀", "n4": -4}
    assert one(b.insert(OID, *ROW), wanted={"others": None}).new == {}


def test_a_truncate_is_one_change_for_each_table() -> None:
    found = inside()
    found.decode(b.relation(43, "others", [("id", 23)]))
    assert found.decode(b.truncate(OID, 43)) == [
        Change(Position(LSN, 0), TIME_US, "things", None, None),
        Change(Position(LSN, 1), TIME_US, "others", None, None),
    ]
    assert found.decode(b.insert(43, pack(">i", 1))) == Change(Position(LSN, 2), TIME_US, "others", None, {})


def test_positions_count_per_transaction() -> None:
    found = decoder(b.relation(OID, "things", [("n", 23)]))
    seen = []
    for lsn, changes in ((100, 3), (180, 1), (200, 0), (260, 2)):
        found.decode(b.begin(lsn))
        for number in range(changes):
            change = found.decode(b.insert(OID, pack(">i", number)))
            assert isinstance(change, Change)
            seen.append(change.position)
        assert found.decode(b.commit(lsn, lsn + 10)) == Commit(lsn, lsn + 10)
    assert seen == [Position(100, 0), Position(100, 1), Position(100, 2), Position(180, 0), Position(260, 0), Position(260, 1)]
    assert seen == sorted(seen)


def test_a_table_that_was_altered_is_read_by_its_new_columns() -> None:
    found = inside(wanted={"things": frozenset(["n", "m"])})
    found.decode(b.relation(OID, "things", [("n", 23), ("m", 25)]))
    change = found.decode(b.insert(OID, pack(">i", 1), b"x"))
    assert isinstance(change, Change)
    assert change.new == {"n": 1, "m": "x"}
    found.decode(b.relation(OID, "things", [("m", 25)]))
    change = found.decode(b.insert(OID, b"y"))
    assert isinstance(change, Change)
    assert change.new == {"m": "y"}


def test_messages_that_concern_nobody_are_passed_over() -> None:
    found = inside()
    assert found.decode(b"Y" + pack(">I", 600) + b"public\0mood\0") is None
    assert found.decode(b"O" + pack(">Q", 5) + b"origin\0") is None
    assert found.decode(b"M" + pack(">BQ", 1, 5) + b"prefix\0" + pack(">I", 2) + b"hi") is None
    assert one(b.insert(OID, *ROW)).position.index == 0


JSON_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


@given(
    st.none() | JSON_TEXT,
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.floats(allow_nan=False),
    st.none() | JSON_TEXT,
)
def test_values_come_out_as_they_went_in(text: str | None, number: int | None, real: float | None, json: str | None) -> None:
    found = decoder(b.relation(OID, "things", [("t", 25), ("n", 20), ("f", 701), ("j", 3802)]), b.begin(LSN))
    message = b.insert(
        OID,
        None if text is None else text.encode(),
        None if number is None else pack(">q", number),
        None if real is None else pack(">d", real),
        None if json is None else b.jsonb(json),
    )
    change = found.decode(message)
    assert isinstance(change, Change)
    assert change.new == {"t": text, "n": number, "f": real, "j": json}


# Anything else is Corrupt ---------------------------------------------------------------------------------------------

MESSAGES = {
    "begin": b.begin(LSN),
    "commit": b.commit(LSN, LSN + 8),
    "relation": b.relation(OID, "things", COLUMNS),
    "insert": b.insert(OID, *ROW),
    "insert of nulls": b.insert(OID, *NULLS),
    "update": b.update(OID, ROW, NULLS),
    "update with nulls last": b.update(OID, NULLS, NULLS),
    "update with key": b.update(OID, ROW, NULLS, b"K"),
    "update without old": b.update(OID, None, ROW),
    "delete": b.delete(OID, *ROW),
    "delete with key": b.delete(OID, *NULLS, marker=b"K"),
    "truncate": b.truncate(OID, OID),
}


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("wanted", [None, {"things": frozenset(["name"])}, {}], ids=["all", "one", "none"])
def test_a_message_cut_at_any_byte_is_corrupt(name: str, wanted: Any) -> None:
    message = MESSAGES[name]

    def before() -> Decoder:
        return decoder(b.relation(OID, "things", COLUMNS)) if name == "begin" else inside(wanted=wanted)

    before().decode(message)
    for end in range(len(message)):
        with pytest.raises(Corrupt):
            before().decode(message[:end])


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_with_more_behind_it_is_corrupt(name: str) -> None:
    for more in (b"\0", b"n", b"N", MESSAGES[name]):
        with pytest.raises(Corrupt):
            inside().decode(MESSAGES[name] + more)


@pytest.mark.parametrize(
    "message",
    [
        b.insert(OID + 1, *ROW),
        b.delete(OID + 1, *ROW),
        b.update(OID + 1, None, ROW),
        b.truncate(OID + 1),
        b.insert(OID, *ROW[:-1]),
        b.insert(OID, *ROW, b"more"),
        b.insert(OID, *ROW[:4], "5", *ROW[5:]),
        b.insert(OID, *ROW[:2], '{"a": 1}', *ROW[3:]),
        b.insert(OID, *ROW[:4], b"\0\0\0", *ROW[5:]),
        b.insert(OID, *ROW[:7], b"\0" * 9, *ROW[8:]),
        b.insert(OID, *ROW[:2], b'\x02{"a": 1}', *ROW[3:]),
        b.insert(OID, *ROW[:2], b"", *ROW[3:]),
        b.insert(OID, *ROW[:1], b"\xff\xfe", *ROW[2:]),
        b.insert(OID, *ROW).replace(b"N", b"X", 1),
        b.update(OID, ROW, NULLS, b"X"),
        b.delete(OID, *ROW, marker=b"X"),
        b.delete(OID, *ROW, marker=b"N"),
        b"I" + pack(">I", OID) + b"N" + pack(">H", 13) + b"b" + pack(">i", -5) + b.values(*ROW)[2:],
        b"I" + pack(">I", OID) + b"N" + pack(">H", 13) + b"b" + pack(">i", 2**31 - 1) + b.values(*ROW)[2:],
        b"I" + pack(">I", OID) + b"N" + pack(">H", 13) + b"z" + b.values(*ROW)[2:],
        b"T" + pack(">IB", 2**32 - 1, 0) + pack(">I", OID),
        b.commit(LSN + 8, LSN + 16),
        b"",
        b"Z",
        b"\0",
        b"S" + pack(">IB", 1, 1),
        b"R" + pack(">I", OID) + b"public\0things\0f" + pack(">H", 1) + b"\0\xff\0" + pack(">Ii", 23, -1),
    ],
    ids=lambda message: repr(message[:12]),
)
@pytest.mark.parametrize("wanted", [None], ids=["all"])
def test_what_the_format_does_not_say_is_corrupt(message: bytes, wanted: Any) -> None:
    with pytest.raises(Corrupt):
        inside(wanted=wanted).decode(message)


def test_an_unchanged_value_where_no_other_row_has_it_is_corrupt() -> None:
    cut = (*ROW[:2], "unchanged", *ROW[3:])
    for message in (b.insert(OID, *cut), b.delete(OID, *cut), b.update(OID, cut, ROW), b.update(OID, cut, cut)):
        with pytest.raises(Corrupt):
            inside().decode(message)


@pytest.mark.parametrize(
    "message", [b.insert(OID, *ROW), b.update(OID, ROW, ROW), b.delete(OID, *ROW), b.truncate(OID), b.commit(LSN, LSN + 8)]
)
def test_a_change_outside_a_transaction_is_corrupt(message: bytes) -> None:
    known = b.relation(OID, "things", COLUMNS)
    for before in ([known], [known, b.begin(LSN), b.commit(LSN, LSN + 8)]):
        with pytest.raises(Corrupt):
            decoder(*before).decode(message)


def test_a_transaction_inside_another_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        inside().decode(b.begin(LSN + 8))


def written_again(change: Change) -> set[bytes]:
    """The messages that say this change, for the table of one int4 and one text, which may come in either form."""

    def forms(row: dict[str, Any]) -> list[list[b.Value]]:
        number, text = row["n"], row["t"]
        return [[None if number is None else pack(">i", number)], [None] if text is None else [text.encode(), text]]

    if change.old is None and change.new is not None:
        return {b.insert(OID, *row) for row in itertools.product(*forms(change.new))}
    if change.new is None and change.old:
        return {b.delete(OID, *row) for row in itertools.product(*forms(change.old))}
    if not change.old or not change.new:
        return set()
    old, new = forms(change.old), forms(change.new)
    # What the old row holds too may be left out as unchanged.
    either = [[*form, "unchanged"] if form == before else form for form, before in zip(new, old, strict=True)]
    return {b.update(OID, was, row) for was in itertools.product(*old) for row in itertools.product(*either)}


@settings(max_examples=400)
@given(
    st.one_of(
        st.binary(max_size=40),
        st.builds(
            lambda kind, rest: kind + pack(">I", OID) + rest, st.sampled_from([b"I", b"U", b"D", b"R"]), st.binary(max_size=30)
        ),
        st.builds(
            lambda message, at, put: message[: at % len(message)] + put + message[at % len(message) + len(put) :],
            st.sampled_from(
                [
                    b.insert(OID, pack(">i", 5), b"hi"),
                    b.update(OID, (None, b"x"), (pack(">i", 1), None)),
                    b.delete(OID, None, b"hi"),
                    b.update(OID, (None, "x"), (pack(">i", 1), "hi")),
                ]
            ),
            st.integers(0, 100),
            st.binary(min_size=1, max_size=2),
        ),
    )
)
def test_random_bytes_are_corrupt_or_mean_what_they_say(message: bytes) -> None:
    found = decoder(b.relation(OID, "things", [("n", 23), ("t", 25)]), b.begin(LSN))
    try:
        event = found.decode(message)
    except Corrupt:
        return
    if isinstance(event, Change) and event.old != {}:
        assert message in written_again(event)
