"""Reads images when they are needed: from encoded bytes to batches, with tf.data."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from jaxdistill.data._dataset import Images, Request


class Source(Protocol):
  """Encoded images, read at random by row.

  It is called from several threads at once.
  """

  @property
  def digest(self) -> str:
    """Tells these images from others: a hash of names, sizes or checksums."""
    ...

  def __len__(self) -> int:
    """Returns the number of images."""
    ...

  def name(self, row: int) -> str:
    """Returns what errors call an image: its file, or its shard and record."""
    ...

  def read(self, rows: Sequence[int]) -> list[bytes]:
    """Returns the encoded images of some rows, each a whole JPEG, PNG, ... file.

    Raises:
      OSError: if one of them cannot be read.
      DataError: likewise; the text says why in few words.
    """
    ...


class Reading(NamedTuple):
  """How the images of a split are read.

  Attributes:
    height: of every image as it is read; 0 for that of the stored images, which are
      then neither cropped nor resized.
    width: likewise.
    crop: "random" for the region of a random resized crop, "centre" for the middle.
    resize: of the centre crop: the image is first resized until it covers `height` and
      `width` times `resize` over the smaller of them: until its shorter side has
      `resize` pixels, where the crop is a square.
    method: "bilinear" or "bicubic", both with antialiasing.
  """

  height: int
  width: int
  crop: str = "centre"
  resize: int = 0
  method: str = "bilinear"


class Faults(NamedTuple):
  """What happens to images that cannot be read.

  Attributes:
    on_error: "raise", or "skip": a training example is replaced by the next intact one
      of its class, an evaluation example comes back as not intact.
    fraction: of the examples that may be skipped, beyond ten of them.
  """

  on_error: str = "raise"
  fraction: float = 0.01


class TfReader:
  """Reads the images of a source; a `Reader`.

  Attributes:
    faulty: name -> reason, of the distinct images that could not be read so far.
  """

  faulty: dict[str, str]

  def __init__(
    self,
    source: Source,
    reading: Reading,
    *,
    labels: np.ndarray | None = None,
    faults: Faults = Faults(),
    threads: int = 0,
  ):
    """Prepares reading; opens nothing.

    Args:
      source: of the encoded images.
      reading: how they are decoded, cropped and resized.
      labels: int32[N] of all rows of a training source, where faulty images are
        replaced; None leaves them out, as evaluation needs it.
      faults: what happens to images that cannot be read.
      threads: that decode; 0 takes one for each processor of this process.
    """

  @property
  def digest(self) -> str:
    """Tells what is read from another set of files or another way to read them."""
    raise NotImplementedError

  def batches(self, requests: Iterable[Request]) -> Iterator[Images]:
    """Yields the images of each request, in their order; reads ahead."""
    raise NotImplementedError

  def for_evaluation(self) -> "TfReader":
    """Returns the reader of the same rows as an evaluation reads them.

    For examples that are held out of a training split: the centre of each image, and
    no replacement of those that cannot be read.
    """
    raise NotImplementedError
