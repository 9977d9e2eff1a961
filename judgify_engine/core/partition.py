"""Which partition a tenant belongs to: the same in every process and for ever. Pure.

Python's `hash()` differs from process to process, so: CRC-32 (ISO 3309) of the UTF-8 name.
"""

from functools import lru_cache
from zlib import crc32


@lru_cache(maxsize=4096)
def partition_of(tenant_id: str, partitions: int) -> int:
    """The partition, from 0 to `partitions` - 1, of a tenant."""
    return crc32(tenant_id.encode()) % partitions
