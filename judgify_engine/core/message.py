"""The messages of the live protocol (PROTOCOL.md), made of a view's figures. Pure."""

from typing import Any

import msgspec

from judgify_engine.core.chart_points import mean_ms, p95_ms, success_rate, workflow_points
from judgify_engine.core.rollup import Sums
from judgify_engine.core.samples import LIVE_S

LIVE_WINDOW_S = 600


def encode_message(head: dict[str, Any], live: list[tuple[int, Sums]], workflows: list[tuple[str, Sums]]) -> bytes:
    """`head`: all members but those two."""
    return msgspec.json.encode(
        {
            **head,
            "live_bucket_s": LIVE_S,
            "live_window_s": LIVE_WINDOW_S,
            "live": [[start, sums.total, sums.failed, mean_ms(sums), p95_ms(sums.histogram)] for start, sums in live],
            "workflows": [
                {
                    "workflow_id": name,
                    "total_executions": total,
                    "successful_executions": successful,
                    "mean_execution_time_ms": mean,
                }
                for name, total, successful, mean in workflow_points(workflows)
            ],
        }
    )


def summary_of(total: Sums, results: dict[str, int], p95: float | None) -> dict[str, Any]:
    """The summary of PROTOCOL.md."""
    return {
        "total_executions": total.total,
        "successful_executions": total.total - total.failed,
        "failed_executions": total.failed,
        "success_rate": success_rate(total),
        "mean_execution_time_ms": mean_ms(total),
        "p95_execution_time_ms": p95,
        "mean_confidence": round(total.confidence_ppm / 1e6 / total.total, 6) if total.total else None,
        "methods": {"rule": total.rule, "llm": total.llm, "hybrid": total.hybrid},
        "results": {name: count for name, count in sorted(results.items()) if count},
    }
