"""`judgify-engine feed FILE`: post a CSV or NDJSON file to a running engine over HTTP, and account for every row.

Each row carries an `Idempotency-Key` (run id and line number), so repeating one whose connection was cut cannot store
it twice. Refusals with 503 and 429, and broken connections, are retried; other refusals are reported with their lines.
Memory is constant whatever the size of the file. The token never reaches any output.
"""

import argparse
import asyncio
import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO
from urllib.parse import urlsplit

import aiohttp
import msgspec
import uvloop

from judgify_engine.commands.feed_report import NOT_SENT, Outcome, Progress, Tally
from judgify_engine.commands.rows import BadRow, LineReader, Row, WrongHeader, read_csv, read_ndjson
from judgify_engine.commands.source import RowSource

PATH = "/api/v1/judgments/execute"
REQUEST_TIMEOUT_S = 30.0
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.1, 5.0
MAX_RETRY_AFTER_S = 30.0
STOP_GRACE_S = 2.0
"""How long requests under way may still be answered after Ctrl-C."""

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
HOPELESS_STATUSES = frozenset({401, 403})
"""Answers that every other row would get as well: the run ends."""


class _Answered(msgspec.Struct):
    """What is counted of an accepted judgment."""

    status: str = ""
    final_result: object = None


class _Problem(msgspec.Struct):
    """What is shown of a refusal (RFC 9457)."""

    code: str = ""
    title: str = ""
    detail: str = ""


_answer_decoder = msgspec.json.Decoder(_Answered)
_problem_decoder = msgspec.json.Decoder(_Problem)


class WrongUsage(Exception):
    """The command line, or the head of the file, cannot be used (exit code 2)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `feed`."""
    parser.description = "Post the rows of a CSV or NDJSON file as judgments; ends with a summary of every row."
    parser.add_argument("file", metavar="FILE", help="a .csv, .ndjson or .jsonl file; - reads standard input")
    parser.add_argument("--url", help="the engine (default: JUDGIFY_URL, else http://127.0.0.1:8000)")
    parser.add_argument("--token", help="bearer token (default: JUDGIFY_TOKEN, else test-token)")
    parser.add_argument("--workflow", metavar="ID", help="workflow of CSV rows, and of NDJSON lines that name none")
    parser.add_argument("--format", choices=("csv", "ndjson"), help="what FILE holds (default: by its name)")
    parser.add_argument("--concurrency", type=int, default=64, help="requests under way at once (default: 64)")
    parser.add_argument(
        "--give-up-after",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="how long one row is retried (default: 120)",
    )


def run(args: argparse.Namespace) -> int:
    """Feed the file; 0 when every row was accepted, 1 when not, 2 when nothing could be started."""
    try:
        return _run(args)
    except WrongUsage as error:
        print(f"judgify-engine feed: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    url = (args.url or os.environ.get("JUDGIFY_URL") or "http://127.0.0.1:8000").rstrip("/")
    token = args.token or os.environ.get("JUDGIFY_TOKEN") or "test-token"
    _check_url(url)
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise WrongUsage("the token holds characters that no header can carry")
    if not 1 <= args.concurrency <= 10_000:
        raise WrongUsage(f"--concurrency must be 1 to 10000, not {args.concurrency}")
    if args.give_up_after < 0:
        raise WrongUsage(f"--give-up-after must not be negative, but is {args.give_up_after}")
    form = _format_of(args.file, args.format)
    if form == "csv" and not args.workflow:
        raise WrongUsage("a CSV file names no workflow: add --workflow ID")
    file = _open(args.file)
    lines = LineReader(file)
    rows: Iterator[Row | BadRow]
    try:
        rows = read_csv(lines, args.workflow) if form == "csv" else read_ndjson(lines, args.workflow)
    except WrongHeader as error:
        file.close()
        raise WrongUsage(f"{args.file}: {error}") from error
    except OSError as error:
        file.close()
        raise WrongUsage(f"cannot read {args.file}: {error.strerror}") from error
    source = RowSource(rows)
    feeder = Feeder(url, token, source, args.concurrency, args.give_up_after)
    progress = Progress(feeder.tally, lines, os.fstat(file.fileno()).st_size, sys.stderr)
    try:
        return uvloop.run(_feed(feeder, progress))
    finally:
        if source.ended:  # closing under the reader of a silent pipe would wait for it
            file.close()


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise WrongUsage("the url must look like http://127.0.0.1:8000")


def _format_of(name: str, given: str | None) -> str:
    if given:
        return given
    if name == "-":
        raise WrongUsage("standard input has no name to tell its format by: add --format csv or --format ndjson")
    ending = os.path.splitext(name)[1].lower()
    if ending == ".csv":
        return "csv"
    if ending in (".ndjson", ".jsonl"):
        return "ndjson"
    raise WrongUsage(f"cannot tell the format of {name} by its name: add --format csv or --format ndjson")


def _open(name: str) -> BinaryIO:
    try:
        # Not sys.stdin: a thread that still reads that one makes the interpreter abort when it ends.
        return open(0, "rb", closefd=False) if name == "-" else open(name, "rb")
    except OSError as error:
        raise WrongUsage(f"cannot read {name}: {error.strerror}") from error


async def _feed(feeder: "Feeder", progress: Progress) -> int:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, feeder.interrupt)
    async with asyncio.TaskGroup() as tasks:
        shown = tasks.create_task(progress.show(), name="feed-progress")
        await feeder.feed()
        progress.stop()
        await shown
    print(feeder.tally.summary())
    return 0 if feeder.tally.is_perfect() else 1


