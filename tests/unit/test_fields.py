"""What texts, images and sequences become before a network sees them; needs no torch."""

from __future__ import annotations

import base64
import subprocess
import sys
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_update.errors import ConfigError, CorruptSnapshot, LearnerFailed
from stream_update.learners.torch.fields import Fields, with_fields
from stream_update.learners.torch.images import Image
from stream_update.learners.torch.sequences import Numbers
from stream_update.learners.torch.texts import Text
from tests.streams import through_bytes


def buckets(*ngrams: str, of: int = 16_384) -> list[int]:
    return [crc32(ngram.encode()) % of for ngram in ngrams]


def test_ngrams_of_words_and_characters() -> None:
    text = Text(word_ngrams=[1, 2], char_ngrams=[3, 4])
    assert text.read("Ab, c").tolist() == buckets(
        *("ab", "\0<ab", "\0ab>", "\0<ab>"),
        *(",", "\0<,>"),
        *("c", "\0<c>"),
        *("ab ,", ", c"),
    )  # fmt: skip
    assert Text(char_ngrams=[], buckets=7).read("a a").tolist() == buckets("a", "a", "a a", of=7)
    assert Text(word_ngrams=[], char_ngrams=[3, 3], lowercase=False).read("É").tolist() == buckets(
        "\0<É>"
    )
    assert text.read("").tolist() == []
    with pytest.raises(ValueError, match="it is a int, and not a text"):
        text.read(3)


@given(st.text(max_size=200), st.integers(1, 40))
def test_the_first_ngrams_count_and_none_is_beyond_the_buckets(text: str, most: int) -> None:
    found = Text(buckets=11, max_ngrams=most).read(text)
    assert len(found) <= most
    assert all(0 <= bucket < 11 for bucket in found)
    whole = Text(buckets=11, char_ngrams=[3, 4], word_ngrams=[1, 1]).read(text)
    cut = Text(buckets=11, char_ngrams=[3, 4], word_ngrams=[1, 1], max_ngrams=most).read(text)
    assert cut.tolist() == whole[:most].tolist()


def test_a_text_has_the_same_buckets_in_every_process() -> None:
    code = (
        "from stream_update.learners.torch.texts import Text\n"
        "print(Text().read('Where is the bus? ' + 'long' * 20).tolist())"
    )
    outs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(outs) == 1
    assert outs.pop().strip() == str(Text().read("Where is the bus? " + "long" * 20).tolist())


def test_texts_are_joined_with_their_starts() -> None:
    joined, starts = Text().join([np.array([3, 4]), None, np.array([]), np.array([5])])
    assert joined.tolist() == [3, 4, 5]
    assert starts.tolist() == [0, 2, 2, 2]


def test_an_image_is_bytes_in_base64_or_a_list() -> None:
    image = Image([2, 3, 2])
    pixels = list(range(200, 212))
    found = image.read(base64.b64encode(bytes(pixels)).decode())
    assert found.shape == (2, 3, 2)
    assert found.flatten().tolist() == pixels
    assert image.read(pixels).tolist() == found.tolist()
    for bad, said in [
        ("A" * 16 + "!", "no base64"),
        ("A", "no base64"),
        ("é", "ASCII"),
        ("AAAA", "it has 3 values, and an image of shape"),
        ([1.0] * 11, "it has 11 values"),
        (True, "it is a bool, and not an image"),
    ]:
        with pytest.raises(ValueError, match=said):
            image.read(bad)


def test_images_are_scaled_by_channel_and_a_missing_one_is_zero() -> None:
    image = Image([1, 2, 2])
    image.learn([image.read([0, 10, 4, 10]), None])
    (joined,) = image.join([image.read([0, 20, 4, 10]), None])
    assert joined.shape == (2, 2, 1, 2)
    assert joined.tolist() == [[[[-1.0, 1.0]], [[10.0, 0.0]]], [[[0.0, 0.0]], [[0.0, 0.0]]]]


def test_a_sequence_is_a_list_or_a_text() -> None:
    numbers = Numbers(width=2, max_length=2)
    assert numbers.read([1, 2, 3, 4, 5, 6]).tolist() == [[3, 4], [5, 6]]
    assert numbers.read("1, 2.5,-3 4e1").tolist() == [[1, 2.5], [-3, 40]]
    assert numbers.read("").shape == (0, 2)
    for bad, said in [
        ([1.0], "it has 1 numbers, and a step has 2"),
        ("1 x", "could not convert"),
        ("1_0 2", "underscore"),
        ("nan 1", "not finite"),
        (7, "it is a int"),
    ]:
        with pytest.raises(ValueError, match=said):
            numbers.read(bad)


