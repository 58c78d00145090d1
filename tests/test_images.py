"""Decoding of images: modes, orientation, transparency, ranges, formats, bounds, damage; the fast way equals the other.

The reference picture is 3 x 2 blocks of known colors; a result is compared at the middle of each block.
"""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.ExifTags import Base

from benchmark.images import (
    MAX_PIXELS,
    UPRIGHT,
    DecodeError,
    decode_image,
    decode_image_fast,
    open_image,
    orientation,
)

BLOCK = 32
RED, GREEN, BLUE, WHITE, BLACK, GRAY = (230, 20, 20), (20, 200, 20), (20, 20, 220), (255,) * 3, (0,) * 3, (128,) * 3
COLORS_23 = np.array([[RED, GREEN, BLUE], [WHITE, BLACK, GRAY]], np.uint8)
PICTURE = Image.fromarray(COLORS_23.repeat(BLOCK, 0).repeat(BLOCK, 1))
RAMP_HW = np.tile(np.linspace(0, 65_535, 1000), (4, 1)).round().astype(np.uint16)
LOSSY = 30


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def blocks(image_HW3: np.ndarray) -> np.ndarray:
    """Return the middle pixel of each block."""
    return image_HW3[BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK].astype(int)


def with_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[Base.Orientation] = value
    return exif


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"])
def test_every_format_is_rgb(format: str) -> None:
    image_HW3 = decode_image(encoded(PICTURE, format))
    assert (image_HW3.shape, image_HW3.dtype) == ((2 * BLOCK, 3 * BLOCK, 3), np.uint8)
    assert np.abs(blocks(image_HW3) - COLORS_23).max() <= LOSSY


@pytest.mark.parametrize("format", ["AVIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_is_applied_once(format: str, value: int) -> None:
    """Each stored picture is the inverse of what its orientation does, by the definition of Exif 2.32 in NumPy."""
    stored_HW3 = {
        1: lambda image: image,
        2: lambda image: image[:, ::-1],  # mirrored
        3: lambda image: image[::-1, ::-1],  # rotated by 180
        4: lambda image: image[::-1],
        5: lambda image: image.swapaxes(0, 1),
        6: np.rot90,  # to be turned clockwise
        7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
        8: lambda image: np.rot90(image, -1),
    }[value](np.asarray(PICTURE))
    image = Image.fromarray(np.ascontiguousarray(stored_HW3))
    found = decode_image(encoded(image, format, exif=with_orientation(value)))
    assert np.abs(blocks(found) - COLORS_23).max() <= LOSSY


def test_orientation_may_follow_the_pixels() -> None:
    content, exif = encoded(PICTURE.rotate(90, expand=True), "PNG"), with_orientation(6).tobytes()
    end = content.index(b"IEND") - 4
    content = content[:end] + chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")) + content[end:]
    assert (decode_image(content) == np.asarray(PICTURE)).all()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0" + b"\xff" * 30,
        b"Exif\0\0",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0",  # orientation 99
    ],
)
def test_damaged_orientation_is_upright(format: str, exif: bytes) -> None:
    content = encoded(PICTURE, format, exif=exif)
    assert np.abs(blocks(decode_image(content)) - COLORS_23).max() <= LOSSY


@pytest.mark.parametrize(
    ("image", "format", "options"),
    [
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "PNG", {}),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "WEBP", {"lossless": True}),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "AVIF", {}),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "TIFF", {}),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "JPEG2000", {}),
        (Image.new("RGBA", (16, 16), (0, 0, 0, 0)), "ICO", {"sizes": [(16, 16)]}),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "GIF", {}),
        (Image.new("LA", (8, 8), (0, 0)), "PNG", {}),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)).quantize(4), "PNG", {}),
        (Image.new("P", (8, 8), 0), "PNG", {"transparency": 0}),
        (Image.new("1", (8, 8), 0), "PNG", {"transparency": 0}),
        (Image.new("L", (8, 8), 0), "PNG", {"transparency": 0}),
        (Image.new("RGB", (8, 8), 0), "PNG", {"transparency": (0, 0, 0)}),
        (Image.fromarray(np.zeros((8, 8), np.uint16)), "PNG", {"transparency": 0}),
    ],
)
def test_transparent_is_white(image: Image.Image, format: str, options: dict) -> None:
    content = encoded(image, format, **options)
    assert decode_image(content).min() == 255
    assert decode_image_fast(content).min() == 255


