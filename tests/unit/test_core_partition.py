"""A tenant's partition is the same in every process, on every machine, for ever."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core.partition import partition_of

# CRC-32 (ISO 3309) of the UTF-8 name, 0xCBF43926 is its standard check value; never to change, or a tenant's order is lost.
KNOWN = {"": 0, "demo": 0xD642DFA0, "acme": 0x05C4BA3E, "123456789": 0xCBF43926, "müller-ß": 0xD4B6BDA2, "租户": 0x9697A093}


@pytest.mark.parametrize(("tenant", "crc"), KNOWN.items())
def test_partitions_never_change(tenant: str, crc: int) -> None:
    for partitions in (1, 2, 7, 8, 64):
        assert partition_of(tenant, partitions) == crc % partitions


def test_another_process_agrees() -> None:
    code = "from judgify_engine.core.partition import partition_of; print([partition_of(f't{i}', 8) for i in range(50)])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == str([partition_of(f"t{i}", 8) for i in range(50)])


@given(st.text(st.characters(codec="utf-8"), max_size=10), st.integers(1, 64))
def test_it_is_one_of_the_partitions(tenant: str, partitions: int) -> None:
    assert 0 <= partition_of(tenant, partitions) < partitions


def test_tenants_spread_over_all_partitions() -> None:
    assert {partition_of(f"tenant-{i}", 8) for i in range(200)} == set(range(8))
