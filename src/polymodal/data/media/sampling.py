"""Which frames of a clip are taken: pure functions of how many it has."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["SAMPLINGS", "Pick", "at_rate", "pick_frames", "sample_frames", "segment_frames"]

SAMPLINGS = ("even", "first", "segments", "random")
DRAWN = ("segments", "random")
"""Those that differ from draw to draw in training."""


class Pick(Protocol):
    """(wanted,) places among `total` frames, in order."""

    def __call__(self, total: int, wanted: int) -> NDArray[np.int64]: ...


def sample_frames(total: int, wanted: int) -> NDArray[np.int64]:
    """(wanted,) indices of `wanted` frames spread evenly over `total`: floor((i + 1/2) total / wanted).

    A clip with fewer frames than wanted gives all of its frames and repeats the last.
    """
    if total < wanted:
        return np.minimum(np.arange(wanted), total - 1)
    return ((2 * np.arange(wanted) + 1) * total) // (2 * wanted)


def segment_frames(total: int, wanted: int, random: np.random.Generator | None = None) -> NDArray[np.int64]:
    """(wanted,) indices of one frame of each of `wanted` segments of floor(total / wanted) frames; a rest is never taken.

    Without `random` the first of each segment, with it any. A clip with fewer frames than wanted gives all of its frames and
    repeats the last.

    Source: loaders of Kinetics-Sounds and UCF101 in a balancing benchmark, whose indices begin at 1.

    Example:
        >>> segment_frames(10, 3).tolist()
        [0, 3, 6]
    """
    length = total // wanted
    if not length:
        return sample_frames(total, wanted)
    starts = np.arange(wanted) * length
    return starts if random is None else starts + random.integers(length, size=wanted)


def pick_frames(
    total: int, wanted: int, sampling: str = "even", random: np.random.Generator | None = None
) -> NDArray[np.int64]:
    """(wanted,) indices, in order, by one of `SAMPLINGS`; a clip with fewer frames gives all and repeats the last.

    Args:
        total: number of frames of the clip.
        wanted: number of frames taken.
        sampling: "even" is `sample_frames`, "first" the first ones, "segments" is `segment_frames`, "random" any different
            ones with `random` (in training) and "even" without (in evaluation).
        random: generator of the draws.
    """
    if total < wanted or (sampling == "random" and random is None):
        return sample_frames(total, wanted)
    if sampling == "first":
        return np.arange(wanted)
    if sampling == "segments":
        return segment_frames(total, wanted, random)
    if sampling == "random" and random is not None:
        return np.sort(random.choice(total, wanted, replace=False))
    return sample_frames(total, wanted)


def at_rate(inside: range, rate: float, fps: float) -> range:
    """Those of the frames `inside` that are kept of a file of `rate` frames a second where `fps` a second are wanted.

    They are the ones whose index in the file is a multiple of floor(rate / fps), so more than `fps` a second where that is
    rounded down.

    Source: preparation of OGM-GE (2022) and its followers, with fps 1.

    Example:
        >>> list(at_rate(range(85), 30.0, 1)), list(at_rate(range(31, 100), 29.97, 1))
        ([0, 30, 60], [58, 87])
    """
    step = max(1, int(rate / fps))
    return range(-(-inside.start // step) * step, inside.stop, step)
