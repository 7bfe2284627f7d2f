"""Replaces e-mail and IP addresses in texts by ones that are nobody's."""

from __future__ import annotations

import ipaddress
import re

EMAIL = "email@example.org"
"""example.org is reserved (RFC 2606)."""
IPV4, IPV6 = "192.0.2.1", "2001:db8::1"
"""Reserved for documentation (RFC 5737, RFC 3849)."""

_LOCAL = r"[A-Za-z0-9._%+-]"
# It begins at the first character of a run only, so that a run of any length is read once.
_EMAIL = re.compile(
    rf"(?<!{_LOCAL}){_LOCAL}{{1,64}}@(?:[A-Za-z0-9-]{{1,63}}\.){{1,8}}[A-Za-z]{{2,24}}(?![\w-])"
)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)")
# The addresses in use begin with 2 or 3; what else has colons is time, or C++.
_IPV6 = re.compile(
    r"(?<![\w:.])[23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![\w:]|\.\d)"
)


def without_emails(text: str) -> str:
    """Every e-mail address as `EMAIL`."""
    return _EMAIL.sub(EMAIL, text) if "@" in text else text


def without_ip_addresses(text: str) -> str:
    """Every public IP address as `IPV4` or `IPV6`; those of private networks and of loopback
    identify nobody. A version number of four parts looks like an address, and is replaced, too."""
    text = _IPV4.sub(lambda match: IPV4 if _is_public(match[0]) else match[0], text)
    return _IPV6.sub(lambda match: IPV6 if _is_public(match[0]) else match[0], text)


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
