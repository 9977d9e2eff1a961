"""Follow judgments from a service of your own: each is handled in effect once, whoever is killed meanwhile.

    python examples/consumer.py redis://127.0.0.1:6379 my-service judgments.db

It is a consumer of a group: start it several times to share the work. Entries come at least once, those of a tenant in the
order of the log, but for what is taken over from one that died. So what is kept carries the id of its entry, and an older one
changes nothing. Redis away, or emptied, is waited out: the engine fills in again what was not handled.
"""

import contextlib
import json
import signal
import sqlite3
import sys
import time
import uuid

import redis

STREAMS = [f"judgify-stream-{number}" for number in range(8)]
COUNT, WAIT_MS, IDLE_MS = 100, 1000, 30_000
"""Entries at a time; how long to wait for some; after how long the entries of a consumer are taken over."""


def handle(database: sqlite3.Connection, entry_id: str, entry: dict[str, str]) -> None:
    """Your work. Here: keep the verdict of each judgment. In one transaction with the entry's id, so a repeat does nothing."""
    if entry["op"] == "truncate" or entry["table"] != "judgment_executions":
        return
    lsn, index = map(int, entry_id.split("-"))
    gone = entry["op"] == "delete" or "data" not in entry  # a row of over 16 MiB comes without its data
    verdict = None if gone else json.loads(entry["data"])["final_result"].get("verdict")
    with database:
        database.execute(
            "INSERT INTO verdicts VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET verdict = excluded.verdict,"
            " lsn = excluded.lsn, idx = excluded.idx WHERE (excluded.lsn, excluded.idx) > (verdicts.lsn, verdicts.idx)",
            (entry["key"], verdict, lsn, index),
        )


def follow(server: redis.Redis, group: str, consumer: str, database: sqlite3.Connection, idle_ms: int = IDLE_MS) -> None:
    """Until it is stopped. Raises RedisError, also where the group has gone with what was in Redis."""
    for stream in STREAMS:
        with contextlib.suppress(redis.ResponseError):  # it is there already, and stands where it stood
            server.xgroup_create(stream, group, id="0", mkstream=True)
    look_s = 0.0
    while True:
        if time.monotonic() >= look_s:
            for stream in STREAMS:
                _, entries, *_ = server.xautoclaim(stream, group, consumer, idle_ms, "0-0", count=COUNT)
                take(server, stream, group, database, entries)
            look_s = time.monotonic() + idle_ms / 2000
        for stream, entries in server.xreadgroup(group, consumer, dict.fromkeys(STREAMS, ">"), COUNT, WAIT_MS) or []:
            take(server, stream, group, database, entries)


def take(server: redis.Redis, stream: str, group: str, database: sqlite3.Connection, entries: list) -> None:
    """Handle, then acknowledge: what is not acknowledged comes again."""
    for entry_id, entry in entries:
        if entry_id is None:  # Redis 6.2 says so of one that was removed
            continue
        handle(database, entry_id, entry)
        server.xack(stream, group, entry_id)


if __name__ == "__main__":
    url, name, path, *idle = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    kept = sqlite3.connect(path, timeout=10)
    kept.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT, lsn INTEGER, idx INTEGER)")
    # protocol=2: the replies have the same form with every version of redis-py.
    client = redis.Redis.from_url(url, decode_responses=True, protocol=2)
    own = uuid.uuid4().hex  # any name for the consumer will do, if no two that run have the same
    while True:
        try:
            follow(client, name, own, kept, int(idle[0]) if idle else IDLE_MS)
        except redis.RedisError as error:
            print(f"{error}; trying again", file=sys.stderr)
            time.sleep(1)
