"""One of several processes that a supervisor starts; not for people."""

import argparse
import asyncio
import signal
import socket
from pathlib import Path

from judgify_engine import control
from judgify_engine.observe import logs
from judgify_engine.observe.metrics import Metrics
from judgify_engine.observe.siblings import Siblings
from judgify_engine.parts import Parts
from judgify_engine.pipeline.team import Team
from judgify_engine.serving import run_on_loop
from judgify_engine.worker import Stop, Worker, databases, streams_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("control", help="the number of the inherited socket to the supervisor")


def run(args: argparse.Namespace) -> int:
    """Serve until the supervisor says otherwise, or is no more."""
    end = control.take(args.control)
    run_on_loop(lambda: _serve(end))
    return 0


async def _serve(end: socket.socket) -> None:
    stop = Stop()
    stop.on_signals()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: None)  # the supervisor's affair
    line = await control.Line.open(end)
    heard = await line.hear()
    if not heard:
        return  # the supervisor was stopped before it could say what to do
    orders = control.decode(heard)
    config, metrics = orders.config, Metrics()
    logs.configure(config.log.format, config.log.level, worker=orders.number)
    siblings = Siblings(Path(orders.folder), orders.number, orders.size, metrics)
    team = Team(orders.team, orders.size, config.workers, lambda size: line.say(control.ask_for(size)))
    turn = asyncio.Event()

    async def sockets() -> list[socket.socket]:
        found = [socket.socket(fileno=descriptor) for descriptor in orders.sockets]
        await line.say(control.BOUND)
        if not await stop.unless(turn.wait()):
            for one in found:
                one.close()
            return []
        for one in found:
            one.listen(config.http.backlog)
        return found

    async def beside(tasks: asyncio.TaskGroup) -> None:
        await siblings.serve()
        await line.say(control.READY)

    obeying = asyncio.create_task(_obey(line, stop, siblings, team, turn), name="control")
    try:
        async with databases(config, orders.dsn) as (judgments, rollups), streams_of(config) as streams:
            parts = Parts(config, judgments, rollups, metrics, siblings.figures, streams, team)
            await Worker(config, parts, metrics).run(stop, sockets, beside)
    finally:
        obeying.cancel()
        await asyncio.gather(obeying, return_exceptions=True)
        siblings.leave()
        line.close()


async def _obey(line: control.Line, stop: Stop, siblings: Siblings, team: Team, turn: asyncio.Event) -> None:
    """Until cancelled; a supervisor that is no more means: now."""
    while heard := await line.hear():
        if heard == control.PING:
            await line.say(control.PONG)
        elif heard == control.RETIRE:
            siblings.leave()
            stop.retire.set()
            await stop.deaf.wait()
            await line.say(control.DEAF)
        elif heard == control.LISTEN:
            turn.set()
        elif (told := control.told_size(heard)) is not None:
            team.told(*told)
            siblings.workers = team.size
    stop.now.set()
