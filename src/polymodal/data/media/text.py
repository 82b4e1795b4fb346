"""Text to token numbers without a vocabulary: words and their character n-grams are hashed."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache

__all__ = ["hash_tokens"]

WORD = re.compile(r"\w+|[^\w\s]")


def hash_tokens(text: str, buckets: int = 2**15, ngrams: Sequence[int] = (3, 4, 5), words: bool = True) -> list[int]:
    """Token numbers 1 .. buckets - 1 of a text, in reading order; 0 is left for padding.

    The text is lower-cased and cut into words and single punctuation marks. Each word gives itself and all n-grams of
    its characters between the marks "<" and ">" ("<cat>": "<ca", "cat", "at>", ...). The hash is CRC-32, the same in
    every process and on every machine (Python's own is not).

    Args:
        text: any text; one without a word gives no token.
        buckets: number of different token numbers, padding included.
        ngrams: lengths of the n-grams in characters; none for words alone.
        words: whether whole words are tokens.

    Source: Bojanowski et al. 2017, section 3.2 (subword model), with CRC-32 in place of FNV-1a.
    """
    lengths = tuple(ngrams)
    return [token for word in WORD.findall(text.lower()) for token in _word_tokens(word, buckets, lengths, words)]


@lru_cache(maxsize=2**16)
def _word_tokens(word: str, buckets: int, ngrams: tuple[int, ...], words: bool) -> tuple[int, ...]:
    marked = f"<{word}>"
    pieces = [marked] if words else []
    for length in ngrams:
        # An n-gram as long as the marked word is the word itself, which is there already.
        last = len(marked) - length + 1 - (words and length == len(marked))
        pieces.extend(marked[i : i + length] for i in range(last))
    return tuple(1 + zlib.crc32(piece.encode("utf-8", "surrogatepass")) % (buckets - 1) for piece in pieces)
