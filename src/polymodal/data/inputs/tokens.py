"""Text as an input: the token numbers of a pre-trained model's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from polymodal.data.inputs.base import Input
from polymodal.data.inputs.padding import pad_sequences
from polymodal.errors import InputError
from polymodal.types import Padded

__all__ = ["TokenInput"]


@dataclass(eq=False)
class TokenInput(Input):
    """Texts as a tokenizer cuts them. `shape` is (V,), the number of its tokens.

    A batch is `Padded(values (B, L) int64, mask (B, L))` with L the longest text of the batch. The tokens that the tokenizer
    puts around every text, such as [CLS] and [SEP], count.

    Options:
        tokenizer: local folder with tokenizer.json, or with the older files that transformers reads (vocab.txt, ...).
        max_length: tokens at most; what is beyond is cut.
    """

    tokenizer: str = ""
    max_length: int = 512

    variable_length: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tokenizer = str(Path(self.tokenizer).expanduser().resolve())
        self._cut = _load(Path(self.tokenizer), self.modality.name)

    def check(self) -> None:
        self.require(
            "tokenizer", isinstance(self.tokenizer, (str, Path)) and str(self.tokenizer) != "", "a local folder"
        )
        self.require_numbers("max_length")
        self.require("max_length", self.max_length > 2, "more than 2, which the marks at begin and end take")

    def decode(self, cells: tuple[Any, ...], root: Path) -> NDArray[np.int64] | None:
        if cells[0] is None:
            return None
        found = self._cut(str(cells[0]), truncation=True, max_length=self.max_length)["input_ids"]
        return np.asarray(found, dtype=np.int64)

    def empty(self) -> NDArray[np.int64]:
        return np.zeros(0, np.int64)

    def pack(self, decoded: Sequence[NDArray[np.int64]]) -> Padded:
        return pad_sequences(decoded, max(1, *map(len, decoded)))

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._cut),)

    def keep(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._cut.save_pretrained(str(folder))

    @classmethod
    def restore(cls, state: dict[str, Any], folder: Path | None = None) -> Self:
        kept = folder is not None and folder.is_dir()
        return super().restore({**state, "tokenizer": str(folder)} if kept else state)


def _load(folder: Path, modality: str) -> Any:
    where = f"input {modality!r}: tokenizer {folder}"
    if not folder.is_dir():
        raise InputError(f"{where}: no such folder; name the one that holds tokenizer.json")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, ImportError, KeyError, AttributeError) as error:
        raise InputError(f"{where}: cannot be read ({str(error).splitlines()[0]}); put tokenizer.json there") from error
