"""The queue of a partition is bounded from `put` until answered, refuses clearly, and loses nobody."""

import asyncio
import gc
import weakref

import pytest
from builders import judgment, settle

from judgify_engine.core.model import Judgment
from judgify_engine.errors import CommitUnknown, Draining, QueueFull
from judgify_engine.pipeline import partition_queue
from judgify_engine.pipeline.partition_queue import PartitionQueue, Sender

MANY = 10**9


def big(number: int, size: int, tenant_id: str = "demo") -> Judgment:
    """A judgment that counts as `size` bytes."""
    empty = judgment(number, tenant_id=tenant_id).size_bytes - len(judgment().input_data)
    made = judgment(number, tenant_id=tenant_id, input_data=b"x" * (size - empty))
    assert made.size_bytes == size
    return made


async def test_it_refuses_when_full_in_rows() -> None:
    queue = PartitionQueue(0, 2, MANY)
    queue.put(judgment(1))
    queue.put(judgment(2))
    with pytest.raises(QueueFull) as caught:
        queue.put(judgment(3))
    assert caught.value.status == 503
    assert caught.value.retry_after_s > 0
    assert (len(queue), queue.rows) == (2, 2)


async def test_it_refuses_when_full_in_bytes() -> None:
    queue = PartitionQueue(0, MANY, 2500)
    queue.put(big(1, 1000))
    queue.put(big(2, 1000, "other"))
    with pytest.raises(QueueFull):
        queue.put(big(3, 501))
    queue.put(big(4, 500))
    assert queue.bytes == 2500


async def test_one_tenant_that_fills_it_leaves_a_reserve_to_the_others() -> None:
    queue = PartitionQueue(0, 100, MANY)
    for number in range(100):
        queue.put(judgment(number, tenant_id="noisy"))
    with pytest.raises(QueueFull):
        queue.put(judgment(100, tenant_id="noisy"))
    for number in range(20):
        queue.put(judgment(number, tenant_id="quiet"))
    for number in range(5):
        queue.put(judgment(number, tenant_id="still"))
    with pytest.raises(QueueFull):
        queue.put(judgment(20, tenant_id="quiet"))
    assert queue.rows == 125, "which is the most that it ever holds"
    queue.done(queue.take(40, MANY))
    assert queue.rows == 85
    queue.put(judgment(100, tenant_id="noisy"))


async def test_the_reserve_is_bounded_in_bytes_too() -> None:
    queue = PartitionQueue(0, MANY, 4000)
    for number in range(4):
        queue.put(big(number, 1000, "noisy"))
    with pytest.raises(QueueFull):
        queue.put(big(4, 500, "noisy"))
    queue.put(big(1, 1000, "quiet"))
    with pytest.raises(QueueFull):
        queue.put(big(2, 500, "still"))
    assert queue.bytes == 5000


async def test_nothing_is_left_of_tenants_who_were_answered() -> None:
    queue = PartitionQueue(0, MANY, MANY)
    for number in range(300):
        queue.put(judgment(number, tenant_id=f"tenant-{number % 100}"))
    queue.done(queue.take(MANY, MANY))
    assert (queue.rows, queue.bytes, len(queue._held), len(queue._waiting)) == (0, 0, 0, 0)


async def test_tenants_take_turns() -> None:
    """However much one of them sends, another one is in the next batch; each one's own come in order."""
    queue = PartitionQueue(0, MANY, MANY)
    for number in range(1000):
        queue.put(judgment(number, tenant_id="noisy"))
    for number in range(3):
        queue.put(judgment(number, tenant_id="quiet"))
        queue.put(judgment(number, tenant_id="still"))
    batch = [item.judgment for item in queue.take(9, MANY)]
    for tenant, mine in (("noisy", 3), ("quiet", 3), ("still", 3)):
        assert [one.id for one in batch if one.tenant_id == tenant] == [judgment(number).id for number in range(mine)]
    rest = queue.take(MANY, MANY)
    assert [item.judgment.id for item in rest] == [judgment(number).id for number in range(3, 1000)]
    assert (len(queue), queue.rows, queue.oldest_age_s) == (0, 1006, 0.0)


async def test_what_is_being_committed_counts_until_done() -> None:
    queue = PartitionQueue(0, 2, MANY)
    queue.put(judgment(1))
    queue.put(judgment(2))
    batch = queue.take(10, MANY)
    assert (len(queue), queue.rows) == (0, 2)
    with pytest.raises(QueueFull):
        queue.put(judgment(3))
    queue.done(batch[:1])
    queue.put(judgment(3))
    queue.done(batch[1:])
    assert queue.rows == 1
    assert queue.bytes == judgment(3).size_bytes


async def test_room_comes_back_exactly() -> None:
    queue = PartitionQueue(0, 100, MANY)
    for round_ in range(20):
        for number in range(round_):
            queue.put(big(number, 600 + number))
        while len(queue):
            queue.done(queue.take(3, MANY))
        assert (queue.rows, queue.bytes) == (0, 0)


async def test_the_oldest_leave_first_within_rows_and_bytes() -> None:
    queue = PartitionQueue(0, MANY, MANY)
    for number in range(10):
        queue.put(big(number, 1000))
    taken = [
        [int.from_bytes(item.judgment.id) for item in queue.take(rows, size)] for rows, size in ((3, MANY), (10, 2500), (10, 1))
    ]
    assert taken == [[0, 1, 2], [3, 4], [5]]  # at least one, however large
    assert [int.from_bytes(item.judgment.id) for item in queue.take(MANY, MANY)] == [6, 7, 8, 9]
    assert queue.take(5, MANY) == []


