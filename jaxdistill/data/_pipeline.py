"""Reads images when they are needed: from encoded bytes to batches, with tf.data.

What a batch holds is a function of its request alone: of the rows, and of the numbers
of the draws. Neither the batches before it nor the threads have a part in it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
import concurrent.futures
import functools
import hashlib
import itertools
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from jaxdistill.core.foreign import UnusableFile
from jaxdistill.core.processors import processors
from jaxdistill.data._dataset import Images, Request
from jaxdistill.data._decode import (
  Reading,
  draw_candidates,
  explain,
  is_jpeg,
  make_decoder,
)
from jaxdistill.data._tensorflow import import_tensorflow
from jaxdistill.errors import DataError, describe, reason

# Changes with the pixels that are read from the same files.
_VERSION = 3

# Of rows whose bytes are fetched together, of batches that wait.
_CHUNK = 64
_BATCHES_AHEAD = 2

# So many images tell whether a source is of JPEG.
_SAMPLE = 16

# So many examples may be faulty in a data set of any size.
_ALLOWED_FAULTS = 10


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
      OSError: if one of them cannot be read; its text says why in few words, as that of
        `core.foreign.UnusableFile`.
    """
    ...


@runtime_checkable
class FileSource(Protocol):
  """A source whose images are files, which TensorFlow reads by itself."""

  def paths(self, rows: Sequence[int]) -> list[bytes]:
    """Returns the path of each row; empty for what should not be opened."""
    ...


class Faults(NamedTuple):
  """What happens to images that cannot be read.

  Attributes:
    on_error: "raise", or "skip": a training example is replaced by the next intact one
      of its class, an evaluation example comes back as not intact.
    fraction: of the examples that may be skipped; ten may always be.
  """

  on_error: str = "raise"
  fraction: float = 0.01


_STRICT = Faults()


