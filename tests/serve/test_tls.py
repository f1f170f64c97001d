"""Encrypted connections, with certificates made here."""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Client, served

from lm.made_models import two_way_lm
from mdlm_atat.errors import UserError
from mdlm_atat.serve.guard import Guard
from mdlm_atat.serve.server import address, listen
from mdlm_atat.serve.tls import Certificate, read_certificate

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
WEAK = ["-days", "9", "-subj", "/CN=weak"]
NAMES = "subjectAltName=DNS:localhost,DNS:Atat.example,DNS:*.atat.example,IP:127.0.0.1,IP:::1"


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates and keys, good and bad."""
    folder = tmp_path_factory.mktemp("tls")
    self_signed = ["req", "-x509", *KEY, "-nodes", "-days", "9", "-subj", "/CN=atat"]
    openssl(folder, *self_signed, "-addext", NAMES, "-keyout", "server.key", "-out", "server.crt")
    clients = ["-addext", "extendedKeyUsage=clientAuth"]
    openssl(folder, *self_signed, *clients, "-keyout", "client.key", "-out", "client.crt")
    openssl(folder, "req", "-new", "-key", "client.key", "-subj", "/CN=atat", "-out", "old.csr")
    openssl(folder, "x509", "-req", "-in", "old.csr", "-signkey", "client.key", "-days", "0", "-out", "old.crt")
    openssl(folder, "ec", "-aes256", "-passout", "pass:x", "-in", "server.key", "-out", "secret.key")
    openssl(folder, "req", "-x509", "-newkey", "rsa:1024", "-nodes", "-keyout", "weak.key", *WEAK, "-out", "weak.crt")
    openssl(folder, "req", *KEY, "-nodes", "-subj", "/CN=leaf", "-keyout", "leaf.key", "-out", "leaf.csr")
    signed_by = ["-CA", "server.crt", "-CAkey", "server.key", "-CAcreateserial"]
    openssl(folder, "x509", "-req", "-in", "leaf.csr", *signed_by, "-days", "9", "-out", "leaf.crt")
    for kind in ("ed25519", "x25519"):
        openssl(folder, "genpkey", "-algorithm", kind, "-out", f"{kind}.key")
    leaf, authority = ((folder / name).read_text() for name in ("leaf.crt", "server.crt"))
    (folder / "chain.pem").write_text(leaf + authority)
    (folder / "wrong.pem").write_text(authority + leaf)
    both = (folder / "server.key").read_text() + (folder / "server.crt").read_text()
    (folder / "both.pem").write_text(both)
    (folder / "noise.pem").write_bytes(bytes(range(256)))
    (folder / "empty.pem").touch()
    der = ssl.PEM_cert_to_DER_cert((folder / "server.crt").read_text())
    (folder / "server.der").write_bytes(der)
    return folder


@pytest.fixture(scope="module")
def certificate(folder: Path) -> Certificate:
    found = read_certificate(folder / "server.crt", folder / "server.key")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def client(folder: Path, certificate: Certificate) -> Iterator[Client]:
    trusts = ssl.create_default_context(cafile=str(folder / "server.crt"))
    guard = Guard("127.0.0.1", "s3cret", certificate.names)
    with served(two_way_lm(letters="abc", length=16), guard=guard, tls=certificate.context, trusts=trusts) as client:
        yield client


def test_a_client_that_trusts_the_certificate_is_answered_over_tls(client: Client):
    answer = client.post("/v1/infill", {"text": "a[MASK:2]", "stream": True}, Authorization="Bearer s3cret")
    assert answer.status == 200
    assert [name for name, _ in answer.events][-2:] == ["result", "end"]
    assert client.get("/v1/model").status == 401
    with pytest.raises(ssl.SSLCertVerificationError):
        Client(client.port, None, ssl.create_default_context()).get("/health")


def test_the_server_speaks_tls_1_2_at_least_and_no_plain_http(
    client: Client, folder: Path, capfd: pytest.CaptureFixture[str]
):
    with pytest.raises((http.client.HTTPException, OSError)):
        Client(client.port, None).get("/health")
    for garbage in (b"\x16\x03\x01\x00\x05hello", b"\x00" * 300, b""):
        with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
            connection.sendall(garbage)
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as plain:
        trusts = ssl.create_default_context(cafile=str(folder / "server.crt"))
        with trusts.wrap_socket(plain, server_hostname="localhost") as connection:
            assert connection.version() in ("TLSv1.2", "TLSv1.3")
    assert client.get("/health", Authorization="Bearer s3cret").status == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://localhost:8017", 200), ("http://localhost:8017", 403), ("https://localhost", 403), ("null", 403)],
)
def test_its_own_page_has_an_origin_of_https(origin: str, status: int, client: Client):
    headers = {"Host": "localhost:8017", "Origin": origin, "Authorization": "Bearer s3cret"}
    assert client.post("/v1/infill", {"text": "a[MASK]"}, **headers).status == status


@pytest.mark.parametrize(
    ("host", "status"),
    [("atat.example", 200), ("ATAT.example:1", 200), ("x.atat.example", 403), ("evil.example", 403)],
)
def test_it_is_reached_by_the_names_of_its_certificate(host: str, status: int, client: Client):
    assert client.get("/v1/model", Host=host, Authorization="Bearer s3cret").status == status


def test_behind_a_proxy_that_encrypts_its_page_is_let_in():
    with served(two_way_lm(letters="abc", length=16), guard=Guard("127.0.0.1", None, ["Atat.example"])) as client:
        for host, origin, status in (
            ("atat.example", "https://atat.example", 200),
            ("atat.example", "http://atat.example", 200),
            ("atat.example", "https://evil.example", 403),
            ("localhost", "https://localhost", 403),
        ):
            assert client.post("/v1/infill", {"text": "a[MASK]"}, Host=host, Origin=origin).status == status


@pytest.mark.parametrize(
    ("cert", "key", "message"),
    [
        ("server.crt", None, "`tls_cert=FOLDER/server.crt` needs `tls_key=` too"),
        (None, "server.key", "`tls_key=FOLDER/server.key` needs `tls_cert=` too"),
        ("nosuch.crt", "server.key", "`tls_cert=FOLDER/nosuch.crt`: there is no such file"),
        ("server.crt", "nosuch.key", "`tls_key=FOLDER/nosuch.key`: there is no such file"),
        (".", "server.key", "`tls_cert=FOLDER`: this is no file"),
        ("noise.pem", "server.key", "`tls_cert=FOLDER/noise.pem`: this is no certificate in PEM"),
        ("empty.pem", "server.key", "`tls_cert=FOLDER/empty.pem`: this is no certificate in PEM"),
        ("server.der", "server.key", "`tls_cert=FOLDER/server.der`: this is no certificate in PEM"),
        ("server.key", "server.crt", "`tls_cert=FOLDER/server.key`: this is no certificate in PEM"),
        ("server.crt", "server.crt", "`tls_key=FOLDER/server.crt`: this is no private key in PEM"),
        ("server.crt", "noise.pem", "`tls_key=FOLDER/noise.pem`: this is no private key in PEM"),
        ("server.crt", "client.key", "`tls_key=FOLDER/client.key`: this is not the key of the certificate"),
        ("server.crt", "weak.key", "`tls_key=FOLDER/weak.key`: this is not the key of the certificate"),  # RSA
        ("server.crt", "ed25519.key", "`tls_key=FOLDER/ed25519.key`: this is not the key of the certificate"),
        ("server.crt", "x25519.key", "`tls_key=FOLDER/x25519.key`: this is not the key of the certificate"),
        ("server.crt", "secret.key", "`tls_key=FOLDER/secret.key`: this key has a password"),
        ("wrong.pem", "leaf.key", "`tls_key=FOLDER/leaf.key`: this is not the key of the certificate"),
        ("weak.crt", "weak.key", "`tls_cert=FOLDER/weak.crt`: too weak for TLS"),
        ("client.crt", "client.key", "`tls_cert=FOLDER/client.crt`: not for a server"),
    ],
)
def test_what_is_no_certificate_with_its_key_is_refused(cert: str | None, key: str | None, message: str, folder: Path):
    files = [None if name is None else folder / name for name in (cert, key)]
    with pytest.raises(UserError, match=re.escape(message.replace("FOLDER", str(folder)))):
        read_certificate(*files)


def test_a_certificate_that_has_expired_is_taken_with_a_warning(folder: Path):
    with pytest.warns(UserWarning, match=r"old.crt is for the time from .* refuse it today"):
        assert read_certificate(folder / "old.crt", folder / "client.key") is not None


def test_one_file_may_hold_both_and_none_is_none(folder: Path, certificate: Certificate):
    both = read_certificate(folder / "both.pem", folder / "both.pem")
    assert both is not None
    assert both.names == certificate.names == ("localhost", "atat.example", "127.0.0.1", "::1")
    assert read_certificate(None, None) is None
    assert read_certificate(folder / "chain.pem", folder / "leaf.key") is not None


@pytest.mark.parametrize(
    ("host", "names", "expected"),
    [
        ("127.0.0.1", ("localhost",), "https://localhost:"),
        ("127.0.0.1", ("127.0.0.1", "localhost"), "https://127.0.0.1:"),
        ("127.0.0.1", ("atat.example",), "https://127.0.0.1:"),
        ("0.0.0.0", ("localhost", "atat.example"), "https://atat.example:"),
        ("0.0.0.0", (), f"https://{socket.gethostname()}:"),
        ("0.0.0.0", ("atat.example", socket.gethostname().lower()), f"https://{socket.gethostname()}:"),
    ],
)
def test_the_address_is_of_https_and_a_name_of_the_certificate(
    host: str, names: tuple[str, ...], expected: str, certificate: Certificate
):
    with listen(host, 0) as sock:
        assert address(sock, "t", Certificate(certificate.context, names)).startswith(expected)
