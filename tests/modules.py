"""The files of the package, as tests over all of them need them."""

from pathlib import Path

import polymodal

PACKAGE = Path(polymodal.__file__).parent
ROOT = Path(__file__).parent.parent


def module_name(file: Path) -> str:
    """Dotted name of a file of the package, such as `polymodal.balancers.mlb`."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(["polymodal", *(parts[:-1] if parts[-1] == "__init__" else parts)])


FILES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}
