"""From an encoded image to the pixels of a batch, in TensorFlow's graph.

JPEG and PNG are decoded by TensorFlow, every other format by Pillow. Whatever an image
is stored as, it becomes RGB of 8 bits: gray is repeated, alpha is dropped, CMYK is
converted as Adobe stores it, of 16 bits the upper 8 remain, and of an animation the
first frame. Tags of orientation are ignored, as PyTorch's loaders do: the pixels are
taken as they are stored.
"""

from collections.abc import Callable
import io
import math
from typing import Any, NamedTuple
import warnings

import numpy as np
from PIL import Image

from jaxdistill.core.foreign import UnusableFile
from jaxdistill.data._tensorflow import import_tensorflow
from jaxdistill.errors import reason

# ImageNet's largest image has 61 million; decoded, this many take 200 MB.
MAX_PIXELS = 2**26

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_SIZE = slice(16, 24)

# Of a random resized crop, as in "Going deeper with convolutions" and torchvision.
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10

_KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}


class Reading(NamedTuple):
  """How the images of a split are read.

  Attributes:
    height: of every image as it is read.
    width: likewise.
    crop: "random" for a random resized crop, "centre" for the middle, "none" where
      every stored image has this height and width already.
    resize: of the centre crop: the image is first resized until it just covers `height`
      and `width` times `resize` over the smaller of them. Where these are equal, this
      means that its shorter side gets `resize` pixels.
    interpolation: "bilinear" or "bicubic"; both average where they make smaller.
  """

  height: int
  width: int
  crop: str = "centre"
  resize: int = 0
  interpolation: str = "bilinear"

  @property
  def varies(self) -> bool:
    """Whether an image is read in another way for every draw."""
    return self.crop == "random"


def make_decoder(reading: Reading) -> Callable[[Any, Any], Any]:
  """Returns (encoded image, number of the draw) -> uint8[H, W, 3], for a graph.

  The graph raises one of TensorFlow's errors for what is no intact image, or has more
  than `MAX_PIXELS`, which its header tells before it is decoded.
  """
  tf = import_tensorflow()

  def decode(content: Any, draw: Any) -> Any:
    def region_of(height: Any, width: Any) -> Any:
      if reading.crop == "random":
        return _random_region(tf, height, width, draw, reading)
      return tf.stack([0, 0, height, width])

    pixels = tf.case(
      [
        (_starts_with(tf, content, _JPEG), lambda: _jpeg(tf, content, region_of)),
        (_starts_with(tf, content, _PNG), lambda: _png(tf, content, region_of)),
      ],
      default=lambda: _other(tf, content, region_of),
    )
    pixels = _resized(tf, pixels, reading)
    pixels.set_shape([reading.height, reading.width, 3])
    return pixels

  return decode


def _starts_with(tf: Any, content: Any, magic: bytes) -> Any:
  return tf.equal(tf.strings.substr(content, 0, len(magic)), magic)


# Decoding.


def _jpeg(tf: Any, content: Any, region_of: Callable) -> Any:
  """Decodes the part of a JPEG image that is needed."""
  height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(content))
  with tf.control_dependencies([_small_enough(tf, height, width)]):
    region = region_of(height, width)
  # The quick way to decode depends on the machine.
  return tf.io.decode_and_crop_jpeg(
    content, region, channels=3, dct_method="INTEGER_ACCURATE"
  )


def _png(tf: Any, content: Any, region_of: Callable) -> Any:
  """Decodes a PNG image, and takes the part that is needed."""
  start = _PNG_SIZE.start
  length = _PNG_SIZE.stop - start
  raw = tf.strings.substr(content, start, length)
  size = tf.io.decode_raw(raw, tf.int32, little_endian=False)
  with tf.control_dependencies([_small_enough(tf, size[1], size[0])]):
    pixels = tf.io.decode_png(content, channels=3)
  return _cropped(tf, pixels, region_of)


