from __future__ import annotations

import zlib

import pytest

from polymodal.data.media.files import kind_of
from polymodal.data.media.text import hash_tokens


def number(piece: str, buckets: int = 2**15) -> int:
    return 1 + zlib.crc32(piece.encode()) % (buckets - 1)


def test_words_and_pieces_in_reading_order():
    pieces = ["<cat>", "<ca", "cat", "at>", "<cat", "cat>", "<!>"]
    assert hash_tokens("Cat!") == [number(piece) for piece in pieces]
    assert hash_tokens("cat", ngrams=()) == [number("<cat>")]
    assert hash_tokens("cat", ngrams=(5,), words=False) == [number("<cat>")]


def test_numbers_are_the_same_everywhere():
    assert hash_tokens("naïve Übung", ngrams=()) == [1 + 2638970863 % 32767, 1 + 825933089 % 32767]
    assert hash_tokens("A b", ngrams=()) == hash_tokens("a  B\n", ngrams=())


@pytest.mark.parametrize("text", ["", "  \n "])
def test_no_words(text):
    assert hash_tokens(text) == []


def test_numbers_stay_within_the_buckets():
    tokens = hash_tokens("the quick brown fox \ud800", buckets=5)
    assert set(tokens) <= {1, 2, 3, 4}


def test_kinds_by_extension():
    names = {"a/b.MKV": "video", "x.opus": "audio", "x.jpeg": "image", "x.npy": None, "mp4": None, "e.g. this": None}
    assert {name: kind_of(name) for name in names} == names
