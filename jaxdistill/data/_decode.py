"""From an encoded image to the pixels of a batch, in TensorFlow's graph.

JPEG and PNG are decoded by TensorFlow, every other format by Pillow. Whatever an image
is stored as, it becomes RGB of 8 bits: gray is repeated, alpha is dropped, CMYK is
converted as Adobe stores it, of 16 bits the upper 8 remain, and of an animation the
first frame. Tags of orientation are ignored, as PyTorch's loaders do: the pixels are
taken as they are stored.
"""

from collections.abc import Callable
import io
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


class _Kernel(NamedTuple):
  """How pixels are interpolated.

  Attributes:
    name: of the kernel in TensorFlow.
    radius: pixels that it reaches, of those that an axis is averaged to.
    overshoots: whether it goes beyond the range of the pixels.
  """

  name: str
  radius: int
  overshoots: bool


_KERNELS = {
  "bilinear": _Kernel("triangle", radius=1, overshoots=False),
  "bicubic": _Kernel("keyscubic", radius=2, overshoots=True),
}

# Pixels of a part beyond what is interpolated: at its edge, a JPEG's colours lack their
# neighbours, and places are rounded.
_MARGIN = 3


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


def make_decoder(
  reading: Reading, *, only_jpeg: bool = False
) -> Callable[[Any, Any], Any]:
  """Returns (encoded image, candidates) -> uint8[H, W, 3], for a graph.

  Candidates are one row of `draw_candidates`.

  The graph raises one of TensorFlow's errors for what is no intact image, or has more
  than `MAX_PIXELS`, which its header tells before it is decoded.

  Args:
    reading: size, crop and interpolation.
    only_jpeg: whether other formats are errors too, which saves a branch.
  """
  tf = import_tensorflow()

  def decode(content: Any, candidates: Any) -> Any:
    def of_jpeg() -> tuple[Any, ...]:
      height, width = _jpeg_size(tf, content)
      place = _place(tf, height, width, candidates, reading)
      return _jpeg(tf, content, place.region), *place[1:]

    def of_others() -> tuple[Any, ...]:
      # They have to be decoded before their size is known.
      height, width, decoded = _with_size(tf, _other(tf, content))
      place = _place(tf, height, width, candidates, reading)
      return _cropped(tf, decoded, place.region), *place[1:]

    if only_jpeg:
      pixels, scale, translation = of_jpeg()
    else:
      starts_as_jpeg = _starts_with(tf, content, _JPEG)
      pixels, scale, translation = tf.cond(starts_as_jpeg, of_jpeg, of_others)
    if reading.crop != "none":
      pixels = _resized(tf, pixels, scale, translation, reading)
    pixels.set_shape([reading.height, reading.width, 3])
    return pixels

  return decode


def is_jpeg(content: bytes) -> bool:
  """Tells whether an image is stored as JPEG."""
  return content.startswith(_JPEG)


def _starts_with(tf: Any, content: Any, magic: bytes) -> Any:
  return tf.equal(tf.strings.substr(content, 0, len(magic)), magic)


# Decoding.


def _jpeg_size(tf: Any, content: Any) -> tuple[Any, Any]:
  """Returns height and width of a JPEG image, from its header."""
  height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(content))
  with tf.control_dependencies([_small_enough(tf, height, width)]):
    return tf.identity(height), tf.identity(width)


def _jpeg(tf: Any, content: Any, region: Any) -> Any:
  """Decodes the part of a JPEG image that is needed."""
  # The quick way to decode depends on the machine.
  return tf.io.decode_and_crop_jpeg(
    content, region, channels=3, dct_method="INTEGER_ACCURATE"
  )


def _other(tf: Any, content: Any) -> Any:
  """Decodes an image of another format."""
  return tf.cond(
    _starts_with(tf, content, _PNG),
    lambda: _png(tf, content),
    lambda: tf.numpy_function(_decode_with_pillow, [content], tf.uint8, stateful=False),
  )


def _png(tf: Any, content: Any) -> Any:
  """Decodes a PNG image."""
  start = _PNG_SIZE.start
  length = _PNG_SIZE.stop - start
  raw = tf.strings.substr(content, start, length)
  size = tf.io.decode_raw(raw, tf.int32, little_endian=False)
  with tf.control_dependencies([_small_enough(tf, size[1], size[0])]):
    return tf.io.decode_png(tf.identity(content), channels=3)


def _with_size(tf: Any, pixels: Any) -> tuple[Any, Any, Any]:
  """Returns height, width and the pixels."""
  pixels = tf.ensure_shape(pixels, [None, None, 3])
  height, width, _ = tf.unstack(tf.shape(pixels))
  return height, width, pixels


def _cropped(tf: Any, pixels: Any, region: Any) -> Any:
  """Returns a part of decoded pixels."""
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
  return _require(tf, within, [height, width])


def _require(tf: Any, condition: Any, told: list[Any]) -> Any:
  """Returns an operation that fails unless a condition holds."""
  # The one of `tf.debugging` puts a branch around it, which takes longer.
  return tf.raw_ops.Assert(condition=condition, data=told)


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


class _Place(NamedTuple):
  """The part of an image that is needed, and how it is brought to the size.

  Attributes:
    region: i32[4] top, left, height and width of the part.
    scale: f32[2] of the two axes.
    translation: f32[2] of the part after scaling, in pixels of the output.
  """

  region: Any
  scale: Any
  translation: Any


