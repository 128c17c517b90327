"""Picture files in and out: photos, label pictures, sizes, and writes that leave nothing half done.

Every failure becomes a `DataError` that names the file. What the pixels mean is `labels.py`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from moeseg.errors import DataError
from moeseg.files import replacing
from moeseg.types import Size

Pixels = NDArray[np.uint8]

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
"""What Pillow raises on files that are truncated, damaged or no pictures."""


_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF tag, and its values that swap H and W


class MissingFile(DataError):  # noqa: N818 - a kind of DataError, named for what happened
    """A photo or label that a list names is not on disk."""


class WrongSize(DataError):  # noqa: N818
    """A label does not have the size of its photo."""


def read_rgb(path: Path, *, upright: bool = False) -> Pixels:
    """Read a picture as RGB.

    Args:
        path: the file.
        upright: turn it as its EXIF orientation says; labels fit the pixels as they are stored.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataError: the file is missing, unreadable, truncated or deeper than 8 bits a channel.
    """
    with _opened(path) as picture:
        if picture.mode not in ("RGB", "RGBA", "P", "L"):
            raise DataError(
                f"{path}: expected an 8-bit RGB picture, got mode {picture.mode!r}; "
                "convert it to 8-bit RGB."
            )
        # a palette with transparency warns unless it passes through RGBA
        through = picture.convert("RGBA") if "transparency" in picture.info else picture
        if upright:
            through = ImageOps.exif_transpose(through)
        return np.array(through if through.mode == "RGB" else through.convert("RGB"))


def read_single(path: Path) -> Pixels:
    """Read a picture of one channel as it is stored; a palette picture gives its indices.

    Returns:
        (H, W) uint8.

    Raises:
        DataError: the file is missing, unreadable, truncated, or not of one 8-bit channel.
    """
    with _opened(path) as picture:
        if picture.mode not in ("L", "P"):
            raise DataError(
                f"{path}: expected a label picture of class ids (one 8-bit channel), got mode "
                f"{picture.mode!r}; if classes are coded as colours, read it with labels: colours."
            )
        return np.array(picture)


def picture_size(path: Path, *, upright: bool = False) -> Size:
    """Return (H, W) from a picture's header, without decoding its pixels.

    Args:
        path: the file.
        upright: as `read_rgb` turns it.

    Raises:
        DataError: the file is missing or no picture.
    """
    with _opened(path) as picture:
        size = picture.height, picture.width
        turned = upright and picture.getexif().get(_ORIENTATION, 1) in _SIDEWAYS
    return size[::-1] if turned else size


def same_size(image: Pixels, label: Pixels, image_path: Path, label_path: Path) -> None:
    """Check that a photo (H, W, 3) and its label (H, W) are of one size.

    Raises:
        WrongSize: they are not; names both files and sizes.
    """
    photo, ids = image.shape[:2], label.shape[:2]
    if photo != ids:
        raise WrongSize(
            f"{label_path}: expected the size of its photo, {photo[0]}x{photo[1]} (H x W), got "
            f"{ids[0]}x{ids[1]}; photo: {image_path}. Pair the label with its own photo."
        )


def write_png(path: Path, pixels: Pixels) -> None:
    """Write (H, W, 3) RGB or (H, W) ids as PNG, whole or not at all, making its folder.

    Raises:
        MoesegError: the file can't be written, e.g. the disk is full.
    """
    with replacing(path) as unfinished:
        Image.fromarray(pixels).save(unfinished, "PNG")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as picture:
            yield picture
    except DataError:
        raise
    except FileNotFoundError as error:
        raise MissingFile(
            f"{path}: no such file. Complete the data set or take the frame off its list "
            "(`moeseg data check` names all that are missing)."
        ) from error
    except _BROKEN as error:
        raise DataError(f"{path}: unreadable picture ({error}). Fetch the file again.") from error
