"""The simulated plant stays within its ranges, repeats for a seed, and is worth watching."""

import itertools
import json
import random
from collections import defaultdict

from judgify_engine.commands.plant import MACHINES, OPERATORS, RANGES, SHIFTS, WORKFLOWS, Plant


def requests(seed: int, count: int, now_s: float = 0.0) -> list[dict]:  # type: ignore[type-arg]
    plant = Plant(random.Random(seed))
    return [json.loads(plant.next_body(now_s)) for _ in range(count)]


def test_same_seed_gives_the_same_plant() -> None:
    assert requests(7, 200) == requests(7, 200)
    assert requests(7, 200) != requests(8, 200)


def test_every_reading_is_complete_and_within_its_range() -> None:
    for request in requests(1, 20_000):
        values = request["input_data"]
        for name, (low, high) in RANGES.items():
            assert low <= values[name] <= high
        assert isinstance(values["user_id"], int)
        assert request["context"]["shift"] in SHIFTS
        assert request["context"]["operator"] in {f"operator_{n}" for n in range(OPERATORS)}


def test_all_workflows_and_machines_take_part() -> None:
    found = requests(2, 5_000)
    assert {r["workflow_id"] for r in found} == {f"test-workflow-{n}" for n in range(WORKFLOWS)}
    assert {r["input_data"]["machine_id"] for r in found} == {f"MACHINE_{n}" for n in range(MACHINES)}


def test_shift_follows_the_hour() -> None:
    hours = (1, 9, 17, 25)
    assert [requests(3, 1, hour * 3600.0)[0]["context"]["shift"] for hour in hours] == [
        "night",
        "day",
        "evening",
        "night",
    ]


def test_machines_drift_slowly_and_sometimes_run_hot() -> None:
    by_machine = defaultdict(list)
    for request in requests(4, 40_000):
        by_machine[request["input_data"]["machine_id"]].append(request["input_data"]["temperature"])
    temperatures = [value for readings in by_machine.values() for value in readings]
    hot = sum(1 for value in temperatures if value > 95.0) / len(temperatures)
    assert 0.005 < hot < 0.3
    low, high = RANGES["temperature"]
    steps = [abs(b - a) for readings in by_machine.values() for a, b in itertools.pairwise(readings)]
    assert sum(steps) / len(steps) < 0.1 * (high - low)  # neighbours are alike, it is no white noise
    assert max(temperatures) - min(temperatures) > 0.6 * (high - low)
