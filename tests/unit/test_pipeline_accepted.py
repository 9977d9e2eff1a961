"""What was answered is counted once, written in absolute numbers, and written again when it could not be."""

import asyncio

from builders import T0

from judgify_engine.pipeline import accepted
from judgify_engine.pipeline.accepted import Accepted

HOUR = 3600


class Books:
    """Keeps what was written last, as the table does; may refuse."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str, int], int] = {}
        self.refuses = False

    async def write(self, process: str, counts: dict[tuple[str, int], int]) -> None:
        if self.refuses:
            raise OSError("away")
        self.kept |= {(process, *key): count for key, count in counts.items()}

    def of(self, tenant: str, hour: int) -> int:
        return sum(count for (_, of_tenant, of_hour), count in self.kept.items() if (of_tenant, of_hour) == (tenant, hour))


async def test_each_answer_counts_in_its_tenant_and_hour() -> None:
    books = Books()
    counts = Accepted(books)
    for second in (0, 1, HOUR - 1, HOUR):
        counts.note("a", (T0 + second) * 1_000_000)
    counts.note("b", T0 * 1_000_000)
    await counts.write()
    assert [books.of("a", T0), books.of("a", T0 + HOUR), books.of("b", T0)] == [3, 1, 1]


async def test_what_could_not_be_written_is_written_next_time_and_not_doubled(monkeypatch: object) -> None:
    books = Books()
    counts = Accepted(books)
    accepted_at = 4_000_000_000  # far ahead: not forgotten meanwhile
    accepted_at -= accepted_at % HOUR
    counts.note("a", accepted_at * 1_000_000)
    books.refuses = True
    await counts.write()
    counts.note("a", accepted_at * 1_000_000)
    books.refuses = False
    await counts.write()
    await counts.write()
    assert books.of("a", accepted_at) == 2


async def test_what_is_answered_while_stopping_is_written_too() -> None:
    books = Books()
    counts = Accepted(books)
    stop, drained = asyncio.Event(), asyncio.Event()

    async def feed() -> None:
        await drained.wait()
        counts.note("a", T0 * 1_000_000)

    feeder = asyncio.create_task(feed())
    running = asyncio.create_task(counts.run(stop, [feeder]))
    stop.set()
    await asyncio.sleep(0)
    drained.set()
    await running
    assert books.of("a", T0) == 1


async def test_it_is_bounded() -> None:
    counts = Accepted(Books())
    for number in range(accepted.MAX_COUNTS + 10):
        counts.note(str(number), T0 * 1_000_000)
    assert len(counts._counts) == accepted.MAX_COUNTS