class TfReader:
  """Reads the images of a source; a `Reader`.

  Attributes:
    source: of the encoded images.
    reading: how they are decoded, cropped and resized.
    faulty: name -> reason, of the distinct images that could not be read so far.
  """

  def __init__(
    self,
    source: Source,
    reading: Reading,
    *,
    labels: np.ndarray | None = None,
    faults: Faults = _STRICT,
    threads: int = 0,
  ):
    """Prepares reading; opens nothing.

    Args:
      source: of the encoded images.
      reading: how they are decoded, cropped and resized. Random crops are drawn by the
        numbers in the requests alone, so these have to differ between seeds.
      labels: i32[N] of all rows of a training source, -1 for those that do not belong
        to the split: another example of the class replaces a faulty one. None leaves
        faulty ones out, as evaluation needs it.
      faults: what happens to images that cannot be read.
      threads: that read and decode; 0 takes one for each processor of this process.
    """
    self.source = source
    self.reading = reading
    self.faulty: dict[str, str] = {}
    self._labels = labels
    self._faults = faults
    self._threads = threads or len(processors())

  @property
  def digest(self) -> str:
    """Tells what is read from another set of files or another way to read them."""
    told = f"{_VERSION} {self.source.digest} {tuple(self.reading)}"
    return hashlib.sha256(told.encode()).hexdigest()

  def for_evaluation(self, reading: Reading) -> "TfReader":
    """Returns a reader of the same rows that replaces nothing.

    For the examples that are held out of a training split, and for its statistics.

    Args:
      reading: how evaluation reads them: that of the test split.
    """
    return TfReader(self.source, reading, faults=self._faults, threads=self._threads)

  def batches(self, requests: Iterable[Request]) -> Iterator[Images]:
    """Yields the images of each request, in their order; reads ahead.

    Args:
      requests: taken ahead, in a thread: they must not wait for what is yielded.

    Raises:
      DataError: naming the file that cannot be read, or if too many cannot.
    """
    tf = import_tensorflow()
    requests = iter(requests)
    first = next(requests, None)
    if first is None:
      return
    queue = _Queue(itertools.chain([first], requests))
    stream = self._stream(tf, queue, len(first.index)).as_numpy_iterator()

    held: deque[_Arrived] = deque()
    while True:
      try:
        arrived = next(stream, None)
      except tf.errors.OpError as error:
        raise DataError(
          f"{self.source.name(0)} and the others cannot be read ({describe(error)})"
        ) from error
      complete = queue.length
      if arrived is not None:
        held.append(_Arrived(*arrived))
        complete = int(held[-1].position[-1]) + 1
      while queue.waiting and queue.waiting[0].stop <= complete:
        yield self._finish(queue.waiting.popleft(), held)
      if arrived is None:
        break
    if queue.error is not None:
      raise queue.error

  # The pipeline.

  def _stream(self, tf: Any, queue: "_Queue", batch_size: int) -> Any:
    """Returns the dataset of (positions, images); positions that failed are missing."""
    decode = _traced_decoder(self.reading, only_jpeg=self._is_of_jpeg)
    is_file = isinstance(self.source, FileSource)

    def fetch(position: Any, row: Any, candidates: Any) -> tuple[Any, Any, Any]:
      fetched = tf.numpy_function(self._fetch, [row], tf.string, stateful=False)
      fetched.set_shape([None])
      return position, fetched, candidates

    def load(position: Any, fetched: Any, candidates: Any) -> tuple[Any, Any]:
      content = tf.io.read_file(fetched) if is_file else fetched
      return position, decode(content, candidates)

    whole_numbers = tf.TensorSpec([None], tf.int64)
    candidates = tf.TensorSpec([None, None, 4], tf.float32)
    signature = (whole_numbers, whole_numbers, candidates)
    chunks = functools.partial(queue.chunks, self.reading)
    stream = tf.data.Dataset.from_generator(chunks, output_signature=signature)
    stream = stream.map(fetch, num_parallel_calls=self._threads, deterministic=True)
    stream = stream.unbatch()
    stream = stream.map(load, num_parallel_calls=self._threads, deterministic=True)
    # Directly behind it, so that images are written where they stand in the batch. One
    # that fails takes its batch along.
    stream = stream.batch(batch_size)
    # What is left out is noticed by its position.
    stream = stream.ignore_errors().prefetch(_BATCHES_AHEAD)

    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = self._threads + 1
    options.threading.max_intra_op_parallelism = 1
    return stream.with_options(options)

  def _fetch(self, rows: np.ndarray) -> np.ndarray:
    """Returns the paths or the bytes of a chunk; empty where there are none."""
    if isinstance(self.source, FileSource):
      return np.array(self.source.paths(rows.tolist()), object)
    return np.array(self._fetch_bytes(rows.tolist()), object)

  def _fetch_bytes(self, rows: list[int]) -> list[bytes]:
    """Returns the bytes of some images; empty where there are none."""
    try:
      return self.source.read(rows)
    except (OSError, ValueError):
      return [self._bytes_or_nothing(row) for row in rows]

  def _bytes_or_nothing(self, row: int) -> bytes:
    try:
      return self.source.read([row])[0]
    except (OSError, ValueError):
      return b""

  @functools.cached_property
  def _is_of_jpeg(self) -> bool:
    """Whether all images of a sample are JPEG: then the pipeline reads nothing else.

    An image of another format among them is read apart.
    """
    sample = np.linspace(0, len(self.source) - 1, _SAMPLE).astype(int)
    contents = self._fetch_bytes(np.unique(sample).tolist())
    return all(is_jpeg(content) for content in contents)

  # The batches.

  def _finish(self, waiting: "_Waiting", held: "deque[_Arrived]") -> Images:
    """Puts the images of a request together, and sees to those that are missing."""
    count = waiting.stop - waiting.start
    intact = np.ones(count, bool)
    expected = np.arange(waiting.start, waiting.stop)
    if held and np.array_equal(held[0].position, expected):
      return Images(image=held.popleft().image, intact=intact)

    image = np.zeros((count, self.reading.height, self.reading.width, 3), np.uint8)
    found = np.zeros(count, bool)
    while held and held[0].position[0] < waiting.stop:
      arrived = held.popleft()
      belongs = arrived.position < waiting.stop
      places = arrived.position[belongs] - waiting.start
      image[places] = arrived.image[belongs]
      found[places] = True
      if not belongs.all():
        held.appendleft(
          _Arrived(position=arrived.position[~belongs], image=arrived.image[~belongs])
        )
        break

    missing = np.flatnonzero(~found)
    rows = waiting.request.index[missing].tolist()
    draws = waiting.request.draw[missing].tolist()
    with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
      attempts = list(pool.map(self._attempt, rows, draws))
    for place, row, draw, pixels in zip(missing, rows, draws, attempts, strict=True):
      if isinstance(pixels, Exception):
        self._remember(row, reason(pixels))
        pixels = self._stand_in(row, draw)
      if pixels is None:
        intact[place] = False
      else:
        image[place] = pixels
    return Images(image=image, intact=intact)

  # Faulty images.

  def _attempt(self, row: int, draw: int) -> np.ndarray | Exception:
    """Reads one image; returns the error if it cannot be read."""
    try:
      return self._read_one(row, draw)
    except (OSError, ValueError) as error:
      return error

  def _stand_in(self, row: int, draw: int) -> np.ndarray | None:
    """Reads what stands in for a faulty image.

    Returns:
      uint8[H, W, 3]; None where nothing does.
    """
    if self._labels is None:
      return None
    for candidate in self.stand_ins(row):
      pixels = self._attempt(candidate, draw)
      if not isinstance(pixels, Exception):
        return pixels
      self._remember(candidate, reason(pixels))
    raise DataError(
      f"{self.source.name(row)} cannot be read, nor any other image of its class: "
      "replace them"
    )

  def stand_ins(self, row: int) -> list[int]:
    """Returns the rows that may stand in for a faulty one, in their order.

    They are of its class; none where the reader has no labels.
    """
    if self._labels is None:
      return []
    rows = np.flatnonzero(self._labels == self._labels[row])
    later = rows[rows > row]
    earlier = rows[rows < row]
    return [*later.tolist(), *earlier.tolist()]

  def _read_one(self, row: int, draw: int) -> np.ndarray:
    """Reads one image, by the same operations as the pipeline.

    Raises:
      OSError: if it cannot be read or decoded.
    """
    tf = import_tensorflow()
    (content,) = self.source.read([row])
    try:
      decode = _traced_decoder(self.reading, only_jpeg=False)
      (candidates,) = draw_candidates(np.array([draw]), self.reading)
      return decode(tf.constant(content), tf.constant(candidates)).numpy()
    except tf.errors.OpError as error:
      raise UnusableFile(explain(content)) from error

  def _remember(self, row: int, why: str) -> None:
    """Counts a faulty image.

    Raises:
      DataError: unless it may be skipped.
    """
    name = self.source.name(row)
    if self._faults.on_error != "skip":
      raise DataError(
        f"{name} cannot be read ({why}): replace it, or set data.on_error=skip"
      )
    self.faulty[name] = why
    allowed = max(_ALLOWED_FAULTS, int(self._faults.fraction * len(self.source)))
    if len(self.faulty) > allowed:
      raise DataError(
        f"{name} cannot be read ({why}), nor {len(self.faulty) - 1} others, where "
        f"{allowed} of {len(self.source)} may be skipped: replace them, or raise "
        "data.max_faulty"
      )


