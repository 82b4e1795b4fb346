"""Pictures and clips as inputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.data.inputs.base import Input, probe_files, resolve
from polymodal.data.inputs.moments import Moments
from polymodal.data.inputs.padding import Value
from polymodal.data.media.augment import crop_flip
from polymodal.data.media.colours import SIGMAS, blurred, distorted
from polymodal.data.media.files import PAIR
from polymodal.data.media.image import fit_size, probe_image, read_image
from polymodal.data.media.sampling import DRAWN, SAMPLINGS, at_rate, pick_frames
from polymodal.data.media.video import probe_video, read_frames

__all__ = ["ImageInput", "VideoInput"]

AUGMENTS = ("none", "flip", "crop_flip")


@dataclass(eq=False)
class Visual(Input):
    """Pixels in [0, 1], standardised by channel.

    Options:
        image_size: the longer side at most, in pixels.
        height, width: of what the model sees, in pixels; default the median of the training part within `image_size`.
        channels: 1 or 3, or 2 for a flow; default 1 if every probed training sample is grey, else 3.
        standardize: whether to subtract `mean` and divide by `std`.
        mean, std: by channel, of values in [0, 1]; default those of the training part.
        augment: what is done to training samples, anew in each epoch: "none", "flip" (a mirror in half of the cases) or
            "crop_flip" (a random part as well, stretched to `height` and `width`). Evaluation sees the whole picture.
        crop_scale: least and largest share of the area that is cut out.
        distort: strength of random shifts of the colours of training samples (`media.colours.draw_shift`), 0 for none.
        blur: width and height, in pixels and odd, of a Gaussian of random deviation in [0.1, 2] that blurs every training sample;
            0 for none.
    """

    image_size: int = 112
    height: int | None = None
    width: int | None = None
    channels: int | None = None
    standardize: bool = True
    mean: list[float] | None = None
    std: list[float] | None = None
    augment: str = "none"
    crop_scale: Sequence[float] = (0.08, 1.0)
    distort: float = 0.0
    blur: int = 0

    reads_files: ClassVar[bool] = True
    PROBED: ClassVar[int] = 128
    CHANNELS: ClassVar[tuple[int, ...]] = (1, 3)

    def check(self) -> None:
        self.require_numbers("image_size", "height", "width")
        self.require("channels", self.channels in (None, *self.CHANNELS), " or ".join(map(str, self.CHANNELS)))
        self.require("width", (self.height is None) == (self.width is None), "height and width together, or neither")
        self.require("augment", self.augment in AUGMENTS, "one of " + ", ".join(AUGMENTS))
        low, high = self.crop_scale if len(self.crop_scale) == 2 else (0.0, 0.0)
        self.require("crop_scale", 0 < low <= high <= 1, "two shares of the area, 0 < least <= largest <= 1")
        self.require(
            "distort", 0 <= self.distort <= 2.5, "a strength from 0 to 2.5, beyond which hues turn round twice"
        )
        self.require(
            "distort", not self.distort or self.channels in (None, 3), "0 for pictures that are not of 3 channels"
        )
        self.require("blur", self.blur == 0 or (self.blur > 0 and self.blur % 2 == 1), "0, or an odd number of pixels")
        for name in ("mean", "std"):
            value = getattr(self, name)
            fits = value is None or self.channels is None or len(value) == self.channels
            self.require(name, fits, f"{self.channels} numbers, one a channel")

    @abstractmethod
    def probe_one(self, path: Path) -> Any:
        """Something with `height`, `width` and `grey`."""

    def probe(self, rows: Sequence[tuple[Any, ...]], root: Path) -> None:
        if self.settled():
            return
        found = probe_files(rows, self.PROBED, root, self.probe_one)
        if not found:
            return
        if self.height is None:
            size = [one.height for one in found], [one.width for one in found]
            self.height, self.width = fit_size(*size, self.image_size)
        if self.channels is None:
            self.channels = 1 if all(one.grey for one in found) else 3
        self.learn(found)
        self.check()

    def learn(self, found: list[Any]) -> None:
        """Settle further options from what `probe_one` told."""

    def settled(self) -> bool:
        return self.height is not None and self.channels is not None

    @property
    def picture(self) -> tuple[int, int, int]:
        """(H, W, C) of one picture."""
        if self.height is None or self.width is None or self.channels is None:
            raise self.unsettled()
        return self.height, self.width, self.channels

    def fit(self, decoded: Iterable[NDArray[np.uint8]]) -> None:
        if not self.standardize or (self.mean is not None and self.std is not None):
            return
        moments = Moments()
        for pixels in decoded:
            moments.update(pixels.reshape(-1, pixels.shape[-1]))
        mean, std = moments.result()
        self.mean, self.std = [m / 255 for m in mean], [s / 255 for s in std]

    @property
    def random(self) -> bool:
        return self.augmented

    @property
    def augmented(self) -> bool:
        """Whether the pixels of training samples are changed at random."""
        return self.augment != "none" or self.distort > 0 or self.blur > 0

    @property
    def stored_size(self) -> tuple[int, int] | None:
        """(H, W) of `material`; None is the pictures' own."""
        height, width, _ = self.picture
        return None if self.augment == "crop_flip" else (height, width)

    def varied(
        self, pictures: NDArray[np.uint8], random: np.random.Generator, *, flow: bool = False
    ) -> NDArray[np.uint8]:
        """Pictures (T, H, W, C) of one clip, augmented together."""
        if self.augment != "none":
            height, width, _ = self.picture
            scale = self.crop_scale if self.augment == "crop_flip" else None
            pictures = crop_flip(pictures, (height, width), scale, random, flow=flow)
        if self.distort:
            pictures = distorted(pictures, self.distort, random)
        return blurred(pictures, self.blur, float(random.uniform(*SIGMAS))) if self.blur else pictures

    def pack(self, decoded: Sequence[NDArray[np.uint8]]) -> Tensor:
        return torch.from_numpy(np.stack(decoded))

    def finish(self, packed: Value) -> Tensor:
        assert isinstance(packed, Tensor)
        pixels = packed.movedim(-1, -3).to(torch.float32, memory_format=torch.contiguous_format)
        if not self.standardize or self.mean is None or self.std is None:
            return pixels.div_(255)
        mean, std = torch.tensor(self.mean)[:, None, None], torch.tensor(self.std)[:, None, None]
        return pixels.sub_(mean * 255).div_(std * 255)


