"""Image files of any kind as what a network is given."""

from pathlib import Path
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxdistill.core.foreign import open_file
from jaxdistill.errors import DataError, reason


def read_picture(path: Path, height: int, width: int) -> np.ndarray:
  """Reads an image file.

  It is turned as its EXIF orientation says, made RGB, resized until it just covers the
  wanted size, and cropped in the middle.

  Args:
    path: of the file.
    height: wanted, in pixels.
    width: wanted, in pixels.

  Returns:
    uint8[height, width, 3].

  Raises:
    DataError: if it is missing, or no image that Pillow can read.
  """
  try:
    with warnings.catch_warnings():
      # Of large images, and of colours that do not survive: neither is an error.
      warnings.simplefilter("ignore")
      with open_file(path) as file, Image.open(file) as image:
        upright = ImageOps.exif_transpose(image)
        picture = ImageOps.fit(
          _to_rgb(upright), (width, height), Image.Resampling.BICUBIC
        )
  except MemoryError:
    raise
  except UnidentifiedImageError as error:
    raise DataError(f"{path} is no image that Pillow knows") from error
  # Readers of damaged files raise whatever comes along.
  except Exception as error:
    raise DataError(f"{path} is no image that can be read: {reason(error)}") from error
  return np.asarray(picture)


def _to_rgb(image: Image.Image) -> Image.Image:
  """Converts an image of any mode to RGB."""
  if image.mode.startswith("I;16"):
    # Pillow would make everything above 255 white.
    return Image.fromarray((np.asarray(image) // 256).astype(np.uint8)).convert("RGB")
  if image.mode == "P" and "transparency" in image.info:
    image = image.convert("RGBA")
  return image.convert("RGB")
