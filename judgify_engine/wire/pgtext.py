"""Values as PostgreSQL's text COPY format and array literals take them. Pure.

Source of the format: PostgreSQL documentation, COPY, "Text Format", and "Arrays". Numbers in millionths are written as exact
decimals, so PostgreSQL's `numeric` holds the same sum that we have.
"""

from collections.abc import Iterable, Mapping, Sequence

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


def array_literal(column: Sequence[str] | Sequence[float | None]) -> str:
    """The column as the literal of a PostgreSQL array. Texts hold no NUL, as PostgreSQL's don't."""
    if not column:
        return "{}"
    if type(column[0]) is str:
        texts: list[str] = list(column)  # type: ignore[arg-type]
        if any('"' in text or "\\" in text for text in texts):
            texts = [text.replace("\\", "\\\\").replace('"', '\\"') for text in texts]
        return '{"' + '","'.join(texts) + '"}'
    return f"{{{repr(column)[1:-1].replace('None', 'NULL')}}}"  # a list's repr takes a third of the time of a join


def histogram_arrays(histogram: Mapping[int, int]) -> tuple[str, str]:
    """The slots in use, ascending, and their counts, as array literals."""
    used = sorted([slot for slot, count in histogram.items() if count])
    return f"{{{repr(used)[1:-1]}}}", f"{{{repr([histogram[slot] for slot in used])[1:-1]}}}"


class SampleTexts:
    """Sums and histograms of samples as texts, each made once: most buckets of different widths share one sample."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Sample, tuple[str, str, str]]] = {}  # with the sample, so that its id stays its own

    def of(self, sample: Sample) -> tuple[str, str, str]:
        """The sum, the slots and their counts."""
        known = self._known.get(id(sample))
        if known is None:
            known = self._known[id(sample)] = (sample, (decimal(sample.sum), *histogram_arrays(sample.histogram)))
        return known[1]


def encode_samples(samples: Iterable[tuple[SampleKey, Sample]], times: Mapping[int, str], texts: SampleTexts) -> bytes:
    """Rows of `judgment_metrics_timeseries`. `times`: each bucket's Unix second as a text that PostgreSQL reads.

    Execution times bring a row of `execution_count` along.
    """
    lines = []
    for (tenant, workflow, metric, bucket, method, status), sample in samples:
        who = f"{times[bucket]}\t{tenant.translate(_ESCAPES)}\t{workflow.translate(_ESCAPES)}"
        dimensions = f'{{"method": "{method}", "status": "{status}"}}'
        total, slots, counts = texts.of(sample)
        value = _or_null(sample.sum / MILLIONTHS / sample.count if sample.count else None)
        low, high = _or_null(real(sample.minimum)), _or_null(real(sample.maximum))
        lines.append(
            f"{who}\t{metric.translate(_ESCAPES)}\t{value}\t{dimensions}\t{sample.count}\t{total}"
            f"\t{low}\t{high}\t{slots}\t{counts}\n"
        )
        if metric == EXECUTION_TIME and sample.count:
            count = sample.count
            lines.append(f"{who}\t{EXECUTION_COUNT}\t1\t{dimensions}\t{count}\t{count}\t1\t1\t{{}}\t{{}}\n")
    return "".join(lines).encode()


def _or_null(value: float | None) -> str:
    return "\\N" if value is None else repr(value)
