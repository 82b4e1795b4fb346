"""Text as an input: hashed words and character n-grams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from polymodal.data.inputs.base import Input
from polymodal.data.inputs.padding import pad_sequences
from polymodal.data.media.text import hash_tokens
from polymodal.types import Padded

__all__ = ["TextInput"]


@dataclass(eq=False)
class TextInput(Input):
    """Texts as token numbers. `shape` is (buckets,); a batch is `Padded(values (B, L) int64, mask (B, L))`.

    0 is padding; a text without a word has one token, 0. L is the longest text of the batch.

    Options:
        buckets: number of different token numbers, padding included.
        ngrams: lengths of the character n-grams; empty for words alone.
        words: whether whole words are tokens.
        max_tokens: what is beyond is cut; with the default n-grams an English word makes about 13.
    """

    buckets: int = 2**15
    ngrams: Sequence[int] = (3, 4, 5)
    words: bool = True
    max_tokens: int = 2048

    variable_length: ClassVar[bool] = True

    def check(self) -> None:
        self.require_numbers("buckets", "max_tokens")
        self.require("buckets", self.buckets > 1, "at least 2")
        self.require("ngrams", all(isinstance(n, int) and n > 0 for n in self.ngrams), "positive whole numbers")
        self.require("words", self.words or bool(self.ngrams), "true where there are no n-grams")

    def decode(self, cells: tuple[Any, ...], root: Path) -> NDArray[np.int64] | None:
        if cells[0] is None:
            return None
        tokens = hash_tokens(str(cells[0]), self.buckets, self.ngrams, self.words)
        return np.asarray(tokens[: self.max_tokens], dtype=np.int64)

    def empty(self) -> NDArray[np.int64]:
        return np.zeros(0, np.int64)

    def pack(self, decoded: Sequence[NDArray[np.int64]]) -> Padded:
        return pad_sequences(decoded, max(1, *map(len, decoded)))

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.buckets,)
