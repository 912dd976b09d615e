"""The commands that people type: up, status, down, reset."""

import re
import urllib.request

from checkout import Checkout


def test_up_prints_the_address_and_down_leaves_nothing_behind(checkout: Checkout) -> None:
    """All services are healthy when the address is printed; `down` keeps what is stored, `reset` deletes it."""
    status, words = checkout.start()
    assert status == 0, words
    (address,) = re.findall(r"Ferry is ready: (http://127\.0\.0\.1:\d+)", words)
    with urllib.request.urlopen(f"{address}/server_info", timeout=10) as answer:  # noqa: S310 - the stack
        assert answer.status == 200

    status, words = checkout.script("status.sh")
    assert status == 0
    assert (
        len(
            re.findall(
                r"^(postgres|user-code|webserver|daemon|docker-proxy) .*\(healthy\)", words, re.MULTILINE
            )
        )
        == 5
    )

    status, words = checkout.script("stop.sh")
    assert status == 0, words
    assert checkout.left("container") == []
    assert checkout.left("network") == []
    volumes = checkout.left("volume")
    assert len(volumes) == 3

    status, words = checkout.script("stop.sh", "reset", stdin="no\n")
    assert status == 1
    assert "Nothing was deleted" in words
    assert checkout.left("volume") == volumes

    status, words = checkout.script("stop.sh", "reset", stdin=f"{checkout.project}\n")
    assert status == 0, words
    assert checkout.left("volume") == []
