"""What nobody hears of: a broken connection is one line, everything else is told in full."""

import asyncio
import gc
import logging
from collections.abc import Callable

import asyncpg
import pytest
import uvloop

from judgify_engine.worker import Stop, tell_unheard


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop])
def unheard(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Callable[..., list[logging.LogRecord]]:
    """Lets a future fail that nobody looks at, and gives what is logged of it."""

    def fail(error: Exception, *, in_task: bool = False) -> list[logging.LogRecord]:
        async def failing() -> None:
            asyncio.get_running_loop().set_exception_handler(tell_unheard)

            async def work() -> None:
                raise error

            future = asyncio.ensure_future(work()) if in_task else asyncio.get_running_loop().create_future()
            if in_task:
                await asyncio.wait((future,))
            else:
                future.set_exception(error)
            del future
            gc.collect()

        with asyncio.Runner(loop_factory=request.param) as runner, caplog.at_level(logging.INFO):
            runner.run(failing())
        return caplog.records

    return fail


LOST = asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")


def test_a_connection_that_broke_is_one_line(unheard: Callable[..., list[logging.LogRecord]]) -> None:
    (record,) = unheard(LOST)
    assert (record.name, record.levelname, record.exc_info) == ("judgify_engine.worker", "INFO", None)
    assert record.reason == "connection was closed in the middle of operation"


@pytest.mark.parametrize(("error", "in_task"), [(ValueError("a fault"), False), (ValueError("a fault"), True), (LOST, True)])
def test_a_fault_of_ours_is_told_in_full(
    unheard: Callable[..., list[logging.LogRecord]], error: Exception, in_task: bool
) -> None:
    (record,) = unheard(error, in_task=in_task)
    assert (record.name, record.levelname) == ("asyncio", "ERROR")
    assert "never retrieved" in record.getMessage()
    assert record.exc_info


async def test_a_start_that_swallows_a_cancellation_is_ended_nevertheless() -> None:
    """As `wait_for` of Python 3.11 does, which asyncpg uses."""
    stop = Stop()

    async def swallowing() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    async with asyncio.timeout(5):
        starting = asyncio.create_task(stop.unless(swallowing()))
        await asyncio.sleep(0)
        stop.now.set()
        assert not await starting
