"""The few quantities that everything shares: log positions and sizes. Pure."""

from typing import NamedTuple

KIB = 1024
MIB = 1024 * KIB


class Position(NamedTuple):
    """A place in PostgreSQL's log: the commit LSN of a transaction and the index of a change in it.

    Rows of one COPY share an LSN, so the LSN alone would lose rows (Debezium dbz#1554).
    Ordered as the log is; `END_OF_TRANSACTION` as index means "all of this transaction".
    """

    lsn: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs of a position

    def __str__(self) -> str:
        return f"{format_lsn(self.lsn)}-{self.index}"


END_OF_TRANSACTION = 2**62
START = Position(0, 0)


def format_lsn(lsn: int) -> str:
    """Write a 64-bit LSN as PostgreSQL does, e.g. `0/1A2B3C4`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """Read an LSN as PostgreSQL writes it.

    Raises ValueError when `text` is not two hexadecimal numbers joined by a slash.
    """
    high, slash, low = text.partition("/")
    if not slash:
        raise ValueError(f"not an LSN: {text!r}")
    return (int(high, 16) << 32) | int(low, 16)
