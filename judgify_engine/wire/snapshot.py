"""A view's snapshot as bytes (MessagePack), with the epoch of the chain that may go on from it and when it was read."""

import msgspec

from judgify_engine.core.dashboards import Needs
from judgify_engine.core.view import Snapshot, ViewKey
from judgify_engine.errors import Corrupt


class Kept(msgspec.Struct, array_like=True, frozen=True):
    """What is cached. `epoch`: the chain whose portions follow on it, as it was known before the snapshot was read.

    `key`: whose it is; the names of two views may be the same. `needs`: what of the rollups it holds.
    """

    epoch: int
    read_at_s: float
    snapshot: Snapshot
    key: ViewKey
    needs: Needs


_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
encode = msgspec.msgpack.Encoder().encode
_kept = msgspec.msgpack.Decoder(Kept)


def decode(value: bytes) -> Kept:
    """Raises Corrupt."""
    try:
        return _kept.decode(value)
    except _BROKEN as error:
        raise Corrupt(f"not a snapshot: {error}") from error
