"""Portions of deltas and beats, as processes send them to each other: MessagePack arrays; fields are only ever appended."""

import msgspec

from judgify_engine.core.portion import Beat, Portion
from judgify_engine.errors import Corrupt

BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
encode = msgspec.msgpack.Encoder().encode
_portion = msgspec.msgpack.Decoder(Portion)
_beat = msgspec.msgpack.Decoder(Beat)


def decode_portion(message: bytes) -> Portion:
    """Raises Corrupt."""
    try:
        return _portion.decode(message)
    except BROKEN as error:
        raise Corrupt(f"not a portion: {error}") from error


def decode_beat(message: bytes) -> Beat:
    """Raises Corrupt."""
    try:
        return _beat.decode(message)
    except BROKEN as error:
        raise Corrupt(f"not a beat: {error}") from error