def test_half_transparent_is_mixed_and_opaque_is_unchanged() -> None:
    half = encoded(Image.new("RGBA", (4, 4), (200, 0, 100, 128)), "PNG")
    assert np.abs(decode_image(half)[0, 0].astype(int) - (227, 127, 177)).max() <= 1
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    pixels[..., 3] = 255
    assert (decode_image(encoded(Image.fromarray(pixels), "PNG")) == pixels[..., :3]).all()


def test_black_logo_on_transparent_is_seen() -> None:
    pixels = np.zeros((30, 40, 4), np.uint8)
    pixels[10:20, 10:30, 3] = 255
    image_HW3 = decode_image(encoded(Image.fromarray(pixels), "PNG"))
    assert (image_HW3[10:20, 10:30] == 0).all()
    assert image_HW3.sum() == 255 * 3 * (30 * 40 - 10 * 20)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_gray_is_scaled(format: str) -> None:
    image_HW3 = decode_image(encoded(Image.fromarray(RAMP_HW), format))
    assert (image_HW3 == np.round(RAMP_HW / 257).astype(np.uint8)[:, :, None]).all()


def test_16_bit_gray_of_either_byte_order() -> None:
    for order in ("<u2", ">u2"):
        image = Image.frombytes(
            "I;16" if order == "<u2" else "I;16B", RAMP_HW.shape[::-1], RAMP_HW.astype(order).tobytes()
        )
        assert (decode_image(encoded(image, "TIFF"))[..., 0] == np.round(RAMP_HW / 257)).all()


def test_16_bit_color_is_its_high_byte() -> None:
    rows = b"\0" + struct.pack(">6H", 0x1234, 0xFFFF, 0, 0x80FF, 0x0100, 0x00FF)
    assert decode_image(png(2, 1, 16, 2, rows)).tolist() == [[[0x12, 0xFF, 0], [0x80, 1, 0]]]
    rows = b"\0" + struct.pack(">4H", 0x1234, 0xFFFF, 0x1234, 0)
    assert decode_image(png(2, 1, 16, 4, rows)).tolist() == [[[0x12] * 3, [255] * 3]]


@pytest.mark.parametrize(
    "image",
    [Image.fromarray(RAMP_HW.astype(np.int32)), Image.fromarray(RAMP_HW.astype(np.float32) / 65_535)],
    ids=["int32", "float32"],
)
def test_values_without_a_range_do_not_decode(image: Image.Image) -> None:
    with pytest.raises(DecodeError, match="no defined black and white"):
        decode_image(encoded(image, "TIFF"))


@pytest.mark.parametrize("tag", [{258: 12}, {262: 0}])
def test_gray_tiff_of_another_range_does_not_decode(tag: dict) -> None:
    """Pillow reads 12 bits and WhiteIsZero as they are stored: almost black, and inverted."""
    content = bytearray(encoded(Image.fromarray(RAMP_HW), "TIFF"))
    ((number, value),) = tag.items()
    at = content.index(struct.pack("<HHI", number, 3, 1))
    content[at + 8 : at + 10] = struct.pack("<H", value)
    with pytest.raises(DecodeError):
        decode_image(bytes(content))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB"])
def test_other_modes_are_converted(mode: str) -> None:
    expected = np.asarray(PICTURE.convert(mode).convert("RGB"))
    assert (decode_image(encoded(PICTURE.convert(mode), "TIFF")) == expected).all()


