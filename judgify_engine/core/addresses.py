"""Which addresses are of the public internet. Pure."""

import ipaddress

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.0.0.0/24",  # of protocols; one cloud has its metadata there
            "168.63.129.16/32",  # public by its number, but within Azure its agent of the host
            "::/96",  # an IPv4 address in an outdated form
            "::ffff:0:0:0/96",  # and one that is translated
            "64:ff9b:1::/48",  # NAT64 of a private network
            "fec0::/10",  # private in an outdated form
            "5f00::/16",  # segments of a provider's own network
        ),
    )
)
"""What Python calls global (which of these, depends on its version)."""


def is_public(address: str) -> bool:
    """Whether anybody may be called there: not this machine, not a private network, not the metadata service of a cloud.

    An IPv6 address that stands for an IPv4 one (mapped, 6to4, Teredo, NAT64) is as public as that. Raises ValueError.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast and not any(found in network for network in _NOT_PUBLIC)


def is_address(host: str) -> bool:
    """Whether a URL's host is an address and no name."""
    try:
        ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True
