"""Masking of e-mail and IP addresses."""

import pytest

from data_pipeline.text.masking import EMAIL, IPV4, IPV6, without_emails, without_ip_addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe+x@mail.example.com.", f"Write to {EMAIL}."),
        ("<a_b%c@sub.domain.co.uk>,d@e.fr", f"<{EMAIL}>,{EMAIL}"),
        ("mailto:j@x.museum?subject", f"mailto:{EMAIL}?subject"),
        ("a @ b.com, @user, x@localhost, me@x.1", "a @ b.com, @user, x@localhost, me@x.1"),
        ("no address", "no address"),
    ],
)
def test_emails(text: str, expected: str) -> None:
    assert without_emails(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from 8.8.8.8:53, 93.184.216.34.", f"from {IPV4}:53, {IPV4}."),
        ("192.168.0.1 127.0.0.1 10.1.2.3 0.0.0.0", "192.168.0.1 127.0.0.1 10.1.2.3 0.0.0.0"),
        ("300.1.1.1 1.2.3 1.2.3.4.5 v8.8.8.8", "300.1.1.1 1.2.3 1.2.3.4.5 v8.8.8.8"),
        ("at 2606:4700:4700::1111, ok", f"at {IPV6}, ok"),
        ("::1 fe80::1 12:30:45 std::vector a::b", "::1 fe80::1 12:30:45 std::vector a::b"),
    ],
)
def test_ip_addresses(text: str, expected: str) -> None:
    assert without_ip_addresses(text) == expected