@functools.lru_cache(maxsize=16)
def _traced_decoder(reading: Reading, *, only_jpeg: bool) -> Callable[[Any, Any], Any]:
  """Returns `make_decoder`'s function, traced once for all readers."""
  tf = import_tensorflow()
  signature = [tf.TensorSpec([], tf.string), tf.TensorSpec([None, 4], tf.float32)]
  decode = make_decoder(reading, only_jpeg=only_jpeg)
  return tf.function(decode, input_signature=signature, autograph=False)


class _Arrived(NamedTuple):
  """Images that came out of the pipeline.

  Attributes:
    position: i64[n] of each image among all that were requested, ascending.
    image: uint8[n, H, W, 3].
  """

  position: np.ndarray
  image: np.ndarray


class _Waiting(NamedTuple):
  """A request that was given to the pipeline.

  Attributes:
    request: as it came.
    start: position of its first image among all that were requested.
    stop: after its last image.
  """

  request: Request
  start: int
  stop: int


class _Queue:
  """Gives requests to the pipeline, which takes them in a thread of its own.

  Attributes:
    waiting: requests that were taken and not finished.
    length: number of images that were requested so far.
    error: that the requests ended in, or None.
  """

  def __init__(self, requests: Iterable[Request]):
    self.waiting: deque[_Waiting] = deque()
    self.length = 0
    self.error: Exception | None = None
    self._requests = requests

  def chunks(
    self, reading: Reading
  ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (positions, rows, candidates for crops) of a few images at a time."""
    try:
      for request in self._requests:
        start = self.length
        index = np.asarray(request.index, np.int64)
        draw = np.asarray(request.draw, np.int64)
        self.length = start + len(index)
        self.waiting.append(_Waiting(request, start=start, stop=self.length))
        position = np.arange(start, self.length)
        for first in range(0, len(index), _CHUNK):
          part = slice(first, first + _CHUNK)
          candidates = draw_candidates(draw[part], reading)
          yield position[part], index[part], candidates
    # In a thread of TensorFlow's, it would come out as one of its errors.
    except Exception as error:
      self.error = error
