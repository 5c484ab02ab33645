"""Checks one image of any kind, and brings it to the form in which it is stored.

What comes out is 8-bit RGB or grey, as JPEG or PNG:

- grey, palette and CMYK images become RGB; a JPEG or PNG that needs no other change
  may stay grey.
- of 16 bits the upper eight are kept; floating-point pixels are refused.
- transparency is dropped, and the orientation that a camera has noted is ignored, as
  where images are read from a folder: pixels are taken as they are stored.
- animations are refused; of a camera's JPEG with several pictures the first is taken.
- nothing is decoded that claims more than `MAX_PIXELS`; what is cut off is refused.
"""

import io
from typing import NamedTuple
import warnings

import numpy as np
from PIL import Image

from jaxdistill.errors import reason

MAX_PIXELS = 2**26
"""Height times width beyond which an image is refused: 8192 x 8192."""

MAX_BYTES = 2**27
"""Size beyond which a file is not read."""

FILTERS = {
  "lanczos": Image.Resampling.LANCZOS,
  "bicubic": Image.Resampling.BICUBIC,
}

# Beyond this, lossless files are several times as large as JPEG's.
_SMALL = 128

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
# What Pillow calls a JPEG; MPO is one with several pictures.
_CAMERA_FORMATS = ("JPEG", "MPO")
_LOSSY_FORMATS = (*_CAMERA_FORMATS, "WEBP")

# Where PNG's header has the bits of a channel.
_PNG_DEPTH = 24

_LEVELS = np.arange(256, dtype=np.int64)


class Settings(NamedTuple):
  """How images are stored.

  Attributes:
    size: pixels of the shorter side; 0 keeps every size.
    quality: of JPEG.
    filter: "lanczos" or "bicubic"; both average over all pixels when they shrink.
    upscale: whether smaller images are enlarged to `size`.
  """

  size: int = 256
  quality: int = 95
  filter: str = "lanczos"
  upscale: bool = False


class Stored(NamedTuple):
  """An image as it is stored.

  Attributes:
    content: JPEG or PNG.
    height: in pixels.
    width: in pixels.
    sums: of each channel over the pixels, before they are encoded.
    squares: likewise, of the squares.
  """

  content: bytes
  height: int
  width: int
  sums: list[int]
  squares: list[int]


class Fault(Exception):
  """An image cannot be used; the text says why."""


def store(content: bytes, settings: Settings) -> Stored:
  """Returns an image as it is stored.

  Args:
    content: of the image file, whatever its name says.
    settings: how to store it.

  Raises:
    Fault: if it cannot be used.
  """
  if not content:
    raise Fault("it is empty")
  try:
    with warnings.catch_warnings():
      # Of odd metadata, which does not stay, and of many pixels, counted here.
      warnings.simplefilter("ignore")
      return _stored(content, settings)
  except Fault:
    raise
  except Image.DecompressionBombError as error:
    raise Fault(f"it has more than {MAX_PIXELS} pixels") from error
  except Image.UnidentifiedImageError as error:
    raise Fault("it is no image of a kind that is read here") from error
  # Each of Pillow's decoders raises types of its own.
  except Exception as error:
    raise Fault(f"it cannot be decoded: {reason(error)}") from error


def _stored(content: bytes, settings: Settings) -> Stored:
  with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
    kind = image.format or ""
    # Before decoding: a header may claim an image of gigabytes.
    if image.width * image.height > MAX_PIXELS:
      raise Fault(f"it is {image.height}x{image.width}, more than {MAX_PIXELS} pixels")
    if getattr(image, "is_animated", False) and kind not in _CAMERA_FORMATS:
      raise Fault("it is animated, or holds several pictures")
    target = _target(image.size, settings)
    is_kept = target == image.size and _may_stay(image, content, settings)
    if kind in _CAMERA_FORMATS and min(target) < min(image.size):
      # Decoded at half, a quarter or an eighth where at least twice the target remains.
      image.draft(None, (2 * target[0], 2 * target[1]))
    # Here, where what is cut off is found.
    image.load()
    pixels = _as_rgb(image)
  if is_kept:
    return _measured(pixels, content)

  # Drafted pixels are fewer than those of the header, in the same proportion.
  if pixels.size != target:
    pixels = pixels.resize(target, FILTERS[settings.filter])
  return _measured(pixels, _encoded(pixels, kind, settings))


def _target(size: tuple[int, int], settings: Settings) -> tuple[int, int]:
  """Returns the size in which an image is stored, from its own; (width, height)."""
  shorter = min(size)
  wanted = settings.size
  if not wanted or shorter == wanted or (shorter < wanted and not settings.upscale):
    return size
  width, height = size
  target = (round(width * wanted / shorter), round(height * wanted / shorter))
  if target[0] * target[1] > MAX_PIXELS:
    raise Fault(f"enlarged to {target[1]}x{target[0]} it has too many pixels")
  return target


def _may_stay(image: Image.Image, content: bytes, settings: Settings) -> bool:
  """Tells whether an image of the right size is stored as it is."""
  if image.mode not in ("RGB", "L"):
    return False
  if image.format == "JPEG":
    return True
  return (
    image.format == "PNG"
    and content[_PNG_DEPTH] == 8
    and _is_lossless("PNG", image.size, settings)
  )


def _is_lossless(kind: str, size: tuple[int, int], settings: Settings) -> bool:
  """Tells whether an image from a file of some kind is stored without loss."""
  return kind not in _LOSSY_FORMATS and (max(size) <= _SMALL or not settings.size)


def _as_rgb(image: Image.Image) -> Image.Image:
  """Returns an image in 8-bit RGB."""
  if image.mode.startswith("I"):
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
      raise Fault("its pixels have more than 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
  if image.mode == "F":
    raise Fault("its pixels are floating-point numbers")
  return image.convert("RGB")


def _encoded(pixels: Image.Image, kind: str, settings: Settings) -> bytes:
  """Encodes an image, as PNG where nothing may be lost."""
  # Only the pixels: no profile, no text, no notes of a camera.
  pixels.info.clear()
  file = io.BytesIO()
  if _is_lossless(kind, pixels.size, settings):
    pixels.save(file, "PNG")
  else:
    pixels.save(file, "JPEG", quality=settings.quality)
  return file.getvalue()


def _measured(pixels: Image.Image, content: bytes) -> Stored:
  """Returns an image with the sums over its pixels."""
  counts = np.array(pixels.histogram(), np.int64).reshape(3, 256)
  return Stored(
    content=content,
    height=pixels.height,
    width=pixels.width,
    sums=(counts @ _LEVELS).tolist(),
    squares=(counts @ (_LEVELS * _LEVELS)).tolist(),
  )
