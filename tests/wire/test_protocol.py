"""Every message survives the wire; junk never does."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.worker.messages import (
    Answer,
    Bye,
    Cancel,
    Chunk,
    Hello,
    Load,
    Loaded,
    LoadFailed,
    Part,
    Ping,
    Pong,
    Request,
    Result,
    Stop,
    Work,
)
from flambeau.worker.protocol import INLINE_LIMIT, ProtocolError, decode, encode

# Header values may carry any byte: what is not UTF-8 arrives as lone surrogates.
text = st.text(max_size=20) | st.binary(max_size=20).map(
    lambda raw: raw.decode(errors="surrogateescape")
)
bodies = st.binary(max_size=50) | st.sampled_from([b"x" * INLINE_LIMIT, b"y" * (INLINE_LIMIT + 1)])
parts = st.builds(Part, st.text(max_size=5), st.text(max_size=5), bodies)
requests = st.builds(
    Request,
    st.text(max_size=9),
    st.dictionaries(text, text, max_size=3),
    st.lists(parts, max_size=3),
)
answers = st.builds(
    Answer,
    st.integers(100, 999),
    st.none() | text,
    st.lists(st.tuples(text, text), max_size=3),
    bodies,
    st.booleans(),
)
messages = st.one_of(
    st.just(Stop()),
    st.just(Bye()),
    st.just(Ping()),
    st.just(Pong()),
    st.builds(Cancel, st.integers(0, 2**40), st.none() | st.integers(0, 99)),
    st.builds(Chunk, st.integers(0, 2**40), st.integers(0, 99), answers),
    st.builds(Hello, st.integers(0, 9), st.integers(0, 9), st.integers(1, 9999)),
    st.builds(Loaded, st.integers(1, 9), st.floats(0, 9)),
    st.builds(LoadFailed, st.integers(400, 599), text, text),
    st.builds(Load, text, text, text, text, st.integers(1, 9), st.none() | st.integers(0, 7)),
    st.builds(Work, st.integers(0, 2**40), st.lists(requests, max_size=3)),
    st.builds(Result, st.integers(0, 2**40), st.floats(0, 9), st.lists(answers, max_size=3)),
)


@given(messages)
def test_every_message_survives_the_wire(message):
    frames = [bytes(frame) for frame in encode(message)]
    assert decode(frames) == message


def test_a_small_request_is_one_frame_and_a_large_body_is_never_copied():
    small = Work(1, [Request("r", {}, [Part("body", "", b"x" * INLINE_LIMIT)])])
    assert len(encode(small)) == 1
    body = bytearray(INLINE_LIMIT + 1)
    _, frame = encode(Work(1, [Request("r", {}, [Part("body", "", body)])]))
    assert frame is body


@given(st.lists(st.binary(max_size=40), max_size=3))
def test_random_bytes_are_a_protocol_error_or_happen_to_be_a_message(frames):
    try:
        message = decode(frames)
    except ProtocolError:
        return
    # Four bytes are enough for a Hello.
    assert decode(encode(message)) == message


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.binary(max_size=5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from([1, 2, 3, 4, 5, 16, 17, 18, 19]), st.lists(json_like, max_size=6))
def test_a_known_tag_with_wrong_fields_is_a_message_or_a_protocol_error(tag, fields):
    frames = [msgpack.packb([tag, *fields])]
    try:
        message = decode(frames)
    except ProtocolError:
        return
    assert decode([bytes(frame) for frame in encode(message)]) == message


@pytest.mark.parametrize(
    "header", [82, [], [99], ["1"], {1: 2}, [4, 1, 0.5, [[200, "", [], 7, False]]]]
)
def test_other_headers_are_a_protocol_error(header):
    with pytest.raises(ProtocolError):
        decode([msgpack.packb(header)])


def test_a_newer_peer_may_add_fields_and_an_older_one_leave_them_out():
    assert decode([msgpack.packb([1, 1, 7, 42, "new", {"more": 1}])]) == Hello(1, 7, 42)
    assert decode([msgpack.packb([2])]) == Loaded()
    assert decode([msgpack.packb([19, 7])]) == Cancel(7)
    assert decode([msgpack.packb([4, 9, 0.5, []])]) == Result(9, 0.5, [])
