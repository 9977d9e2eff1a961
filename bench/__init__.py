"""The bench: what the engine is measured and tortured with. Each name in `COMMANDS` is a module here that has
`add_arguments(parser)` and `run(args) -> int`; `judgify-engine bench NAME` runs it. The others are their helpers.
"""

COMMANDS = (
    "load", "compare", "latency", "queries", "crash", "soak", "rollup", "partitions", "bulk", "groups", "day", "neighbours",
    "pixel", "sockets", "workers", "anomaly", "rules",
)  # fmt: skip
