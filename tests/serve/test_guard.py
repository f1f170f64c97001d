"""Who is let in, and what every answer says to browsers."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from serving import Client, served

from lm.made_models import two_way_lm
from mdlm_atat.serve.guard import CONTENT_SECURITY_POLICY, Guard, host_name, is_loopback, new_token

TOKEN = "s3cret-Token"


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served(two_way_lm(letters="abc", length=16)) as client:
        yield client


@pytest.fixture(scope="module")
def locked() -> Iterator[Client]:
    lm = two_way_lm(letters="abc", length=16)
    with served(lm, guard=Guard("0.0.0.0", TOKEN, ["atat.example"])) as client:
        yield client


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8017"])
def test_this_machine_is_reached_by_its_names_at_any_port(host: str, client: Client):
    assert client.get("/health", Host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8017",
        "localhost.evil.example",
        "evil.example#localhost",
        "localhost@evil.example",
        "localhost:x",
        "192.168.1.2",
        "",
        "127.0.0.1.nip.io",
        "localhost/",
    ],
)
def test_another_name_in_host_is_refused(host: str, client: Client):
    answer = client.post("/v1/infill", {"text": "a[MASK]"}, Host=host)
    assert (answer.status, answer.mistake["type"]) == (403, "forbidden")
    assert client.get("/", Host=host).status == 403


@pytest.mark.parametrize("hosts", ["", "Host: localhost\r\nHost: evil.example\r\n"])
def test_no_host_or_two_are_refused(hosts: str, client: Client):
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
        connection.sendall(f"GET /health HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.split(b" ")[1] in (b"400", b"403")
    assert b'"active"' not in answer


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost", "https://localhost:8017", "http://localhost:80170"]
)
def test_another_sites_page_is_refused(origin: str, client: Client):
    answer = client.post("/v1/infill", {"text": "a[MASK]"}, Host="localhost:8017", Origin=origin)
    assert (answer.status, answer.mistake["type"]) == (403, "forbidden")
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert client.request("OPTIONS", "/v1/infill", headers={"Host": "localhost:8017", "Origin": origin}).status == 403


def test_its_own_page_and_programs_are_let_in(client: Client):
    body = {"text": "a[MASK]"}
    own = {"Host": "localhost:8017", "Origin": "http://localhost:8017", "Sec_Fetch_Site": "same-origin"}
    assert client.post("/v1/infill", body, **own).status == 200
    assert client.post("/v1/infill", body, Content_Type="application/x-www-form-urlencoded").status == 200
    assert client.post("/v1/infill", body, Sec_Fetch_Site="cross-site").status == 403
    assert client.get("/v1/model", Sec_Fetch_Site="none").status == 200


@pytest.mark.parametrize("path", ["/", "/health", "/v1/model", "/nosuch", "/openapi.json"])
def test_every_answer_forbids_frames_sniffing_caching_and_foreign_scripts_and_sets_no_cookie(path: str, client: Client):
    headers = client.get(path).headers
    assert headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    assert "Set-Cookie" not in headers
    assert "aiohttp" not in headers["Server"]


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN[:-1]}",
    ],
)
def test_without_the_token_nothing_is_answered(given: str | None, locked: Client):
    headers = {} if given is None else {"Authorization": given}
    for path in ("/v1/model", "/health", "/openapi.json", f"/v1/model?token={TOKEN}"):
        answer = locked.get(path, **headers)
        assert (answer.status, answer.mistake["type"]) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert locked.post("/v1/infill", {"text": "a[MASK]"}, **headers).status == 401
    assert locked.get("/nosuch", **headers).status == 401
    assert locked.get("/index.html", **headers).status in (200, 404)  # the page, which holds no secret


def test_with_the_token_and_a_name_that_is_its_own_it_answers(locked: Client):
    for host in ("atat.example", "192.168.1.2:8017", "localhost", "[fe80::1]:8017", socket.gethostname()):
        assert locked.get("/v1/model", Host=host, Authorization=f"bearer {TOKEN}").status == 200
    assert locked.get("/v1/model", Host="evil.example", Authorization=f"Bearer {TOKEN}").status == 403
    assert locked.get("/v1/model", Authorization="Bearer töken").status == 401


def test_files_outside_the_page_are_not_to_be_had(client: Client):
    for path in ("/../app.py", "/app.py", "/..%2fapp.py", "/%2e%2e/app.py", "/page/../../app.py", "/.env", "/page.py"):
        assert client.get(path).status == 404


@pytest.mark.parametrize(
    ("host", "name"), [("a.b:1", "a.b"), ("A.B", "a.b"), ("[::1]:2", "::1"), ("a:b", None), ("a/b", None), ("", None)]
)
def test_a_host_header_is_read(host: str, name: str | None):
    assert host_name(host) == name


def test_this_machine_alone_is_told_from_others():
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "127.8.8.8")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "example.com", "")))


def test_tokens_are_long_and_differ():
    assert len({new_token() for _ in range(100)}) == 100
    assert len(new_token()) >= 32
