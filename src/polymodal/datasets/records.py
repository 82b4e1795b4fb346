"""Lists of samples as JSON: an array in one file, or an object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from polymodal.errors import InputError

__all__ = ["cell", "read_json", "read_records", "words"]


def read_json(path: Path) -> Any:
    """The value that a JSON file holds.

    Raises:
        InputError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({str(error)[:100]}); fetch or write it again") from None


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place (for messages) and fields of each record of a .jsonl file, or of a .json file that holds an array.

    Raises:
        InputError: the file is not JSON, or something in it is not an object.
    """
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    place = f"{path}, line {number}"
                    try:
                        yield place, _record(json.loads(line), place)
                    except (ValueError, RecursionError) as error:
                        if isinstance(error, InputError):
                            raise
                        raise InputError(f"{place}: not JSON ({str(error)[:100]})") from None
        return
    found = read_json(path)
    if not isinstance(found, list):
        raise InputError(f"{path}: a {type(found).__name__}; expected a list of objects")
    for number, one in enumerate(found, 1):
        place = f"{path}, record {number}"
        yield place, _record(one, place)


def _record(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{place}: a {type(value).__name__}; expected an object")
    return value


def cell(record: dict[str, Any], names: Sequence[str], place: str) -> Any:
    """The first of the fields `names` that a record has.

    Raises:
        InputError: it has none of them.
    """
    for name in names:
        if name in record:
            return record[name]
    raise InputError(f"{place}: no field {' or '.join(map(repr, names))}; there are {', '.join(record)}")


def words(record: dict[str, Any], name: str, place: str) -> str:
    """A text from a list of tokens; pieces of words that begin with "##" are joined to the word.

    Raises:
        InputError: the field is missing, or no list of texts.
    """
    found = cell(record, (name,), place)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise InputError(f"{place}: {name!r} must be a list of words; write the words themselves, not their numbers")
    return " ".join(found).replace(" ##", "")
