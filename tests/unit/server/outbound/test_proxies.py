"""Which proxy a request goes through."""

import pytest

from corral.errors import InvalidRequest
from corral.server.outbound.http import check_url
from corral.server.outbound.proxies import Proxies, choose_proxies

BOTH = Proxies("http://p:1", "s:2", ("example.org", ".internal", "10.0.0.0/8", "*.lan"))


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://images.test/x", "http://p:1"),
        ("https://images.test/x", "http://s:2"),
        ("https://example.org/", None),
        ("https://sub.example.org:8443/", None),
        ("https://notexample.org/", "http://s:2"),
        ("https://a.internal/", None),
        ("https://a.lan/", None),
        ("https://10.1.2.3/", None),
        ("https://11.1.2.3/", "http://s:2"),
        ("https://localhost/", None),
        ("https://127.0.0.2/", None),
        ("https://[::1]:8443/", None),
    ],
)
def test_the_choice(url: str, proxy: str | None) -> None:
    assert BOTH.choose(url) == proxy


def test_all_may_be_ignored() -> None:
    assert Proxies("http://p", "http://p", ("*",)).choose("http://x/") is None
    assert Proxies().choose("http://x/") is None


def test_settings_go_before_the_environment() -> None:
    environ = {"HTTP_PROXY": "http://e", "https_proxy": "http://f", "NO_PROXY": "a, b"}
    assert choose_proxies("", "", "", environ) == Proxies("http://e", "http://f", ("a", "b"))
    assert choose_proxies("http://x", "", "c", environ) == Proxies("http://x", "http://f", ("c",))


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://x/", "http://", "http://x:99999/", "http://x:a/", "http://x/ y", "http://x/\n", "http://[x/"],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(InvalidRequest, match="Invalid URL"):
        check_url(url)
