"""The bench's client cuts responses right wherever the stream is cut, and its figures are computed right."""

import math
import random

import pytest

from bench.client import ProtocolError, Response, ResponseParser, Target
from bench.latency import delays_s
from bench.recorder import Recorder
from bench.report import median, percentile, slope_per_s, spread_ms
from bench.soak import judge_flatness

OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\nDate: x\r\n\r\n{"a": 12}'
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nretry-after:  2 \r\ncontent-length:5\r\n\r\n\r\n\r\n!"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
STREAM = OK + REFUSED + CONTINUE + EMPTY + OK
PARTS = [(200, b'{"a": 12}'), (503, b"\r\n\r\n!"), (204, b""), (200, b'{"a": 12}')]


def parts(responses: list[Response]) -> list[tuple[int, bytes]]:
    return [(response.status, response.body) for response in responses]


def test_many_responses_in_one_piece() -> None:
    assert parts(ResponseParser().feed(STREAM)) == PARTS


def test_one_byte_at_a_time() -> None:
    parser = ResponseParser()
    found = [response for byte in STREAM for response in parser.feed(bytes([byte]))]
    assert parts(found) == PARTS


def test_cut_at_every_place() -> None:
    for at in range(len(STREAM) + 1):
        parser = ResponseParser()
        assert parts(parser.feed(STREAM[:at]) + parser.feed(STREAM[at:])) == PARTS


def test_headers_are_found_in_any_case() -> None:
    refused = ResponseParser().feed(REFUSED)[0]
    assert refused.header(b"retry-after") == b"2"
    assert refused.header(b"content-length") == b"5"
    assert refused.header(b"after") == b""


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"S",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
    ],
)
def test_what_is_not_understood_is_said(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        ResponseParser().feed(data)


def test_random_bytes_give_a_protocol_error_or_nothing() -> None:
    chance = random.Random(1)
    for _ in range(2_000):
        data = bytearray(STREAM)
        for _ in range(3):
            data[chance.randrange(len(data))] = chance.randrange(256)
        parser = ResponseParser()
        try:
            for at in range(0, len(data), 7):
                parser.feed(bytes(data[at : at + 7]))
        except ProtocolError:
            pass


def test_request_is_complete() -> None:
    target = Target.parse("http://127.0.0.1:8123", "t")
    head, _, body = target.encode("POST", "/x", b"{}", {"Idempotency-Key": "k"}).partition(b"\r\n\r\n")
    assert body == b"{}"
    assert head.split(b"\r\n") == [
        b"POST /x HTTP/1.1",
        b"Host: 127.0.0.1:8123",
        b"Authorization: Bearer t",
        b"Idempotency-Key: k",
        b"Content-Type: application/json",
        b"Content-Length: 2",
    ]
    with pytest.raises(ValueError, match="must look like"):
        Target.parse("https://127.0.0.1:1", "t")


def answer(**changes: object) -> Response:
    import json

    fields = {
        "judgment_id": "01890a5d-ac96-774b-bcce-b302099a8057",
        "workflow_id": "test-workflow-3",
        "workflow_version": 1,
        "final_result": {"verdict": "ok"},
        "confidence_score": 0.5,
        "method_used": "rule",
        "status": "completed",
        "execution_time_ms": 0.1,
        "created_at": "2026-01-01T00:00:00Z",
        **changes,
    }
    return Response(200, b"", json.dumps(fields).encode())


def test_recorder_keeps_good_answers_in_16_bytes() -> None:
    recorder = Recorder()
    recorder.accept(answer(), 0.001, 1.0)
    recorder.accept(answer(), 0.002, 2.0)
    assert (recorder.answered, len(recorder.ids), recorder.is_clean) == (2, 32, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"confidence_score": 1.01},
        {"execution_time_ms": 30_001},
        {"method_used": "dice"},
        {"status": "failed"},
        {"judgment_id": "17"},
        {"judgment_id": "zz"},
        {"workflow_id": "test-workflow-4"},
        {"final_result": {"verdict": "inspect"}},
    ],
)
def test_recorder_refuses_an_answer_that_breaks_a_promise(changes: dict[str, object]) -> None:
    recorder = Recorder()
    recorder.accept(answer(), 0.001, 1.0)
    recorder.accept(answer(**changes), 0.001, 1.0)
    assert recorder.answered == 1
    assert sum(recorder.wrong.values()) == 1
    assert not recorder.is_clean


def test_figures() -> None:
    assert [percentile(range(1, 101), p) for p in (50, 99, 100)] == [50, 99, 100]
    assert percentile([7.0], 1) == 7.0
    assert math.isnan(percentile([], 50))
    assert spread_ms([0.003, 0.001, 0.002])["p50_ms"] == pytest.approx(2.0)
    assert median([3, 1, 2, 10]) == 2.5
    assert slope_per_s([0, 1, 2], [5, 7, 9]) == pytest.approx(2.0)


def test_delay_is_from_the_nth_answer_to_the_first_message_that_covers_it() -> None:
    answered_s, arrived_s, totals = [1.0, 2.0, 3.0, 4.0], [0.5, 2.5, 2.6, 3.5, 9.0], [100, 102, 102, 104, 104]
    assert list(delays_s(answered_s, arrived_s, totals, 100)) == [1.5, 0.5, 0.5, -0.5]


def test_soak_tells_flat_from_growing() -> None:
    def sample(at_s: float, engine_mib: float, wal_mib: float) -> dict[str, float]:
        return {
            "at_s": at_s,
            "engine_bytes": engine_mib * 2**20,
            "wal_unconfirmed_bytes": wal_mib * 2**20,
        }

    assert judge_flatness([sample(n * 5.0, 150 + n % 3, 1 + n % 2) for n in range(20)]) == []
    assert "memory grew" in judge_flatness([sample(n * 5.0, 150 + 5 * n, 1) for n in range(20)])[0]
    assert "WAL" in judge_flatness([sample(n * 5.0, 150, 10 * n) for n in range(20)])[0]
