"""Decoding of encoded images, for datasets, evaluation sets, training and contact sheets alike.

Every image becomes 8-bit RGB, as a viewer shows it:

- The orientation of its metadata is applied.
- Transparent pixels are composited on white.
- 16-bit gray is scaled by its range, from 0 to 65,535. Of 16-bit color, Pillow reads the high bytes.
- An animation is its first frame, a document its first page.
- CMYK, YCbCr, LAB, palettes, gray and 1-bit images are converted by Pillow. Color profiles are not applied.

An image does not decode if it is damaged or truncated, has another format than `FORMATS` or more than `MAX_PIXELS`, or
if its values have no defined black and white: floats, and 32-bit or signed integers.
"""

import io
import re
import warnings

import numpy as np
from PIL import Image, ImageFile
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "ICO", "JPEG2000", "PPM", "TIFF")
"""Formats that are read. Pillow has others, some of which start a program (EPS) or match arbitrary bytes (TGA)."""
MAX_PIXELS = 178_956_970
"""Maximum width times height, checked before decoding; the limit at which Pillow raises an error by default."""
SIDEWAYS = 5
"""Least value of the orientation of an image that is shown with its sides exchanged."""
UPRIGHT = 1
"""Value of the orientation of an image that is shown as it is stored."""

_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Operation for each orientation (Exif 2.32, tag 274); `ImageOps.exif_transpose` fails on some damaged metadata."""

warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged metadata, and of sizes below MAX_PIXELS


class DecodeError(ValueError):
    """An encoded image that does not decode; the message is the reason, without the location of the image."""


def open_image(content: bytes | memoryview) -> ImageFile.ImageFile:
    """Return an encoded image whose header has been read, with its size, mode and metadata.

    Raises:
        DecodeError: it has no known format, or too many pixels.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise almost anything for damaged bytes
        raise _decode_error(error) from None
    if image.width * image.height > MAX_PIXELS:
        raise DecodeError(f"{image.width} x {image.height} pixels, at most {MAX_PIXELS:,} are read")
    return image


def orientation(image: Image.Image) -> int:
    """Return the orientation in the metadata of an image; `UPRIGHT` if it has none, or if they are damaged."""
    try:
        return int(image.getexif().get(Base.Orientation, UPRIGHT))
    except Exception:  # see open_image
        return UPRIGHT


def decode_image(content: bytes | memoryview) -> np.ndarray:
    """Return an encoded image as uint8 RGB (H, W, 3).

    Raises:
        DecodeError: it does not decode.
    """
    image = open_image(content)
    try:
        rgb = _to_rgb(image)
    except (MemoryError, DecodeError):
        raise
    except Exception as error:  # see open_image
        raise _decode_error(error) from None
    # After the pixels: they can precede the metadata, and Pillow turns a TIFF as it decodes it.
    operation = _TO_UPRIGHT.get(orientation(image))
    return np.asarray(rgb if operation is None else rgb.transpose(operation))


def decode_image_fast(content: bytes | memoryview) -> np.ndarray:
    """Return the same as `decode_image`, an upright JPEG in about two thirds of the time; imports torch.

    Raises:
        DecodeError: it does not decode.
    """
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    image = open_image(content)
    if image.format == "JPEG" and orientation(image) == UPRIGHT:
        try:
            encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            return decode_jpeg(encoded, ImageReadMode.RGB).permute(1, 2, 0).numpy()
        except RuntimeError:
            pass  # damaged: Pillow says how
    return decode_image(content)


def image_size(content: bytes | memoryview) -> tuple[int, int]:
    """Return height and width of an encoded image, upright, from its header alone.

    Raises:
        DecodeError: see `open_image`.
    """
    image = open_image(content)
    return (image.width, image.height) if orientation(image) >= SIDEWAYS else (image.height, image.width)


def decode_label_map(content: bytes | memoryview) -> np.ndarray:
    """Return an image of label numbers as uint8 (H, W): the values of 8-bit gray, or the indices of a palette.

    Raises:
        DecodeError: it does not decode, or has other values, such as colors.
    """
    image = open_image(content)
    if image.mode not in ("L", "P"):
        raise DecodeError(f"values of mode {image.mode}, expected a label number per pixel (8-bit gray or a palette)")
    try:
        return np.array(image)
    except MemoryError:
        raise
    except Exception as error:  # see open_image
        raise _decode_error(error) from None


def _decode_error(error: Exception) -> DecodeError:
    if isinstance(error, Image.UnidentifiedImageError):
        return DecodeError("not an image")
    return DecodeError(" ".join(re.sub(r" <_io\S+ object at \w+>", "", str(error)).split()) or type(error).__name__)


def _to_rgb(image: ImageFile.ImageFile) -> Image.Image:
    """Return the decoded pixels as RGB, in stored orientation."""
    if _is_16_bit_gray(image):
        values_HW = np.asarray(image).astype(np.int64)
        gray_HW = ((values_HW + 128) // 257).astype(np.uint8)
        if "transparency" in image.info:
            gray_HW[values_HW == image.info["transparency"]] = 255
        return Image.fromarray(gray_HW).convert("RGB")
    if image.mode[0] in "IF":
        raise DecodeError(f"{image.format} with values of mode {image.mode}, which have no defined black and white")
    if image.has_transparency_data:
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _is_16_bit_gray(image: ImageFile.ImageFile) -> bool:
    """Return whether 0 is black and 65,535 is white. Pillow scales gray PPM to this range, but not 12-bit TIFF."""
    if isinstance(image, TiffImageFile) and image.mode.startswith("I;16"):
        return (image.tag_v2.get(BITSPERSAMPLE), image.tag_v2.get(PHOTOMETRIC_INTERPRETATION)) == ((16,), 1)
    return image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM")
