"""One try of a webhook: the address that is spoken to is the one that was checked, under the name's certificate."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.clients.webhooks import WebhookAnswer, WebhookClient, new_transport
from app.models import utc_now
from app.utils.exceptions import WebhookUrlRefusedException
from app.utils.waits import MAX_WAIT
from tests.fixtures.receiver import reply, running_receiver

NAME = "hooks.example.test"
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
BODY = '{"type":"t","data":{}}'


@asynccontextmanager
async def client_of(
    addresses: list[str] | None = None, *, verify: ssl.SSLContext | None = None, **changes: bool
) -> AsyncIterator[WebhookClient]:
    async def resolve(host: str, port: int) -> list[str]:
        return addresses or ["127.0.0.1"]

    transport = new_transport(verify or _NO_TLS)
    options = {"allow_private": True, "allow_http": True} | changes
    async with transport:
        yield WebhookClient(transport=transport, timeout=3, resolve=resolve, **options)


async def post(client: WebhookClient, url: str) -> WebhookAnswer:
    return await client.post(url, body=BODY, headers={"webhook-id": "1"})


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of NAME, by itself; with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(utc_now() - timedelta(days=1))
        .not_valid_after(utc_now() + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(encoding) + private)
    return path


async def test_the_certificate_must_be_of_the_name_though_the_address_is_spoken_to(certificate: Path):
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with running_receiver(tls=serving) as receiver, client_of(verify=trusting) as client:
        answer = await post(client, f"https://{NAME}:{receiver.port}/path?query=1")
        assert (answer.status_code, answer.error) == (200, None)
        assert receiver.arrived[0].path == "/path?query=1"
        assert receiver.arrived[0].headers["host"] == f"{NAME}:{receiver.port}"
        other = await post(client, f"https://other.example.test:{receiver.port}/")
        assert other.status_code is None
        assert "certificate" in (other.error or "").lower()
        assert len(receiver.arrived) == 1


async def test_an_address_that_does_not_answer_is_passed_over():
    async with (
        running_receiver(host="127.0.0.2") as receiver,
        client_of(["127.0.0.1", "127.0.0.2"]) as client,
    ):
        answer = await post(client, f"http://{NAME}:{receiver.port}/")
    assert answer.status_code == 200


async def test_closed_port_is_an_answer_without_status():
    async with client_of() as client:
        answer = await post(client, f"http://{NAME}:9/")
    assert (answer.status_code, answer.succeeded) == (None, False)
    assert "ConnectError" in (answer.error or "")


async def test_an_address_that_cannot_be_spoken_to_is_an_answer_too():
    async with client_of(["fe80::1%a b/"]) as client:
        answer = await post(client, f"http://{NAME}/")
    assert (answer.status_code, "InvalidURL" in (answer.error or "")) == (None, True)


async def test_redirects_are_not_followed_cookies_not_kept_and_connections_not_shared():
    async with running_receiver() as receiver, client_of() as client:
        receiver.answer = lambda _: reply(
            307, b"moved", Location=receiver.url("/elsewhere"), Set_Cookie="a=b", Retry_After="7"
        )
        first, second = [await post(client, receiver.url("/here")) for _ in range(2)]
        assert (first.status_code, first.succeeded, first.answer, first.retry_after) == (
            307,
            False,
            "moved",
            7,
        )
        assert second.status_code == 307
        assert [got.path for got in receiver.arrived] == ["/here", "/here"]
        assert "cookie" not in receiver.arrived[1].headers
        assert "accept-encoding" not in receiver.arrived[1].headers


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Fri, 31 Dec 9999 23:59:59 -1200", MAX_WAIT, MAX_WAIT),
        ("no", None, None),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None, None),
        ("9" * 5000, MAX_WAIT, MAX_WAIT),
    ],
)
async def test_endpoint_may_ask_for_a_later_retry(asked: str, least: float | None, most: float | None):
    async with running_receiver() as receiver, client_of() as client:
        receiver.answer = lambda _: reply(503, b"busy", Retry_After=asked)
        answer = await post(client, receiver.url())
    assert (answer.status_code, answer.answer) == (503, "busy")
    if least is None or most is None:
        assert answer.retry_after is None
    else:
        assert answer.retry_after is not None
        assert least <= answer.retry_after <= most


@pytest.mark.parametrize(
    "url",
    [
        "", "hooks.example.test", "ftp://h/", "file:///etc/passwd", "http://", "https:///x", "https://me@h/",
        "https://me:secret@h/", "https://h/#fragment", "https://h/#", "https://h:70000/", "https://h:0/", "https://h/\n",
        "https://" + "a" * 2048,
    ],
)  # fmt: skip
async def test_invalid_url_is_refused(url: str):
    async with client_of() as client:
        with pytest.raises(WebhookUrlRefusedException) as refused:
            await client.check(url)
        assert "secret" not in refused.value.message
        assert (await post(client, url)).status_code is None


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::ffff:8.8.8.8", "fe80::1"])
async def test_private_address_is_refused_unless_it_is_allowed(address: str):
    for addresses in ([address], ["1.1.1.1", address]):
        async with client_of(addresses, allow_private=False) as client:
            with pytest.raises(WebhookUrlRefusedException, match="not public"):
                await client.check(f"https://{NAME}/")
            assert "not public" in str((await post(client, f"https://{NAME}/")).error)
    async with client_of([address]) as client:
        await client.check(f"https://{NAME}/")


async def test_plain_http_is_for_development_or_the_own_network():
    async with client_of(["1.1.1.1"], allow_private=False, allow_http=False) as client:
        await client.check("https://h/")
        with pytest.raises(WebhookUrlRefusedException, match="https"):
            await client.check("http://h/")
    async with client_of(["1.1.1.1"], allow_private=True, allow_http=False) as client:
        await client.check("http://h/")
