"""What a regular expression costs, told from its text before any library sees it. Pure.

The library of the rules compiles a pattern each time it is asked (Rust's `regex`, linear in the text, no backtracking). So what
counts is how large a pattern becomes when its repetitions are written out, and how much it can have in hand at each character
of a text. Both are bounded from above by a small reading of its grammar; what that does not know is refused, never guessed.

The weights are upper bounds that random and hand-made patterns did not exceed (`bench rules` tries them again).
"""

import re
from typing import NamedTuple

MAX_NESTED = 40
"""Groups and classes in each other; the library itself stops at 250."""
BASE_COST = 2000
"""Of any pattern, in units of 60 ns: `a.*` takes 30 µs, `[a-d]{3}?x` up to 120, for the texts that it may begin with."""
MAX_PLAIN_DOTS = 4
FORMS_COST, MAX_FORMS_COST = 1500, 33_000
"""The library looks for up to 250 texts that a match may begin with; each thing that may differ doubles what it tries."""

_COUNTED = re.compile(r"\{\s*(\d{0,9})\s*(?:(,)\s*(\d{0,9})\s*)?\}")
_BRACED = re.compile(r"\{[^{}]*\}")
_POSIX = re.compile(r"\[:\^?[a-z]+:\]")
_FLAGS = re.compile(r"\(\?([a-zA-Z]*)(?:-([a-zA-Z]+))?([:)])")
_GROUP_NAME = re.compile(r"\(\?P?<[^>]*>")


class PatternSize(NamedTuple):
    """`cost` to compile, in units of 60 ns; `steps`: what there may be to do for one byte of text, some 10 ns each."""

    cost: int
    steps: int


class PatternRefused(Exception):
    """A pattern that is not taken; the text says why."""


class _Size(NamedTuple):
    cost: int
    steps: int

    def __add__(self, other: "_Size") -> "_Size":  # type: ignore[override]
        return _Size(self.cost + other.cost, self.steps + other.steps)

    def times(self, count: int) -> "_Size":
        return _Size(count * (self.cost + 20), count * (self.steps + 1))


_NOTHING = _Size(0, 0)
_LETTERS = _Size(7000, 12)
"""A class of Unicode: `\\w` alone has 770 ranges, several hundred states when written in bytes."""
_DIGITS = _Size(1000, 6)
_NO_DIGITS = _Size(1400, 6)
"""What may be left out takes more than what may not: 840 for each in `(\\D?){600}`."""
_DOT = _Size(70, 4)
_ASCII_CLASS = _Size(40, 2)
_PLACE = _Size(20, 1)
_CLASSES = {"d": _DIGITS, "D": _NO_DIGITS, "s": _Size(300, 4), "S": _Size(300, 4), "w": _LETTERS, "W": _LETTERS}


def measure(pattern: str) -> PatternSize:
    """Raises PatternRefused for what is nested too deep, commented (flag `x`), or not understood. O(length)."""
    reading = _Reading(pattern)
    size = reading.alternatives()
    if reading.at < len(pattern):
        raise PatternRefused(f"character {reading.at + 1}: `)` without `(`")
    plain = reading.plain and reading.dots <= MAX_PLAIN_DOTS
    # Words and `.*` have few states at once, and the library remembers them all: then a byte is one look into a table.
    cost = BASE_COST + size.cost + (size.steps if plain else 0)
    if reading.has_forms:
        cost += min(FORMS_COST << min(reading.forms, 5), MAX_FORMS_COST)
    return PatternSize(cost, 1 if plain else size.steps + 6)