def _place(
  tf: Any, height: Any, width: Any, candidates: Any, reading: Reading
) -> _Place:
  """Returns what is needed of an image of some height and width."""
  if reading.crop == "centre":
    return _centre(tf, height, width, reading)
  region = tf.stack([0, 0, height, width])
  if reading.crop == "random":
    region = random_region(tf, height, width, candidates, reading)
  else:
    agrees = tf.logical_and(height == reading.height, width == reading.width)
    with tf.control_dependencies([_require(tf, agrees, [height, width])]):
      region = tf.identity(region)
  size = tf.constant([reading.height, reading.width], tf.float32)
  scale = size / tf.cast(region[2:], tf.float32)
  return _Place(region, scale=scale, translation=tf.zeros([2]))


def _centre(tf: Any, height: Any, width: Any, reading: Reading) -> _Place:
  """Returns the middle of an image, with what interpolation takes from around it."""
  full = tf.stack([height, width])
  covering = tf.stack(_covering(tf, height, width, reading))
  size = tf.constant([reading.height, reading.width])
  scale = tf.cast(covering, tf.float32) / tf.cast(full, tf.float32)
  # As torchvision rounds it: halves to the even side.
  offset = tf.round(tf.cast(covering - size, tf.float32) / 2)

  reach = _KERNELS[reading.interpolation].radius * tf.maximum(1 / scale, 1) + _MARGIN
  first = tf.floor(offset / scale - reach)
  last = tf.math.ceil((offset + tf.cast(size, tf.float32)) / scale + reach)
  start = tf.maximum(tf.cast(first, tf.int32), 0)
  stop = tf.minimum(tf.cast(last, tf.int32), full)
  region = tf.concat([start, stop - start], axis=0)
  translation = tf.cast(start, tf.float32) * scale - offset
  return _Place(region, scale=scale, translation=translation)


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


def draw_candidates(draws: np.ndarray, reading: Reading) -> np.ndarray:
  """Draws what random resized crops may be, in any image.

  Args:
    draws: i64[n] numbers of the draws: each decides on its own candidates alone.
    reading: for the ratio of the output.

  Returns:
    f32[n, 10, 4]: height and width for an image of one pixel's area, and what of the
    free rows and columns is above and left of the crop. Zeros unless crops are random.
  """
  if not reading.varies:
    # TensorFlow crashes over an array without elements that a generator yields.
    return np.zeros((len(draws), _ATTEMPTS, 4), np.float32)
  # The raw bits of a generator stay what they are; its distributions may change.
  raw = np.stack(
    [np.random.Philox(key=draw).random_raw(4 * _ATTEMPTS) for draw in draws]
  )
  uniform = (raw >> 40).reshape(-1, _ATTEMPTS, 4) / 2**24
  fraction = _AREA[0] + uniform[..., 0] * (_AREA[1] - _AREA[0])
  smallest, largest = _ratios(reading)
  ratio = smallest * (largest / smallest) ** uniform[..., 1]
  candidates = [
    np.sqrt(fraction / ratio),
    np.sqrt(fraction * ratio),
    uniform[..., 2],
    uniform[..., 3],
  ]
  return np.stack(candidates, axis=-1).astype(np.float32)


def _ratios(reading: Reading) -> tuple[float, float]:
  """Returns the smallest and the largest ratio of a random crop, width to height."""
  # Relative to what the region is resized to.
  ratio_of_output = reading.width / reading.height
  return _RATIO[0] * ratio_of_output, _RATIO[1] * ratio_of_output


def random_region(
  tf: Any, height: Any, width: Any, candidates: Any, reading: Reading
) -> Any:
  """Returns [top, left, height, width] of a random resized crop.

  The first of ten candidates that lies in the image; if none does, the largest region
  in the middle whose ratio is allowed.

  Args:
    tf: TensorFlow.
    height: i32[] of the image.
    width: i32[] likewise.
    candidates: f32[10, 4] from `draw_candidates`.
    reading: for the ratio of the output.
  """
  full = tf.cast(tf.stack([height, width]), tf.float32)
  sizes = tf.round(tf.sqrt(tf.reduce_prod(full)) * candidates[:, :2])
  fits = tf.reduce_all((sizes >= 1) & (sizes <= full), axis=1)

  # The last one always fits.
  smallest, largest = _ratios(reading)
  by_other_side = tf.round(tf.reverse(full, [0]) * [1 / smallest, largest])
  widest = tf.maximum(tf.minimum(full, by_other_side), 1)
  sizes = tf.concat([sizes, widest[None]], axis=0)
  offsets = tf.concat([candidates[:, 2:], [[0.5, 0.5]]], axis=0)
  chosen = tf.argmax(tf.concat([fits, [True]], axis=0))

  size = sizes[chosen]
  free = full - size
  # One more place than there are pixels left.
  start = tf.minimum(tf.floor(offsets[chosen] * (free + 1)), free)
  return tf.cast(tf.concat([start, size], axis=0), tf.int32)


# Resizing.


def _resized(
  tf: Any, pixels: Any, scale: Any, translation: Any, reading: Reading
) -> Any:
  """Brings a part of an image to the size that is read.

  Args:
    tf: TensorFlow.
    pixels: uint8[height, width, 3] of the part.
    scale: as in `_Place`.
    translation: likewise.
    reading: for the size and the interpolation.

  Returns:
    uint8[H, W, 3].
  """
  kernel = _KERNELS[reading.interpolation]
  resized = tf.raw_ops.ScaleAndTranslate(
    images=pixels[None],
    size=[reading.height, reading.width],
    scale=scale,
    translation=translation,
    kernel_type=kernel.name,
    antialias=True,
  )
  resized = tf.round(resized[0])
  if kernel.overshoots:
    resized = tf.clip_by_value(resized, 0, 255)
  return tf.cast(resized, tf.uint8)
