"""Ranges by one thread: the bytes asked for, or the patient way, whatever the server does."""

import datetime
import gc
import ipaddress
import random
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from skyframe.data.transport import Address, Client
from skyframe.spec import InputError
from tests.object_server import Fault, ServerProcess

CONTENT = random.Random(5).randbytes(3_000_000)
KNOWN_FAULTS = ["500", "503", "reset", "hang", "truncate", "short_length", "other_range"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranges")
    (folder / "a").write_bytes(CONTENT)
    return folder


@pytest.fixture(scope="module")
def process(root):
    with ServerProcess(root, hang_s=2.0) as process:
        yield process


@pytest.fixture
def server(process):
    """Without the faults of the test before."""
    process.set()
    return process


@pytest.fixture
def client(server):
    return Client(attempts=3, timeout_s=0.5, backoff_s=0.01)


def at(server):
    return Address(f"{server.url}/a", f"{server.url}/a")


def spans(count, length=1000):
    """Too far apart to be joined."""
    return [(number * 300_000, length) for number in range(count)]


def test_more_jobs_than_connections(server):
    client = Client(concurrency=4)
    known = client.read(at(server), tail=1)
    parts = [part for _ in range(20) for part in client.submit(at(server), known, spans(10, 20_000))]
    assert len(parts) == 200
    for part in reversed(parts):
        assert bytes(part.cut((part.start, 20_000))) == CONTENT[part.start : part.start + 20_000]
    loop = client.live.ranges
    assert list(loop._count.values()) == [4] and not loop._busy and not any(loop._waiting.values())


def test_what_waits_behind_a_connection_that_went_silent_is_fetched_over_another(server):
    client = Client(concurrency=1, attempts=3, timeout_s=0.5, backoff_s=0.01)
    known = client.read(at(server), tail=1)
    server.set(Fault("/a", "hang", times=1, ranged=True))
    parts = client.submit(at(server), known, spans(5))
    found = []
    waiting = threading.Thread(target=lambda: found.extend(bytes(p.cut((p.start, 1000))) for p in parts), daemon=True)
    waiting.start()
    waiting.join(20)
    server.set()
    assert found == [CONTENT[p.start : p.start + 1000] for p in parts]


def test_the_plain_case_takes_no_second_request(server, client):
    known = client.read(at(server), tail=1)
    before = server.stats()["requests"]
    for part in client.submit(at(server), known, spans(10)):
        part.cut((part.start, 1))
    assert server.stats()["requests"] == before + 10


@pytest.mark.parametrize("kind", KNOWN_FAULTS)
def test_what_fails_once_is_asked_for_again(server, client, kind):
    known = client.read(at(server), tail=1)
    server.set(Fault("/a", kind, times=3, ranged=True))
    for part in client.submit(at(server), known, spans(10)):
        assert bytes(part.cut((part.start, 1000))) == CONTENT[part.start : part.start + 1000]
    server.set()
    assert [bytes(p.cut((0, 9))) for p in client.submit(at(server), known, [(0, 9)])] == [CONTENT[:9]]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("500", r"bytes 0 to 999 could not be read in 3 attempts, the last one was answered 500"),
        ("truncate", r"could not be read in 3 attempts, the last one ended after 500 bytes"),
        ("stale", r"was replaced while it was read"),
        ("403", r"was refused \(403"),
    ],
)
def test_what_fails_always_is_the_patient_way_s_sentence(server, client, kind, sentence):
    known = client.read(at(server), tail=1)
    server.set(Fault("/a", kind))
    (part,) = client.submit(at(server), known, [(0, 1000)])
    with pytest.raises(InputError, match=sentence):
        part.cut((0, 1000))


def test_a_server_that_sends_the_whole_object(server, client):
    known = client.read(at(server), tail=1)
    server.set(Fault("/a", "whole"))
    (part,) = client.submit(at(server), known, [(100, 50)])
    assert bytes(part.cut((100, 50))) == CONTENT[100:150]


def test_no_server_any_more(root):
    client = Client(attempts=2, backoff_s=0.01)
    with ServerProcess(root) as server:
        known, address = client.read(at(server), tail=1), at(server)
        first = client.submit(address, known, [(0, 10)])
        assert bytes(first[0].cut((0, 10))) == CONTENT[:10]
    for _ in range(2):  # over the connection that was kept, then without any
        (part,) = client.submit(address, known, [(0, 10)])
        with pytest.raises(InputError, match="could not be read in 2 attempts"):
            part.cut((0, 10))


def test_the_thread_ends_with_its_client(server):
    client = Client()
    known = client.read(at(server), tail=1)
    (part,) = client.submit(at(server), known, [(0, 10)])
    part.cut((0, 10))
    thread = client.live.ranges._thread
    assert thread.is_alive()
    del client, part
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def self_signed(folder):
    """Certificate of 127.0.0.1 and its key, as PEM files."""
    key, today = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(tz=datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(today - datetime.timedelta(days=1))
    made = made.not_valid_after(today + datetime.timedelta(days=1)).add_extension(address, critical=False)
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, private


def test_over_tls(root, tmp_path, monkeypatch):
    certificate, key = self_signed(tmp_path)
    with ServerProcess(root, tls=(certificate, key)) as server:
        assert server.url.startswith("https://")
        with pytest.raises(InputError, match=r"failed \(.*certificate"):
            Client(attempts=1).read(Address("a", f"{server.url}/a"))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        client = Client(attempts=1)
        known = client.read(at(server), tail=1)
        assert known.size == len(CONTENT)
        for part in client.submit(at(server), known, spans(10, 200_000)):
            assert bytes(part.cut((part.start, 200_000))) == CONTENT[part.start : part.start + 200_000]
        assert client.live.ranges._count  # it was this thread, not the patient way
