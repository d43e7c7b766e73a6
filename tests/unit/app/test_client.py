"""Where the command line and people find the web process."""

from pathlib import Path

import pytest

from app.client import base_url, page_url
from app.settings import Settings


@pytest.mark.parametrize(
    ("told", "url"),
    [
        (None, "http://127.0.0.1:8080"),
        ("http://127.0.0.1:9191\n", "http://127.0.0.1:9191"),
        ("http://0.0.0.0:8080", "http://127.0.0.1:8080"),  # it answers to loopback names, not to this one
        ("http://[::]:8080", "http://[::1]:8080"),
        ("http://192.0.2.3:8080", "http://192.0.2.3:8080"),
    ],
)
def test_the_address_is_one_that_answers(tmp_path: Path, told: str | None, url: str) -> None:
    (tmp_path / "run").mkdir()
    if told is not None:
        (tmp_path / "run" / "web.ready").write_text(told)
    assert base_url(Settings(data_dir=tmp_path)) == url


def test_behind_a_tls_proxy_people_get_its_name(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, web_hosts=["farm.example", "other"], web_secure_cookie=True)
    assert page_url(settings) == "https://farm.example"
    assert base_url(settings) == "http://127.0.0.1:8080"
