from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from polymodal.data.media.image import fit_size, probe_image, read_image
from polymodal.errors import InputError
from tests.data.files import cut, write_image

RNG = np.random.default_rng(0)


def test_pixels_come_back(tmp_path):
    colour = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path = write_image(tmp_path / "a.png", colour)
    np.testing.assert_array_equal(read_image(path), colour)
    assert probe_image(path) == (5, 7, False)
    assert read_image(path, (3, 4), 1).shape == (3, 4, 1)


@pytest.mark.parametrize("shape", [(30, 47), (47, 30), (16, 16), (9, 40)])
def test_shorter_side_and_middle_as_torchvision(tmp_path, shape):
    from torchvision.transforms import CenterCrop, Compose, Resize

    path = write_image(tmp_path / "a.png", RNG.integers(0, 256, (*shape, 3), dtype=np.uint8))
    with Image.open(path) as picture:
        expected = np.asarray(Compose([Resize(16), CenterCrop((13, 14))])(picture))
    np.testing.assert_array_equal(read_image(path, (13, 14), shorter=16), expected)


def test_grey_is_told_from_the_pixels(tmp_path):
    grey = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
    assert probe_image(write_image(tmp_path / "a.png", grey)).grey
    path = write_image(tmp_path / "b.png", np.repeat(grey[:, :, None], 3, 2))
    assert probe_image(path).grey
    np.testing.assert_array_equal(read_image(path, None, 1)[:, :, 0], grey)


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = [10, 20, 30, 255]
    np.testing.assert_array_equal(read_image(write_image(tmp_path / "a.png", pixels))[:, :, 0], [[10, 255], [255, 255]])
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "b.png", transparency=0)
    np.testing.assert_array_equal(read_image(tmp_path / "b.png")[0], [[255, 255, 255], [200, 0, 0]])


def test_orientation_tag_is_honoured(tmp_path):
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 4:] = 255
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    picture.save(tmp_path / "a.png", exif=exif)
    upright = read_image(tmp_path / "a.png", None, 1)[:, :, 0]
    assert probe_image(tmp_path / "a.png")[:2] == (8, 4)
    assert upright[:4].max() == 0
    assert upright[4:].min() == 255


def test_sixteen_bits_keep_their_range(tmp_path):
    Image.fromarray(np.array([[0, 32896, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", None, 1)[0, :, 0].tolist() == [0, 128, 255]


def test_size_is_the_median_within_the_limit():
    assert fit_size([10, 20, 90], [40, 40, 40], 112) == (20, 40)
    assert fit_size([100], [400], 112) == (28, 112)
    assert fit_size([1], [4000], 112) == (1, 112)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.gif", "a.webp"])
def test_truncated(tmp_path, name):
    path = write_image(tmp_path / name, RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for share in (0.6, 0.02):
        cut(path, share)
        with pytest.raises(InputError, match="not a readable image, or truncated") as caught:
            read_image(path)
        assert str(path) in str(caught.value)


def test_missing_empty_folder_and_text(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    for name, message in [("no.png", "no such file"), ("empty.png", "is empty"), ("text.png", "not a readable image")]:
        with pytest.raises(InputError, match=message):
            read_image(tmp_path / name)
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read_image(tmp_path / "a\0.png")
