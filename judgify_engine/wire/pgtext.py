"""Values as PostgreSQL's text COPY format and array literals take them. Pure.

Source of the format: PostgreSQL documentation, COPY, "Text Format", and "Arrays". Numbers in millionths are written as exact
decimals, so PostgreSQL's `numeric` holds the same sum that we have.
"""

from collections.abc import Iterable, Mapping

from judgify_engine.core.histogram import MILLIONTHS
from judgify_engine.core.samples import EXECUTION_COUNT, EXECUTION_TIME, Sample, SampleKey

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
SAMPLE_COLUMNS = (
    "time",
    "tenant_id",
    "workflow_id",
    "metric_name",
    "value",
    "dimensions",
    "count",
    "sum",
    "minimum",
    "maximum",
    "slots",
    "counts",
)


def decimal(millionths: int) -> str:
    """The number as an exact decimal text."""
    whole, part = divmod(abs(millionths), MILLIONTHS)
    return f"{'-' if millionths < 0 else ''}{whole}.{part:06d}"


def real(millionths: int | None) -> float | None:
    """The number as PostgreSQL computes `millionths::double precision / 1000000`."""
    return None if millionths is None else float(millionths) / MILLIONTHS


def histogram_arrays(histogram: Mapping[int, int]) -> tuple[str, str]:
    """The slots in use, ascending, and their counts, as array literals."""
    used = sorted(slot for slot, count in histogram.items() if count)
    return "{" + ",".join(map(str, used)) + "}", "{" + ",".join([str(histogram[slot]) for slot in used]) + "}"


def encode_samples(samples: Iterable[tuple[SampleKey, Sample]], times: Mapping[int, str]) -> bytes:
    """Rows of `judgment_metrics_timeseries`. `times`: each bucket's Unix second as a text that PostgreSQL reads.

    Execution times bring a row of `execution_count` along.
    """
    lines = []
    for (tenant, workflow, metric, bucket, method, status), sample in samples:
        who = f"{times[bucket]}\t{tenant.translate(_ESCAPES)}\t{workflow.translate(_ESCAPES)}"
        dimensions = f'{{"method": "{method}", "status": "{status}"}}'
        slots, counts = histogram_arrays(sample.histogram)
        value = _or_null(sample.sum / MILLIONTHS / sample.count if sample.count else None)
        low, high = _or_null(real(sample.minimum)), _or_null(real(sample.maximum))
        lines.append(
            f"{who}\t{metric.translate(_ESCAPES)}\t{value}\t{dimensions}\t{sample.count}\t{decimal(sample.sum)}"
            f"\t{low}\t{high}\t{slots}\t{counts}\n"
        )
        if metric == EXECUTION_TIME and sample.count:
            count = sample.count
            lines.append(f"{who}\t{EXECUTION_COUNT}\t1\t{dimensions}\t{count}\t{count}\t1\t1\t{{}}\t{{}}\n")
    return "".join(lines).encode()


def _or_null(value: float | None) -> str:
    return "\\N" if value is None else repr(value)