class Feeder:
    """Posts the rows of `source` with at most `concurrency` requests under way; `tally` counts what came of them."""

    def __init__(self, url: str, token: str, source: RowSource, concurrency: int, give_up_after_s: float) -> None:
        self.tally = Tally()
        self._url = url + PATH
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._source = source
        self._concurrency = concurrency
        self._give_up_after_s = give_up_after_s
        self._run_id = uuid.uuid4().hex
        self._random = random.Random()
        self._stop = asyncio.Event()
        self._last_answer_s = 0.0

    def interrupt(self) -> None:
        """Begin to end (Ctrl-C): no new rows, requests under way may finish within `STOP_GRACE_S`."""
        self._halt("interrupted")

    def _halt(self, reason: str) -> None:
        if not self._stop.is_set():
            self.tally.stopped_by = reason
            self._source.close()
            self._stop.set()

    async def feed(self) -> None:
        """Post every row, or what came before an interrupt; returns when the last request is settled."""
        self._source.start()
        connector = aiohttp.TCPConnector(limit=self._concurrency)
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self._headers) as session,
            asyncio.TaskGroup() as tasks,
        ):
            senders = [
                tasks.create_task(self._send_rows(session), name=f"feed-{number}") for number in range(self._concurrency)
            ]
            stopper = tasks.create_task(self._cancel_when_stopped(senders), name="feed-stopper")
            await asyncio.wait(senders)
            stopper.cancel()
        self._source.close()
        self.tally.ended_s = time.perf_counter()

    async def _cancel_when_stopped(self, senders: "list[asyncio.Task[None]]") -> None:
        await self._stop.wait()
        await asyncio.wait(senders, timeout=STOP_GRACE_S)
        for sender in senders:
            sender.cancel()

    async def _send_rows(self, session: aiohttp.ClientSession) -> None:
        while (row := await self._next_row()) is not None:
            self.tally.read += 1
            if isinstance(row, BadRow):
                self.tally.refuse(row.line, NOT_SENT, row.reason)
                continue
            try:
                await self._send(session, row)
            except asyncio.CancelledError:
                self.tally.lose(row.line)
                raise

    async def _next_row(self) -> Row | BadRow | None:
        try:
            row = await self._source.next()
        except OSError as error:
            self._halt(f"cannot read further: {error.strerror or type(error).__name__}")
            return None
        return None if self._stop.is_set() else row

    async def _send(self, session: aiohttp.ClientSession, row: Row) -> None:
        """Post one row until it has its answer, or count it as lost."""
        headers = {"Idempotency-Key": f"{self._run_id}-{row.line}"}
        began_s = time.perf_counter()
        backoff_s = FIRST_BACKOFF_S
        while True:
            wait_s = backoff_s
            outcome = await self._post(session, row, headers)
            if outcome.settled:
                self._last_answer_s = time.perf_counter()
                return
            if outcome.retry_after_s is not None:
                wait_s = min(outcome.retry_after_s, MAX_RETRY_AFTER_S)
            if time.perf_counter() - began_s + wait_s > self._give_up_after_s:
                self._give_up(row, outcome, began_s)
                return
            self.tally.note_retry(outcome.reason)
            # Between 1 and 1.5 of what was asked for: those refused together must not come back together.
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s * self._random.uniform(1.0, 1.5)):
                    await self._stop.wait()
            if self._stop.is_set():
                self.tally.lose(row.line)
                return
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)

    def _give_up(self, row: Row, outcome: Outcome, began_s: float) -> None:
        self.tally.lose(row.line)
        self.tally.last_trouble = outcome.reason
        if self._last_answer_s < began_s:  # nobody else got through either: the rest would wait in vain
            self._halt(f"gave up after {self._give_up_after_s:g} s without an answer ({outcome.reason})")

    async def _post(self, session: aiohttp.ClientSession, row: Row, headers: dict[str, str]) -> Outcome:
        try:
            async with session.post(self._url, data=row.body, headers=headers, allow_redirects=False) as response:
                body = await response.read()
                status, retry_after = response.status, response.headers.get("Retry-After")
        except TimeoutError:
            return Outcome(settled=False, reason=f"no answer within {REQUEST_TIMEOUT_S:g} s")
        except aiohttp.ClientError as error:
            return Outcome(settled=False, reason=_trouble(error))
        if status == 200:
            return self._accept(row, body)
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            problem = _problem_decoder.decode(body)
            code, detail = problem.code or str(status), problem.detail or problem.title
            return self._refuse(row, status, code, detail, retry_after)
        return self._refuse(row, status, str(status), "", retry_after)

    def _accept(self, row: Row, body: bytes) -> Outcome:
        try:
            answer = _answer_decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.tally.refuse(row.line, "200", "the answer is not a judgment: is this a judgify engine?")
            return Outcome(settled=True)
        verdict = answer.final_result.get("verdict", "") if isinstance(answer.final_result, dict) else ""
        self.tally.accept(str(verdict), failed=answer.status == "failed")
        return Outcome(settled=True)

    def _refuse(self, row: Row, status: int, code: str, detail: str, retry_after: str | None) -> Outcome:
        if status in RETRIED_STATUSES:
            return Outcome(settled=False, reason=f"{status} {code}", retry_after_s=_seconds(retry_after))
        self.tally.refuse(row.line, f"{status} {code}", detail)
        if status in HOPELESS_STATUSES:
            self._halt(f"every row would be refused: {status} {code}")
        return Outcome(settled=True)


def _trouble(error: aiohttp.ClientError) -> str:
    """Name a connection's failure without its addresses or headers."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {error.strerror or type(error).__name__}"
    return f"connection broken: {type(error).__name__}"


def _seconds(retry_after: str | None) -> float | None:
    """Read Retry-After in seconds; None for none, or for its other form, a date."""
    with suppress(ValueError):
        if retry_after is not None and 0 <= (seconds := float(retry_after)) < float("inf"):
            return seconds
    return None