def _other(tf: Any, content: Any, region_of: Callable) -> Any:
  """Decodes an image of another format, and takes the part that is needed."""
  pixels = tf.numpy_function(_decode_with_pillow, [content], tf.uint8, stateful=False)
  pixels.set_shape([None, None, 3])
  return _cropped(tf, pixels, region_of)


def _cropped(tf: Any, pixels: Any, region_of: Callable) -> Any:
  height, width, _ = tf.unstack(tf.shape(pixels))
  region = region_of(height, width)
  return tf.slice(
    pixels,
    begin=[region[0], region[1], 0],
    size=[region[2], region[3], 3],
  )


def _small_enough(tf: Any, height: Any, width: Any) -> Any:
  """Returns an operation that fails for the size of an image that is too large."""
  # The product may have more than 32 bits.
  pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
  within = tf.logical_and(tf.minimum(height, width) > 0, pixels <= MAX_PIXELS)
  return tf.debugging.Assert(within, [height, width])


def _decode_with_pillow(content: bytes) -> np.ndarray:
  """Returns the first frame of an image as uint8[H, W, 3]."""
  with Image.open(io.BytesIO(content)) as image:
    _require_size(image.height, image.width)
    if image.mode.startswith("I;16"):
      upper_bytes = np.asarray(image).astype(np.uint16) >> 8
      return np.repeat(upper_bytes.astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode in ("I", "F"):
      raise UnusableFile(f"pixels of the mode {image.mode} have no known range")
    return np.asarray(image.convert("RGB"))


def _require_size(height: int, width: int) -> None:
  if height * width > MAX_PIXELS:
    raise UnusableFile(f"it is {height}x{width}, more than {MAX_PIXELS} pixels")


def explain(content: bytes) -> str:
  """Returns why an image could not be decoded, in few words."""
  if not content:
    return "it is empty"
  try:
    with warnings.catch_warnings():
      # Of large images, which are refused here.
      warnings.simplefilter("ignore")
      pixels = _decode_with_pillow(content)
  except Image.UnidentifiedImageError:
    return "it is no image, or its header is damaged"
  except Image.DecompressionBombError:
    return f"it has more than {MAX_PIXELS} pixels"
  # Each of Pillow's decoders raises types of its own.
  except Exception as error:
    return reason(error)
  height, width, _ = pixels.shape
  return f"it is {height}x{width} and damaged, or of another size than the others"


def size_of(content: bytes) -> tuple[int, int]:
  """Returns height and width of an image, of which only the header is read.

  Raises:
    OSError: if it is no image.
  """
  with Image.open(io.BytesIO(content)) as image:
    return image.height, image.width


# Cropping.


def _random_region(
  tf: Any, height: Any, width: Any, draw: Any, reading: Reading
) -> Any:
  """Returns [top, left, height, width] of a random resized crop.

  The first of ten draws that lies in the image; if none does, the largest region in the
  middle whose ratio is allowed.
  """
  full_height = tf.cast(height, tf.float32)
  full_width = tf.cast(width, tf.float32)
  # Relative to what the region is resized to.
  ratio_of_output = reading.width / reading.height
  smallest_ratio = _RATIO[0] * ratio_of_output
  largest_ratio = _RATIO[1] * ratio_of_output

  seed = tf.stack([tf.zeros_like(draw), draw])
  uniform = tf.random.stateless_uniform([4, _ATTEMPTS], seed, alg="philox")
  fraction = _AREA[0] + uniform[0] * (_AREA[1] - _AREA[0])
  log_range = math.log(largest_ratio / smallest_ratio)
  ratio = smallest_ratio * tf.exp(uniform[1] * log_range)
  area = full_height * full_width * fraction
  widths = tf.round(tf.sqrt(area * ratio))
  heights = tf.round(tf.sqrt(area / ratio))
  fits = (widths >= 1) & (widths <= full_width)
  fits &= (heights >= 1) & (heights <= full_height)

  # The last one always fits.
  widest = tf.minimum(full_width, tf.round(full_height * largest_ratio))
  highest = tf.minimum(full_height, tf.round(full_width / smallest_ratio))
  widths = tf.concat([widths, [tf.maximum(widest, 1)]], axis=0)
  heights = tf.concat([heights, [tf.maximum(highest, 1)]], axis=0)
  tops = tf.concat([uniform[2], [0.5]], axis=0)
  lefts = tf.concat([uniform[3], [0.5]], axis=0)
  chosen = tf.argmax(tf.concat([fits, [True]], axis=0))

  region_height = heights[chosen]
  region_width = widths[chosen]
  free_height = full_height - region_height
  free_width = full_width - region_width
  # One more place than there are pixels left.
  top = tf.minimum(tf.floor(tops[chosen] * (free_height + 1)), free_height)
  left = tf.minimum(tf.floor(lefts[chosen] * (free_width + 1)), free_width)
  return tf.cast(tf.stack([top, left, region_height, region_width]), tf.int32)


# Resizing.


def _resized(tf: Any, pixels: Any, reading: Reading) -> Any:
  """Brings decoded pixels to the size that is read."""
  height, width, _ = tf.unstack(tf.shape(pixels))
  if reading.crop == "none":
    agrees = tf.logical_and(height == reading.height, width == reading.width)
    with tf.control_dependencies([tf.debugging.Assert(agrees, [height, width])]):
      return tf.identity(pixels)

  resized_height = tf.constant(reading.height)
  resized_width = tf.constant(reading.width)
  if reading.crop == "centre":
    resized_height, resized_width = _covering(tf, height, width, reading)
  pixels = _resize_first_axis(tf, pixels, resized_height, reading.height, reading)
  pixels = tf.transpose(pixels, [1, 0, 2])
  pixels = _resize_first_axis(tf, pixels, resized_width, reading.width, reading)
  # Bicubic interpolation goes beyond the range.
  pixels = tf.clip_by_value(tf.round(pixels), 0, 255)
  return tf.transpose(tf.cast(pixels, tf.uint8), [1, 0, 2])


def _covering(tf: Any, height: Any, width: Any, reading: Reading) -> tuple[Any, Any]:
  """Returns the size of an image that covers the box which the crop is taken from."""
  shorter = min(reading.height, reading.width)
  box_height = round(reading.height * reading.resize / shorter)
  box_width = round(reading.width * reading.resize / shorter)
  # Whole numbers, rounded down as torchvision does it.
  scaled_width = tf.maximum(width * box_height // height, box_width)
  scaled_height = tf.maximum(height * box_width // width, box_height)
  # The side that comes first to its end is met exactly.
  is_wide = width * box_height >= height * box_width
  resized_height = tf.where(is_wide, box_height, scaled_height)
  resized_width = tf.where(is_wide, scaled_width, box_width)
  return resized_height, resized_width


def _resize_first_axis(
  tf: Any, pixels: Any, resized: Any, size: int, reading: Reading
) -> Any:
  """Resizes the first of three axes, of which only the middle is computed.

  An axis at a time, with all that is behind it as channels, takes less than half of the
  time that both at once do, and gives the same numbers.

  Args:
    tf: TensorFlow.
    pixels: [length, others, 3].
    resized: length that the axis is resized to.
    size: length of the middle that is returned.
    reading: for the interpolation.

  Returns:
    float32[size, others, 3].
  """
  length, others, channels = tf.unstack(tf.shape(pixels))
  scale = tf.cast(resized, tf.float32) / tf.cast(length, tf.float32)
  # As torchvision rounds it: halves to the even side.
  offset = tf.round(tf.cast(resized - size, tf.float32) / 2)
  rows = tf.raw_ops.ScaleAndTranslate(
    images=tf.reshape(pixels, [1, length, 1, others * channels]),
    size=[size, 1],
    scale=tf.stack([scale, 1.0]),
    translation=tf.stack([-offset, 0.0]),
    kernel_type=_KERNELS[reading.interpolation],
    antialias=True,
  )
  return tf.reshape(rows, [size, others, channels])
