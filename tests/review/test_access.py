"""Nobody else gets in: attacks by other pages, names, users and header values."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from pipeline.cli import main
from tests.conftest import Lake
from tests.processes import is_loopback, listening
from tests.review.conftest import HOSTILE
from tests.review.reviews import Browser, Review


@pytest.fixture(scope="module")
def browser(review: Review) -> Browser:
    return Browser(review, "ann")


@pytest.mark.slow
def test_it_listens_on_loopback_only_and_names_its_token_in_no_process_list(
    review: Review,
) -> None:
    assert {port for _, port in listening(review.process.pid)} == {review.port}
    assert all(is_loopback(address) for address, _ in listening(review.process.pid))
    token = urlsplit(review.url).query.partition("=")[2]
    assert len(token) >= 43
    assert not any(token in part for part in psutil.Process(review.process.pid).cmdline())


@pytest.mark.slow
def test_without_a_session_nothing_is_shown(review: Review, browser: Browser) -> None:
    content = browser.next()
    for path in ("/", "/api/state", f"/image/{content}", "/?token=guessed", "/?token=", "/nothing"):
        for cookie in ("", "dicom_router_review=x", f"dicom_router_review_{review.port}=guessed"):
            response, body = browser.request("GET", path, headers={"Cookie": cookie})
            assert response.status == 403, path
            assert b"csrf" not in body
            assert response.getheader("set-cookie") is None
    status, _ = browser.send("next", {"Cookie": ""})
    assert status == 403


@pytest.mark.slow
def test_the_cookie_is_kept_from_scripts_and_other_sites(review: Review, browser: Browser) -> None:
    path = f"/?{urlsplit(review.url).query}"
    response, body = browser.request("GET", path, headers={"Cookie": ""})
    cookie = (response.getheader("set-cookie") or "").lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert urlsplit(review.url).query not in body.decode()
    response, _ = browser.request("GET", path)
    assert response.getheader("set-cookie") is None, "the session continues"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-CSRF-Token": ""}, 403),
        ({"X-CSRF-Token": "guessed"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "localhost.evil.example:80"}, 421),
        ({"Host": "[::1"}, 421),
        ({"Host": ""}, 400),
    ],
    ids=str,
)
def test_a_change_from_elsewhere_is_refused(
    browser: Browser, headers: dict[str, str], status: int
) -> None:
    found, _ = browser.send("next", headers)
    assert found == status


@pytest.mark.parametrize("host", ["localhost", "[::1]", "10.0.0.1"])
def test_it_can_be_reached_by_address_or_forwarded_port(browser: Browser, host: str) -> None:
    named = f"{host}:8000"
    status, _ = browser.send("next", {"Host": named, "Origin": f"http://{named}"})
    assert status == 200


def test_pages_of_other_names_do_not_load(browser: Browser) -> None:
    for path in ("/", "/static/review.js"):
        response, _ = browser.request("GET", path, headers={"Host": "evil.example"})
        assert response.status == 421


def test_every_answer_has_the_headers_that_protect_it(browser: Browser) -> None:
    content = browser.next()
    for path in ("/", "/static/review.js", f"/image/{content}", "/api/state", "/missing"):
        response, _ = browser.request("GET", path)
        policy = response.getheader("content-security-policy") or ""
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert response.getheader("cache-control") == "no-store"
        assert response.getheader("x-content-type-options") == "nosniff"
        assert response.getheader("cross-origin-resource-policy") == "same-origin"
        assert response.getheader("server") is None


def test_files_outside_the_static_folder_are_not_served(browser: Browser) -> None:
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/static/"):
        response, body = browser.request("GET", path)
        assert response.status in (403, 404), path
        assert b"import" not in body


@pytest.mark.parametrize(
    "body",
    [
        {"content": "../../etc/passwd"},
        {"content": "0" * 63},
        {"content": 7},
        {"client": "x"},
        {"client": None},
        {"label_id": "../x"},
        {"label_id": 1},
        {"answer": "lung"},
        {"answer": "undo"},
        {"answer": ["spine"]},
    ],
    ids=str,
)
def test_malformed_answers_are_refused_and_nothing_is_stored(
    browser: Browser, shared_lake: Lake, body: dict[str, Any]
) -> None:
    sound = {"content": browser.next(), "answer": "spine", "label_id": "0" * 32}
    status, found = browser.send("next" if "client" in body else "answer", **{**sound, **body})
    assert status == 400
    assert set(found) == {"problem"}
    assert not (shared_lake.root / "labels").exists()


@pytest.mark.parametrize("name", ["", " ", "<b>", "a" * 41, "a\nb", "=1+1"])
def test_malformed_nicknames_are_refused(browser: Browser, name: str) -> None:
    status, _ = browser.send("reviewer", reviewer=name)
    assert status == 400


def test_an_unknown_image_and_other_paths_are_not_found(browser: Browser) -> None:
    for path in (f"/image/{'0' * 64}", "/image/..%2f..%2fetc%2fpasswd", "/image/x", "/api/next"):
        response, _ = browser.request("GET", path)
        assert response.status in (404, 405)
    status, _ = browser.send("answer", content="0" * 64, answer="spine", label_id="0" * 32)
    assert status == 404
    assert browser.send("queue", queue="x")[0] == 404
    assert browser.send("next", queue="x")[0] == 400


def test_large_and_malformed_bodies_are_refused(browser: Browser) -> None:
    assert browser.send("next", padding="x" * 20_000)[0] == 413
    headers = {"Content-Type": "application/json", "X-CSRF-Token": browser.csrf}
    for body in (b"{", b"[]", b"\xff", b"[" * 5000):
        response, _ = browser.request("POST", "/api/next", body, headers)
        assert response.status == 400
    chunked = {**headers, "Transfer-Encoding": "chunked"}
    response, _ = browser.request("POST", "/api/next", headers=chunked)
    assert response.status == 413


def test_header_values_are_escaped_and_nothing_identifies_the_patient(browser: Browser) -> None:
    pages = [browser.post("next", queue=name)["item"] for name in ("review", "disagreements")]
    seen = json.dumps(pages)
    for _ in range(6):
        answer = browser.post("skip", content=pages[0]["content"])
        pages[0] = answer["item"]
        seen += json.dumps(answer)
    html = seen.replace('\\"', '"')
    for value in HOSTILE.values():
        assert value not in html
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html
    for secret in ("SECRET", "source", "P1", "/tmp"):
        assert not re.search(rf"\b{secret}\b", html)


def test_other_addresses_need_to_be_allowed(
    copied: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    for address in ("0.0.0.0", "::", "192.168.1.1", "name"):
        assert main(["review", str(copied.root), "--address", address]) == 2
        assert "--address" in capsys.readouterr().err
