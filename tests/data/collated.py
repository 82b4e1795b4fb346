"""A batch of decoded samples without a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from polymodal.data.inputs import Input


def collated(one: Input, decoded: Sequence[Any]) -> Any:
    """What an encoder gets of these samples; None lacks the modality."""
    return one.complete(one.stack(decoded), torch.tensor([sample is not None for sample in decoded]))