class _Reading:
    """A place in the pattern, and the flags that hold there."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.at, self.nested = pattern, 0, 0
        self.any_case, self.unicode = False, True
        self.plain, self.dots = True, 0
        self.has_forms, self.forms = False, 0

    def alternatives(self) -> _Size:
        """Up to the end or the `)` that closes this group."""
        self._enter()
        flags = self.any_case, self.unicode
        size = self._sequence()
        while self._next() == "|":
            self.at += 1
            size += self._sequence() + _PLACE
            self.forms += 1
        self.any_case, self.unicode = flags
        self.nested -= 1
        return size

    def _sequence(self) -> _Size:
        size = _NOTHING
        while self._next() not in ("", "|", ")"):
            dot = self._next() == "."
            item = self._item()
            repeated, count = self._repeated(item)
            if dot and repeated is not item and count == 1:
                self.dots += 1
            elif dot or repeated is not item:
                self.plain = False
            self.forms += repeated is not item
            size += repeated
        return size

    def _repeated(self, item: _Size) -> tuple[_Size, int]:
        """(size, copies) with what stands behind an item: `*`, `{2,5}?`, or several; the item itself where nothing does."""
        copies = 1
        while True:
            sign = self._next()
            if sign in ("*", "+", "?"):
                self.at += 1
                item = item.times(1)
                continue
            found = _COUNTED.match(self.pattern, self.at) if sign == "{" else None
            if found is None:
                return item, copies
            self.at = found.end()
            least, most = int(found[1] or 0), int(found[3] or 0)
            count = max(least + 1 if found[2] and not found[3] else least, most, 1)
            item, copies = item.times(count), copies * max(count, 2)

    def _item(self) -> _Size:
        sign = self._next()
        if sign == "(":
            return self._group()
        if sign == "[":
            self.plain = False
            return self._class()
        if sign == "\\":
            return self._escape()
        self.at += 1
        if sign == ".":
            return _DOT
        if sign in "^$":
            return _PLACE
        return self._literal(sign)

    def _literal(self, sign: str) -> _Size:
        size = _Size(6, 1) if sign.isascii() else _Size(18, 4)
        if not self.any_case:
            return size
        self.has_forms = True
        self.forms += not sign.isascii()
        # `k`, `s` and many beyond ASCII have three forms, and the library tries to have all combinations in hand.
        return size + (_Size(54, 2) if sign.isascii() and sign not in "kKsS" else _Size(200, 3))

    def _group(self) -> _Size:
        flags = _FLAGS.match(self.pattern, self.at)
        before = self.any_case, self.unicode
        if flags is not None:
            self._set_flags(flags[1], flags[2] or "")
            self.at = flags.end()
            if flags[3] == ")":  # holds to the end of the group that it is in
                return _NOTHING
        else:
            named = _GROUP_NAME.match(self.pattern, self.at)
            if named is None and self.pattern.startswith("(?", self.at):
                raise PatternRefused(
                    f"character {self.at + 1}: a group of an unknown kind (there is no looking ahead or behind)"
                )
            self.at = named.end() if named else self.at + 1
        size = self.alternatives()
        if self._next() != ")":
            raise PatternRefused("a group is not closed")
        self.at += 1
        self.any_case, self.unicode = before
        return size + _Size(14, 2)

    def _set_flags(self, on: str, off: str) -> None:
        if "x" in on:
            raise PatternRefused("the flag `x` is not for rules: write the pattern without spaces and comments")
        self.any_case = (self.any_case or "i" in on) and "i" not in off
        self.unicode = (self.unicode or "u" in on) and "u" not in off

    def _escape(self) -> _Size:
        """`\\d`, `\\pL`, `\\p{Greek}`, `\\x41`, `\\x{1F600}`, `\\b{start}`, `\\.`"""
        letter = self.pattern[self.at + 1 : self.at + 2]
        self.at += 2
        if letter in _CLASSES:
            self.plain = False
            return _CLASSES[letter] if self.unicode else _ASCII_CLASS
        if letter in ("p", "P"):
            self.plain = False
            braced = _BRACED.match(self.pattern, self.at)
            self.at = braced.end() if braced else self.at + 1
            return _LETTERS
        if letter in ("x", "u", "U"):
            digits = {"x": 2, "u": 4, "U": 8}[letter]
            braced = _BRACED.match(self.pattern, self.at)
            self.at = braced.end() if braced else self.at + digits
            return self._literal("\N{REPLACEMENT CHARACTER}")
        if letter in ("b", "B"):
            braced = _BRACED.match(self.pattern, self.at)
            if letter == "b" and braced and not _COUNTED.match(self.pattern, self.at):
                self.at = braced.end()
        return self._literal(letter) + _PLACE

    def _class(self) -> _Size:
        """`[…]`, with classes and operations of sets within."""
        self._enter()
        self.at += 2 if self.pattern.startswith("[^", self.at) else 1
        size = _Size(70, 4)
        first = True
        while True:
            sign = self._next()
            if sign == "":
                raise PatternRefused("a class is not closed")
            if sign == "]" and not first:
                self.at += 1
                self.nested -= 1
                return size
            first = False
            if sign == "[":
                posix = _POSIX.match(self.pattern, self.at)
                if posix:
                    self.at = posix.end()
                size += _ASCII_CLASS if posix else self._class()
            elif sign == "\\":
                size += self._escape()
            else:
                self.at += 1
                size += _Size(80 if self.any_case else 15, 1)

    def _enter(self) -> None:
        self.nested += 1
        if self.nested > MAX_NESTED:
            raise PatternRefused(f"groups and classes are nested more than {MAX_NESTED} deep")

    def _next(self) -> str:
        return self.pattern[self.at : self.at + 1]