@dataclass(eq=False)
class ImageInput(Visual):
    """Pictures. `shape` is (C, H, W); a batch is (B, C, H, W) float32.

    Options, besides those of `Visual`:
        shorter_side: pixels that the shorter side is scaled to, after which the middle `height` x `width` is cut out; by default
            the picture is stretched to `height` and `width`. Random crops of training (`crop_flip`) are of the whole picture.
    """

    shorter_side: int | None = None

    def check(self) -> None:
        super().check()
        self.require_numbers("shorter_side")
        if self.shorter_side is not None:
            size = max(self.height or 0, self.width or 0)
            self.require(
                "shorter_side", 0 < size <= self.shorter_side, "height and width, of at most so many pixels, beside it"
            )

    def probe_one(self, path: Path) -> Any:
        return probe_image(path)

    def decode(self, cells: tuple[Any, ...], root: Path) -> NDArray[np.uint8] | None:
        if cells[0] is None:
            return None
        path = resolve(cells[0], root)
        if not self.settled():
            read_image(path)  # says what is wrong with this file, as with all others
        height, width, channels = self.picture
        return read_image(path, (height, width), channels, self.shorter_side)

    def material(self, cells: tuple[Any, ...], root: Path, random: np.random.Generator) -> NDArray[np.uint8] | None:
        if cells[0] is None or not self.settled():
            return self.decode(cells, root)
        *_, channels = self.picture
        return read_image(resolve(cells[0], root), self.stored_size, channels, self.shorter_side)

    def vary(
        self, material: NDArray[np.uint8], cells: tuple[Any, ...], random: np.random.Generator
    ) -> NDArray[np.uint8]:
        return np.asarray(self.varied(material[None], random)[0])

    def empty(self) -> NDArray[np.uint8]:
        return np.zeros(self.picture, np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        height, width, channels = self.picture
        return channels, height, width


@dataclass(eq=False)
class VideoInput(Visual):
    """Clips as stacks of frames. `shape` is (T, C, H, W); a batch is (B, T, C, H, W) float32.

    Options, besides those of `Visual`:
        frames: T; default the median length of the training clips, at most 16.
        sampling: which frames: "even" (spread over the clip), "first", "segments" (one of each of T parts: in training any, in
            evaluation its first) or "random" (in training any T in order, in evaluation spread evenly). A clip with fewer
            than T gives all and repeats the last.
        fps: how many frames a second are chosen from: those whose index is a multiple of floor(rate / fps); empty for all. A
            folder of pictures is taken as it is.
        per_frame_aug: draw the augmentation for each frame by itself, as the authors of OGM-GE do, not once a clip.
    """

    frames: int | None = None
    sampling: str = "even"
    fps: float | None = None
    per_frame_aug: bool = False

    PROBED: ClassVar[int] = 32
    CHANNELS: ClassVar[tuple[int, ...]] = (1, 2, 3)

    def check(self) -> None:
        super().check()
        self.require_numbers("frames")
        self.require_numbers("fps", whole=False)
        self.require("sampling", self.sampling in SAMPLINGS, "one of " + ", ".join(SAMPLINGS))
        self.require("per_frame_aug", not self.per_frame_aug or self.augmented, "false where augment is 'none'")

    def probe_one(self, path: Path) -> Any:
        return probe_video(path)

    def learn(self, found: list[Any]) -> None:
        if self.frames is None:
            lengths = [
                len(at_rate(range(one.frames), one.rate, self.fps)) if self.fps and one.rate else one.frames
                for one in found
            ]
            self.frames = max(1, min(16, int(np.median(lengths))))

    def settled(self) -> bool:
        return super().settled() and self.frames is not None

    def decode(self, cells: tuple[Any, ...], root: Path) -> NDArray[np.uint8] | None:
        if cells[0] is None:
            return None
        path = resolve(cells[0], root)
        if not self.settled():
            probe_video(path)  # says what is wrong with this file, as with all others
        frames, channels, height, width = self.shape
        pick = partial(pick_frames, sampling=self.sampling)
        return read_frames(path, frames, (height, width), channels, pick=pick, fps=self.fps)

    @property
    def random(self) -> bool:
        return super().random or not self.keeps

    @property
    def keeps(self) -> bool:
        return self.sampling not in DRAWN

    def material(self, cells: tuple[Any, ...], root: Path, random: np.random.Generator) -> NDArray[np.uint8] | None:
        if cells[0] is None or not self.settled():
            return self.decode(cells, root)
        frames, channels, *_ = self.shape
        pick = partial(pick_frames, sampling=self.sampling, random=random)
        return read_frames(resolve(cells[0], root), frames, self.stored_size, channels, pick=pick, fps=self.fps)

    def vary(
        self, material: NDArray[np.uint8], cells: tuple[Any, ...], random: np.random.Generator
    ) -> NDArray[np.uint8]:
        flow = PAIR in str(cells[0])
        if not self.per_frame_aug:
            return self.varied(material, random, flow=flow)
        return np.concatenate([self.varied(one[None], random, flow=flow) for one in material])

    def empty(self) -> NDArray[np.uint8]:
        frames, channels, height, width = self.shape
        return np.zeros((frames, height, width, channels), np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        height, width, channels = self.picture
        return self.frames or 1, channels, height, width
