"""Tables and trained runs that several tests read and none changes."""

from pathlib import Path

import pytest

from tests.cli import tables
from tests.cli.run import QUICK, polymodal


@pytest.fixture(scope="session")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tables.numbers(tmp_path_factory.mktemp("numbers"))


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tables.media(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="session")
def media_run(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of MLB on sound and images."""
    run = tmp_path_factory.mktemp("runs") / "media"
    polymodal("fit", media, "--label", "label", *tables.MEDIA, *QUICK, "--balancer", "mlb", "--out", run)
    return run