async def test_a_closed_queue_takes_nothing_but_gives_what_it_has() -> None:
    queue = PartitionQueue(0, 10, MANY)
    queue.put(judgment(1))
    queue.close()
    with pytest.raises(Draining):
        queue.put(judgment(2))
    assert await queue.wait()
    assert len(queue.take(10, MANY)) == 1
    assert not await queue.wait()


async def test_waiting_ends_when_something_comes_and_when_it_is_closed() -> None:
    queue = PartitionQueue(0, 10, MANY)
    first = asyncio.create_task(queue.wait())
    await settle()
    assert not first.done()
    queue.put(judgment(1))
    assert await first
    queue.take(1, MANY)
    second = asyncio.create_task(queue.wait())
    await settle()
    assert not second.done()
    queue.close()
    assert not await second


async def test_the_age_is_that_of_the_oldest_waiting() -> None:
    queue = PartitionQueue(0, 10, MANY)
    assert queue.oldest_age_s == 0.0
    queue.put(judgment(1))
    assert queue.oldest_age_s >= 0.0
    queue.take(1, MANY)
    assert queue.oldest_age_s == 0.0


async def test_who_waited_too_long_is_told_that_it_may_still_be_committed() -> None:
    queue = PartitionQueue(0, 10, MANY)
    queued, committing, answered = (queue.put(judgment(number)) for number in range(3))
    answered.set_result(None)
    queue.take(2, MANY)
    assert queue.give_up(60.0) == 0
    assert not queued.done()
    assert queue.give_up(-1.0) == 2
    for future in (queued, committing):
        error = future.result()
        assert isinstance(error, CommitUnknown)
        assert error.retry_after_s > 0
    assert answered.result() is None
    assert queue.rows == 3  # their rows may still be committed: they count until done
    assert queue.give_up(-1.0) == 0


async def test_giving_up_answers_those_behind_one_that_is_answered() -> None:
    queue = PartitionQueue(0, 10, MANY)
    futures = [queue.put(judgment(number)) for number in range(4)]
    futures[0].set_result(None)
    futures[2].cancel()
    assert queue.give_up(-1.0) == 2
    assert all(future.done() for future in futures)


async def test_what_was_answered_is_not_held_any_more() -> None:
    """One commit that hangs must not keep every later judgment in memory: that buffer would be outside the bound."""
    queue = PartitionQueue(0, 10, MANY)
    hanging = queue.put(judgment(0))
    held = queue.take(1, MANY)
    answered: list[weakref.ref[asyncio.Future[object]]] = []
    for number in range(1, 200):
        answered.append(weakref.ref(queue.put(judgment(number))))
        batch = queue.take(1, MANY)
        batch[0].outcome.set_result(None)
        queue.done(batch)
        del batch
        if number % 10 == 0:
            queue.give_up(60.0)
    gc.collect()
    assert not hanging.done()
    assert len(held) == 1
    assert sum(ref() is not None for ref in answered) <= 20


async def test_gathering_ends_with_enough_rows() -> None:
    queue = PartitionQueue(0, MANY, MANY)
    queue.put(judgment(0))
    gathering = asyncio.create_task(queue.gather(3, 3600.0))
    await settle()
    queue.put(judgment(1))
    await settle()
    assert not gathering.done()
    queue.put(judgment(2))
    await asyncio.wait_for(gathering, 5)
    await asyncio.wait_for(queue.gather(3, 3600.0), 5)
    queue.take(3, MANY)
    waiting = asyncio.create_task(queue.wait())
    await settle()
    queue.put(judgment(3))
    assert await asyncio.wait_for(waiting, 5), "afterwards one is enough again"


async def test_gathering_ends_in_time() -> None:
    queue = PartitionQueue(0, MANY, MANY)
    queue.put(judgment(0))
    await asyncio.wait_for(queue.gather(2, 0.002), 5)
    await asyncio.wait_for(queue.gather(2, -1.0), 5)
    assert len(queue) == 1


async def test_gathering_ends_when_the_queue_is_closed() -> None:
    queue = PartitionQueue(0, MANY, MANY)
    queue.put(judgment(0))
    gathering = asyncio.create_task(queue.gather(2, 3600.0))
    await settle()
    queue.close()
    await asyncio.wait_for(gathering, 5)
    await asyncio.wait_for(queue.gather(2, 3600.0), 5)


async def test_senders_are_counted_once_and_forgotten_when_they_stay_away(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(partition_queue, "perf_counter", lambda: now_s)
    queue, senders = PartitionQueue(0, MANY, MANY), [Sender() for _ in range(5)]
    for number in range(20):
        queue.put(judgment(number), senders[number % 5])
    assert queue.senders == 5
    now_s += partition_queue.LATELY_S
    queue.put(judgment(20), senders[0])
    assert queue.senders == 5, "the others sent a moment ago"
    now_s += partition_queue.LATELY_S
    queue.put(judgment(21), senders[0])
    assert queue.senders == 1
    now_s += 10.0
    queue.put(judgment(22))
    assert queue.senders == 1, "one of whom nothing is known is not counted"


async def test_a_sender_counts_where_he_sends() -> None:
    queues, sender = [PartitionQueue(number, MANY, MANY) for number in range(2)], Sender()
    for number in range(4):
        queues[0].put(judgment(number), sender)
    assert [queue.senders for queue in queues] == [1, 0]
    queues[1].put(judgment(4), sender)
    assert queues[1].senders == 1
