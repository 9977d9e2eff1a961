"""What about a Redis endangers what streams promise: that it evicts, that it forgets, that it cannot write."""

from typing import Any

from judgify_engine.streams.server import Node, Server

FORGETS = "it keeps nothing on disk (neither appendonly nor save): after a restart the streams begin anew, and slow groups miss"
"""What is put right all the same: the publisher notices, and fills in what PostgreSQL's log still has."""


async def warnings_of(server: Server) -> list[str]:
    """In words, for each server that has a part of the data. Raises StreamsUnavailable."""
    found: list[str] = []
    for name, node in (await server.bounded(server.nodes())).items():
        facts = await server.bounded(_info(node))
        found += [f"Redis at {name}: {text}" for text in (*_evictions(facts), *await _persistence(server, node, facts))]
    return found


async def _info(node: Node) -> dict[str, Any]:
    return {**await node.execute_command("INFO", "memory"), **await node.execute_command("INFO", "persistence")}


def _evictions(facts: dict[str, Any]) -> list[str]:
    policy = facts.get("maxmemory_policy")
    if policy is None:
        return ["its eviction policy could not be checked; it must be noeviction"]
    if policy != "noeviction":
        return [f"its maxmemory-policy is {policy}: it may drop streams that were not read; set it to noeviction"]
    return []


async def _persistence(server: Server, node: Node, facts: dict[str, Any]) -> list[str]:
    found = [
        f"{what} failed the last time: see its log"
        for what, key in (
            ("saving a snapshot", "rdb_last_bgsave_status"),
            ("writing its append-only file", "aof_last_write_status"),
        )
        if facts.get(key, "ok") != "ok"
    ]
    if facts.get("aof_enabled"):
        return found
    saved = await server.asked(node, "CONFIG GET", "save")
    if saved is None:
        found.append("appendonly is off, and whether it saves snapshots could not be checked (CONFIG is not allowed there)")
    elif not any(saved.values()):
        found.append(FORGETS)
    return found
