"""The table of configuration keys in docs/architecture.md is the one that the code has."""

from pathlib import Path

from polymodal.config import FLAGS, tree

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"


def rows() -> list[str]:
    short = {key: name for name, key in FLAGS.items()}
    lines = []
    for key, kind, default, text in tree():
        kind = kind.replace("|", "or")
        lines.append(f"| `{key}` | {f'`{short[key]}`' if key in short else ''} | {kind} | {default} | {text} |")
    return ["| key | short name | type | default | what it is |", "|---|---|---|---|---|", *lines]


def test_keys_are_published() -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = page.split("configuration keys: tests/test_config_docs.py", 1)[1].split("-->\n", 1)[1].strip().splitlines()
    assert table == rows(), "run: python -c 'from tests.test_config_docs import rows; print(\"\\n\".join(rows()))'"
