# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists of networks in settings: whose clients may speak the protocol of 2017, which proxies are trusted."""

from __future__ import annotations

import ipaddress

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_networks(text: str) -> list[Network]:
    """Return the networks and addresses of a text with commas; raises ValueError if one of them is neither."""
    return [ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",")]


def is_in(address: str, networks: list[Network]) -> bool:
    """Return whether `address` is in one of the networks; a text that is no address is in none."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)
