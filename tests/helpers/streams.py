"""A data set that is read when it is needed, from arrays in memory."""

import hashlib
import os
import signal
import time

import numpy as np

from jaxdistill.data import Dataset, Images, Streamed
from jaxdistill.data import digits as arrays

HANG_AT = "TEST_HANG_AT"
"""Environment variable: the batch of a reader's that does not come."""

SLOWLY = "TEST_SLOWLY"
"""Environment variable: seconds that every batch takes."""


class Reader:
  """Reads from an array; reads ahead as many requests as there are.

  Attributes:
    requests: those of all calls.
    faulty: as a reader of files has it.
  """

  def __init__(self, image, intact=None, crop=0):
    """Takes the images.

    Args:
      image: uint8[N, H, W, 3].
      intact: bool[N] which of them can be read; None: all.
      crop: side of the square that is cropped out of each by its draw; 0: none is.
    """
    self._image = image
    self._intact = np.ones(len(image), bool) if intact is None else intact
    self._crop = crop
    self.requests = []
    self.faulty = {}

  @property
  def digest(self):
    return hashlib.sha256(self._image.tobytes()).hexdigest()

  def batches(self, requests):
    for number, request in enumerate(requests):
      self.requests.append(request)
      if os.environ.get(HANG_AT) == str(number):
        time.sleep(1000)
      time.sleep(float(os.environ.get(SLOWLY, "0")))
      intact = self._intact[request.index]
      for row in request.index[~intact]:
        self.faulty[f"image {row}"] = "damaged"
      image = self._image[request.index] * intact[:, None, None, None].astype(np.uint8)
      if self._crop:
        image = self._cropped(image, request.draw)
      yield Images(image=image, intact=intact)

  def _cropped(self, image, draw):
    """Squares whose place is the number of the draw."""
    room = image.shape[1] - self._crop + 1
    cut = []
    for one, number in zip(image, draw, strict=True):
      top, left = number % room, (number // room) % room
      cut.append(one[top : top + self._crop, left : left + self._crop])
    return np.stack(cut)

  def for_evaluation(self):
    return Reader(self._image, self._intact, crop=0)


def streamed(split, **keys):
  """A split of arrays as one that is read."""
  return Streamed(
    label=split.label,
    rows=np.arange(len(split.label)),
    shape=split.image.shape[1:],
    reader=Reader(split.image, **keys),
  )


def digits(*, damaged: int = 0) -> Dataset:
  """Returns the digits, which are read when they are needed.

  SIGUSR1 makes the process stand still.

  Args:
    damaged: number of test images that cannot be read, the first ones.
  """
  signal.signal(signal.SIGUSR1, lambda *_: time.sleep(1000))
  found = arrays.digits()
  intact = np.arange(len(found.test.label)) >= damaged
  return found._replace(
    train=streamed(found.train),
    test=streamed(found.test, intact=intact),
  )
