import time

import pytest

from skyframe.data.transport import Address, Client, Reply, coalesce
from skyframe.spec import InputError
from tests.object_server import Fault, ServerProcess

CONTENT = bytes(range(256)) * 400  # 102,400 bytes


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("objects")
    (root / "a").write_bytes(CONTENT)
    (root / "empty").write_bytes(b"")
    (root / "long").write_bytes(bytes(9 * 2**20))
    with ServerProcess(root, hang_s=3.0) as process:
        yield process


def at(server, key="a"):
    return Address(f"{server.url}/{key}", f"{server.url}/{key}")


@pytest.fixture
def client(server):
    server.set()
    return Client(attempts=3, timeout_s=0.5, backoff_s=0.01)


def test_near_spans_are_one_request():
    spans = [(0, 10), (15, 5), (100, 10), (5, 3)]
    assert coalesce(spans, gap=5) == [(0, 20), (100, 110)]
    assert coalesce(spans, gap=80) == [(0, 110)]
    assert coalesce(spans, gap=80, longest=50) == [(0, 20), (100, 110)]
    assert coalesce([(7, 3), (7, 3)]) == [(7, 10)]
    assert coalesce([]) == []


def test_whole_objects_ends_and_spans(server, client):
    known = client.read(at(server), tail=100)
    assert known.body == CONTENT[-100:] and known.size == len(CONTENT) and known.tag
    assert client.read(at(server)).body == CONTENT
    assert client.read(at(server), tail=10**6).body == CONTENT  # fewer bytes than asked for are there
    assert client.read_span(at(server), known, (1000, 50)) == CONTENT[1000:1050]
    assert client.read_span(at(server), known, (len(CONTENT) - 10, 50)) == CONTENT[-10:]
    assert client.read_span(at(server), known, (len(CONTENT), 5)) == b""
    parts = client.submit(at(server), known, [(0, 10), (20, 10), (90000, 5)])
    assert [(p.start, p.stop) for p in parts] == [(0, 90005)]
    assert bytes(parts[0].cut((20, 10))) == CONTENT[20:30] and bytes(parts[0].cut((90000, 5))) == CONTENT[90000:90005]


def test_an_empty_object_and_none(server, client):
    assert client.read(at(server, "empty"), tail=5) == Reply(b"", 0, client.read(at(server, "empty"), tail=5).tag)
    with pytest.raises(FileNotFoundError):
        client.read(at(server, "nothing"))


PASSING = {
    "500": "was answered 500",
    "503": "was answered 503",
    "429": "was answered 429",
    "reset": "failed (",
    "hang": "timed out after 0.5 s",
    "truncate": "ended after 500 bytes, 500 short",
    "short_length": "brought 500 bytes said to be 2000 to 2999, expected 2000 to 2999",
    "other_range": "brought 1000 bytes said to be 2001 to 2999, expected 2000 to 2999",
}


@pytest.mark.parametrize("kind", PASSING)
def test_a_passing_fault_is_retried(server, client, kind):
    known = client.read(at(server), tail=1)
    server.set(Fault("/a", kind, times=2))
    assert client.read_span(at(server), known, (2000, 1000)) == CONTENT[2000:3000]


@pytest.mark.parametrize("kind", PASSING)
def test_a_lasting_fault_is_one_sentence(server, client, kind):
    known = client.read(at(server), tail=1)
    server.set(Fault("/a", kind))
    with pytest.raises(InputError) as caught:
        client.read_span(at(server), known, (2000, 1000))
    sentence = str(caught.value)
    assert sentence.startswith(f"{server.url}/a: bytes 2000 to 2999 could not be read in 3 attempts, the last one ")
    assert PASSING[kind] in sentence and sentence.endswith("then start again")


def test_a_server_without_ranges(server, client):
    known = client.read(at(server), tail=1)
    server.set(Fault("/", "whole"))
    assert client.read_span(at(server), known, (2000, 1000)) == CONTENT[2000:3000]  # small: cut here
    assert client.read(at(server), tail=7).body == CONTENT[-7:]
    with pytest.raises(
        InputError, match=r"/long: answered a byte range with the whole of 9437184 bytes, .* use a serv"
    ):
        client.read(at(server, "long"), tail=1)


@pytest.mark.parametrize(("kind", "what"), [("403", r"was refused \(403"), ("301", "was answered 301")])
def test_what_another_attempt_would_not_mend_is_said_at_once(server, client, kind, what):
    server.set(Fault("/a", kind, times=1))
    with pytest.raises(InputError, match=what):
        client.read(at(server))


def test_an_object_that_was_replaced(server, client):
    known = client.read(at(server), tail=1)
    server.set(Fault("/a", "stale"))
    with pytest.raises(InputError, match=r"/a: was replaced while it was read \(102400 bytes before, 102400 now\)"):
        client.read_span(at(server), known, (0, 10))


def test_waits_grow_and_the_server_may_ask_for_longer(server):
    server.set(Fault("/a", "500"))
    begun = time.monotonic()
    with pytest.raises(InputError):
        Client(attempts=3, backoff_s=0.1).read(at(server))
    assert 0.05 + 0.2 <= time.monotonic() - begun < 3  # half of 0.1 s, half of 0.4 s at least


def test_no_server(client):
    nowhere = Address("http://127.0.0.1:9/a", "http://127.0.0.1:9/a")
    with pytest.raises(InputError, match=r"127.0.0.1:9/a: it could not be read in 3 attempts, .* refused"):
        client.read(nowhere)
