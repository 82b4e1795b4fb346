"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

__all__ = ["Many"]

Many = Annotated[list[str], Parameter(negative=(), consume_multiple=False)]
"""An option that is given once a value."""