@pytest.mark.parametrize(("format", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_the_first_frame_is_shown(format: str, options: dict) -> None:
    others = [Image.new("RGB", PICTURE.size, color) for color in (GREEN, BLACK)]
    content = encoded(PICTURE, format, save_all=True, append_images=others, **options)
    assert getattr(open_image(content), "n_frames") == 3  # noqa: B009
    assert np.abs(blocks(decode_image(content)) - COLORS_23).max() <= LOSSY


def test_a_color_profile_is_not_applied() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert (decode_image(encoded(PICTURE, "PNG", icc_profile=profile)) == np.asarray(PICTURE)).all()


def noise(mode: str = "RGB", size: tuple[int, int] = (64, 64)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("format", ["AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated_does_not_decode(format: str, share: float) -> None:
    content = encoded(noise(), format)
    for decode in (decode_image, decode_image_fast):
        with pytest.raises(DecodeError):
            decode(content[: int(len(content) * share)])


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\0" * 1000])
def test_not_an_image_says_so(content: bytes) -> None:
    for decode in (open_image, decode_image, decode_image_fast):
        with pytest.raises(DecodeError, match=r"^not an image$"):
            decode(content)


@pytest.mark.parametrize("format", ["EPS", "TGA", "PCX", "SGI", "DDS"])
def test_formats_of_other_kinds_are_not_read(format: str) -> None:
    with pytest.raises(DecodeError, match="not an image"):
        decode_image(encoded(PICTURE, format))


def jpeg_of_size(width: int, height: int) -> bytes:
    content = bytearray(encoded(PICTURE, "JPEG"))
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        png(20_000, 20_000, 1, 0, b""),
        png(MAX_PIXELS + 1, 1, 8, 2, b""),
        jpeg_of_size(65_500, 65_500),
        encoded(PICTURE, "GIF").replace(struct.pack("<HH", *PICTURE.size), struct.pack("<HH", 60_000, 60_000)),
        b"P6 100000 100000 255\n",
    ],
    ids=["png", "wide", "jpeg", "gif", "ppm"],
)
@pytest.mark.parametrize("limit", [Image.MAX_IMAGE_PIXELS, None], ids=["pillow's limit", "no limit"])
def test_pixels_are_bounded_before_decoding(content: bytes, limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other packages take Pillow's limit away."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    for decode in (open_image, decode_image, decode_image_fast):
        with pytest.raises(DecodeError, match="pixels"):
            decode(content)


def test_large_images_below_the_bound_are_read_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    image = open_image(png(10_000, 10_000, 1, 0, b""))
    assert image.size == (10_000, 10_000)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"quality": 90, "subsampling": 0}),
        ("RGB", {"progressive": True, "quality": 60}),
        ("RGB", {"keep_rgb": True}),
        ("RGB", {"restart_marker_blocks": 2}),
        ("RGB", {"exif": with_orientation(6)}),
        ("RGB", {"exif": with_orientation(1)}),
        ("L", {}),
        ("CMYK", {}),
    ],
)
@pytest.mark.parametrize("size", [(64, 64), (37, 51), (1, 1), (17, 3)])
def test_the_fast_decoder_equals_the_other(mode: str, options: dict, size: tuple[int, int]) -> None:
    content = encoded(noise(mode, size), "JPEG", **options)
    expected, found = decode_image(content), decode_image_fast(content)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert (found == expected).all()


@pytest.mark.parametrize("transform", [None, 0, 2])
def test_the_fast_decoder_equals_the_other_for_every_cmyk(transform: int | None) -> None:
    """CMYK is inverted by Adobe, whose marker also names YCCK; without the marker it is not."""
    content = bytearray(encoded(noise("CMYK"), "JPEG"))
    marker = content.index(b"\xff\xee")
    end = marker + 2 + int.from_bytes(content[marker + 2 : marker + 4], "big")
    if transform is None:
        del content[marker:end]
    else:
        content[end - 1] = transform
    assert (decode_image_fast(bytes(content)) == decode_image(bytes(content))).all()


def test_orientation_of_an_image_without_metadata() -> None:
    assert orientation(open_image(encoded(PICTURE, "JPEG"))) == UPRIGHT
    assert orientation(open_image(encoded(PICTURE, "JPEG", exif=with_orientation(6)))) == 6


@pytest.mark.slow
@pytest.mark.parametrize("format", ["AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"])
def test_damaged_bytes_decode_or_raise_decode_error(format: str) -> None:
    rng = np.random.default_rng(0)
    content = encoded(noise(size=(24, 24)), format)
    for _ in range(200):
        damaged = bytearray(content)
        for at in rng.integers(0, min(len(content), 600), 4):
            damaged[at] = rng.integers(256)
        try:
            assert decode_image(bytes(damaged)).shape[2] == 3
        except DecodeError as error:
            assert str(error) and "\n" not in str(error) and "0x" not in str(error)