def test_sequences_are_scaled_and_padded() -> None:
    numbers = Numbers(max_length=3)
    numbers.learn([numbers.read([1, 2, 3, 4]), numbers.read([3, 2]), None])
    # What is beyond the length was not seen: 2, 3, 4, 3, 2.
    steps, lengths = numbers.join([numbers.read([2.8]), None, numbers.read([])])
    assert lengths.tolist() == [1, 0, 0]
    assert steps.shape == (3, 1, 1)
    assert abs(steps).max() < 1e-6


def test_the_first_event_that_cannot_be_read_is_named() -> None:
    fields = Fields({"trail": {"use": "sequence"}, "body": "text"})
    events: list[dict[str, Any]] = [{"body": "a"}, {"trail": [1.0]}, {"trail": "x"}, {"body": 1}]
    with pytest.raises(LearnerFailed, match="field 'trail': could not convert") as failed:
        fields.read(events, "learn")
    assert (failed.value.index, failed.value.phase) == (2, "learn")
    assert fields.read(events[:2]).present.tolist() == [[True, False], [False, True]]
    assert fields.read([]).present.shape == (0, 2)


def test_what_fields_have_learned_comes_back() -> None:
    table = {"picture": {"use": "image", "shape": [1, 1, 2]}, "trail": {"use": "sequence"}}
    fields = Fields(table)
    read = fields.read([{"picture": [1, 2], "trail": [5]}, {"trail": [6, 7]}, {"picture": [3, 4]}])
    fields.learn(read)
    other = Fields(table)
    other.load(through_bytes(fields.dump()))
    assert other.dump() == fields.dump()
    for one, two in zip(fields.arrays(read), other.arrays(read), strict=True):
        assert all(map(np.array_equal, one, two))
    for spoiled in (
        {},
        {**fields.dump(), "picture": fields.dump()["trail"]},
        {**fields.dump(), "trail": {"count": b"", "mean": b"\0" * 80, "squares": b""}},
    ):
        with pytest.raises(CorruptSnapshot):
            Fields(table).load(spoiled)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"a": {"use": "sound"}}, "learner.fields.a: there is no kind of field 'sound'"),
        ({"a": {"use": "text", "bucket": 3}}, "did you mean buckets"),
        ({"a": {"use": "text", "buckets": 0}}, r"learner.fields.a.buckets: 0 is not accepted"),
        ({"a": {"use": "text", "buckets": 10**12}}, "buckets: 1000000000000 is not"),
        ({"a": {"use": "text", "word_ngrams": [2, 1]}}, "2 is more than 1"),
        ({"a": {"use": "text", "char_ngrams": [1, 10**9]}}, "char_ngrams: "),
        ({"a": {"use": "text", "char_ngrams": [], "word_ngrams": []}}, "neither n-grams"),
        ({"a": {"use": "image"}}, "shape"),
        ({"a": {"use": "image", "shape": [8, 8]}}, "a.shape: "),
        ({"a": {"use": "image", "shape": [8, 8, 1], "channels": [1] * 9}}, "a.channels: "),
        ({"a": {"use": "sequence", "max_length": "all"}}, "max_length"),
        ({"a": {"use": "sequence", "layers": 9}}, "a.layers: 9"),
        ({f"f{i}": "text" for i in range(65)}, "at most 64 fields"),
        ("body", "expected a table"),
    ],
)
def test_fields_that_cannot_be(table: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Fields(table)


def test_a_module_of_one_field_is_a_fusion() -> None:
    assert with_fields({"use": "gru", "field": "trail", "width": 2, "dropout": 0.5}, None) == {
        "use": "fusion",
        "hidden": [],
        "dropout": 0.5,
        "fields": {"trail": {"use": "sequence", "width": 2}},
    }
    assert with_fields("fusion", {"body": {"use": "text", "word_ngrams": (1, 2)}}) == {
        "use": "fusion",
        "fields": {"body": {"use": "text", "word_ngrams": [1, 2]}},
    }
    assert with_fields("mlp", None) == "mlp"
    with pytest.raises(ConfigError, match="field: cnn needs the name"):
        with_fields("cnn", None)
    with pytest.raises(ConfigError, match="the module 'mlp' takes numbers only"):
        with_fields("mlp", {"body": "text"})
    with pytest.raises(ConfigError, match="text has a field of its own"):
        with_fields({"use": "text", "field": "a"}, {"body": "text"})
