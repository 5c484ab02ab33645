"""Splits that are streamed: threads read batches ahead and put them on the devices.

Which examples a batch has, and the numbers of their random crops, are functions of seed
and step alone: a run may begin anywhere, in any number of processes. Each process reads
only the rows that its own devices hold.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
import contextlib
import itertools
import queue
import threading
import time
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
import numpy as np

from jaxdistill.data import Images, Reader, Request, Streamed
from jaxdistill.engine import sharding
from jaxdistill.engine.resident import Delivered, Part, padded_batches
from jaxdistill.engine.sampling import Sampler
from jaxdistill.errors import DataError, StalledError, readable
from jaxdistill.run import background, hosts
from jaxdistill.run.background import Stopped

TOLD_SECONDS = 30.0
"""A wait that takes longer is told on the console."""

_PERIOD = 0.2  # seconds from one look at what may end a wait to the next

# In the queue; the thread holds one more that has no room there.
_AHEAD = 1

_FAREWELL_SECONDS = 2.0

# Images that could not be read and are named in the summary.
_MOST_FAULTY = 10

# The watch over several processes ends all after the whole time, and cannot say what
# was awaited.
_PATIENCE_OF_SEVERAL = 0.9


class Plan(NamedTuple):
  """A batch, before it is read.

  Attributes:
    number: of the batch; in training, of the step.
    index: i32[B] row of each example in its split.
    mask: f32[B] 1 for an example, 0 for padding, which stands last.
    draw: i64[B] number of the draw of each example's random crop.
  """

  number: int
  index: np.ndarray
  mask: np.ndarray
  draw: np.ndarray


# What is read.


def training_plans(
  order: Callable[[int], np.ndarray],
  *,
  batch_size: int,
  steps_per_epoch: int,
  start: int,
  stop: int,
  seed: int = 0,
) -> Iterator[Plan]:
  """Yields the batches of the steps from `start` up to `stop`.

  Args:
    order: epoch -> i32[N] the order in which it visits the examples.
    batch_size: B.
    steps_per_epoch: an epoch is whole batches.
    start: first step.
    stop: the step after the last one.
    seed: below 2^31; draws of another seed have other numbers.
  """
  own_draws = np.int64(seed) << 32
  mask = np.ones(batch_size, np.float32)
  known = None
  visited = np.zeros(0, np.int32)
  for step in range(start, stop):
    epoch, position = divmod(step, steps_per_epoch)
    if epoch != known:
      visited = np.asarray(order(epoch))
      known = epoch
    first = position * batch_size
    index = visited[first : first + batch_size].astype(np.int32)
    draw = own_draws ^ (np.int64(step) * batch_size + np.arange(batch_size))
    yield Plan(number=step, index=index, mask=mask, draw=draw)


def covering_plans(num_examples: int, batch_size: int) -> Iterator[Plan]:
  """Yields batches that cover every example once, with the same draws every time."""
  for number, (index, mask) in enumerate(padded_batches(num_examples, batch_size)):
    draw = np.int64(number) * batch_size + np.arange(batch_size)
    yield Plan(number=number, index=index, mask=mask, draw=draw)


def read_rows(plan: Plan, rows: np.ndarray) -> np.ndarray:
  """Returns those of a process's rows of a batch that are read: all but the padding.

  Args:
    plan: of the batch.
    rows: i64[b] ascending, those that its devices hold.
  """
  wanted = rows[plan.mask[rows] > 0]
  if len(wanted):
    return wanted
  # So that there is an answer to every request.
  return rows[:1]


def request_of(split: Streamed, plan: Plan, rows: np.ndarray) -> Request:
  """Returns what a process's reader is to read of a batch.

  Args:
    split: that is read.
    plan: of the batch.
    rows: i64[b] ascending, those that the process's devices hold.
  """
  wanted = read_rows(plan, rows)
  return Request(index=split.rows[plan.index[wanted]], draw=plan.draw[wanted])


def host_order(
  key: jax.Array, mesh: Mesh, sampler: Sampler
) -> Callable[[int], np.ndarray]:
  """Returns the function epoch -> i32[N'], which is a sampler on the host.

  It may be called from any thread: it needs a single device, and no other process.

  Args:
    key: of the run, on the devices.
    mesh: devices.
    sampler: of the run.
  """
  device = mesh.local_devices[0]
  bits = np.asarray(jax.random.key_data(key))
  implementation = jax.random.key_impl(key)
  draw = jax.jit(sampler)

  def order(epoch: int) -> np.ndarray:
    own = jax.random.wrap_key_data(jax.device_put(bits, device), impl=implementation)
    return np.asarray(draw(own, epoch))

  return order


# Reading ahead.


class _Raised(NamedTuple):
  """What ended the thread that reads."""

  error: BaseException


class Feed:
  """Hands out what a thread has read ahead, batch by batch.

  Attributes:
    waited: seconds that `next` has waited in all.
  """

  def __init__(
    self,
    split: Streamed,
    plans: Iterator[Plan],
    rows: np.ndarray,
    deliver: Callable[[Plan, Images], Any],
    *,
    name: str,
    say: Callable[[str], None],
    closing: threading.Event,
  ):
    """Starts to read.

    Args:
      split: that is read.
      plans: its batches.
      rows: i64[b] ascending, the rows of each batch that this process reads.
      deliver: makes what is handed out; called in the thread.
      name: of the split.
      say: tells the user of a long wait.
      closing: set when nothing more is wanted of any feed.
    """
    self.waited = 0.0
    self._split = split
    self._plans = plans
    self._rows = rows
    self._deliver = deliver
    self._name = name
    self._say = say
    self._all_closing = closing
    self._closing = threading.Event()
    self._awaited: deque[Plan] = deque()
    self._queue: queue.Queue = queue.Queue(_AHEAD)
    self._patience = hosts.stall_seconds()
    if hosts.several():
      self._patience *= _PATIENCE_OF_SEVERAL
    self._thread = threading.Thread(target=self._work, daemon=True)
    self._thread.start()

  def next(self, stop: Callable[[], bool]) -> Any:
    """Returns the next batch, None at the end.

    Args:
      stop: called several times a second while it waits; whether the run is to stop.

    Raises:
      Stopped: if it is, or nothing more is wanted.
      StalledError: if nothing comes for too long.
      DataError: for what cannot be read.
    """
    since = time.perf_counter()
    is_told = False
    try:
      while True:
        with contextlib.suppress(queue.Empty):
          item = self._queue.get(timeout=_PERIOD)
          break
        if self._is_closed() or stop():
          raise Stopped
        seconds = time.perf_counter() - since
        if seconds > self._patience:
          raise StalledError(
            f"no image of {self._what} has come for {seconds:.0f} s "
            f"({hosts.STALL_SECONDS}): nothing more is saved: see that its files can "
            "be read, then run the same command again"
          )
        if seconds > TOLD_SECONDS and not is_told:
          self._say(f"note: waiting for {seconds:.0f} s for images of {self._what}")
          is_told = True
    finally:
      self.waited += time.perf_counter() - since
    if isinstance(item, _Raised):
      raise item.error
    return item

  @property
  def _what(self) -> str:
    """Names what is awaited."""
    try:
      plan = self._awaited[0]
    except IndexError:
      return self._name
    return f"{self._name} (batch {plan.number}, from example {plan.index[0]} on)"

  @property
  def is_open(self) -> bool:
    """Whether `close` has not been called."""
    return not self._closing.is_set()

  def close(self) -> None:
    """Ends the thread, unless it hangs."""
    self._closing.set()
    self._thread.join(_FAREWELL_SECONDS)
    if self._thread.is_alive():
      background.abandon(self._thread)

  def _is_closed(self) -> bool:
    return self._closing.is_set() or self._all_closing.is_set()

  # In the thread.

  def _work(self) -> None:
    """Reads until the end, an error, or nothing more is wanted."""
    try:
      with contextlib.closing(self._read()) as batches:
        for plan, images in batches:
          self._put(self._deliver(plan, images))
      self._put(None)
    except BaseException as error:
      self._put(_Raised(error))

  def _put(self, item: Any) -> None:
    """Hands something out as soon as there is room."""
    while not self._is_closed():
      with contextlib.suppress(queue.Full):
        self._queue.put(item, timeout=_PERIOD)
        return

  def _requests(self) -> Iterator[Request]:
    """Yields what is to be read; the reader may be many requests ahead."""
    for plan in self._plans:
      if self._is_closed():
        return
      self._awaited.append(plan)
      yield request_of(self._split, plan, self._rows)

  def _read(self) -> Generator[tuple[Plan, Images], None, None]:
    """Yields each batch with what was read of it.

    Raises:
      DataError: for what cannot be read, or is not what was requested.
    """
    with readable(self._name), contextlib.ExitStack() as stack:
      batches = self._split.reader.batches(self._requests())
      # Files and threads of a reader's own: they end here, in the thread that uses it.
      stack.callback(getattr(batches, "close", lambda: None))
      for images in batches:
        if self._is_closed():
          return
        plan = self._awaited[0]
        self._check(plan, images)
        yield plan, images
        self._awaited.popleft()
      if self._awaited and not self._is_closed():
        raise DataError(f"{self._what}: its reader has ended before its requests")

  def _check(self, plan: Plan, images: Images) -> None:
    """Raises DataError unless a reader gave what it was to read."""
    expected = (len(read_rows(plan, self._rows)), *self._split.shape)
    image = images.image
    if image.shape != expected or image.dtype != np.uint8:
      raise DataError(
        f"{self._what}: its reader gave {image.dtype}{list(image.shape)} where "
        f"uint8{list(expected)} were requested: correct the reader"
      )


# On the devices.


class Feeds:
  """The feeds of a run, all of which end with it."""

  def __init__(self, mesh: Mesh, say: Callable[[str], None]):
    """Starts none.

    Args:
      mesh: devices.
      say: tells the user of a long wait.
    """
    self._mesh = mesh
    self._say = say
    self._closing = threading.Event()
    self._open: list[Feed] = []
    self._readers: dict[str, list[Reader]] = {}

  def training(self, split: Streamed, plans: Iterator[Plan], batch_size: int) -> Feed:
    """Returns a feed of `Delivered` batches, all of whose examples are there.

    Args:
      split: training split.
      plans: from `training_plans`.
      batch_size: B.
    """
    rows = sharding.rows_here(self._mesh, batch_size)

    def deliver(plan: Plan, images: Images) -> Delivered:
      missing = np.flatnonzero(~images.intact)
      if missing.size:
        example = plan.index[rows[missing[0]]]
        raise DataError(
          f"train: example {example} could not be read and was left out: a reader of "
          "training images reads another one in its place: correct the reader"
        )
      return _put(self._mesh, split, plan, rows, images)

    return self._start(split, plans, rows, deliver, "train")

  def covered(self, name: str, split: Streamed) -> "CoveredStream":
    """Returns a split that an evaluation or a survey covers once at a time.

    Args:
      name: of the split.
      split: that is read.
    """

    def feed(batch_size: int) -> Feed:
      rows = sharding.rows_here(self._mesh, batch_size)

      def deliver(plan: Plan, images: Images) -> Part:
        batch = _put(self._mesh, split, plan, rows, images)
        return Part(split=batch, index=plan.index, mask=batch.mask)

      plans = covering_plans(len(split.label), batch_size)
      return self._start(split, plans, rows, deliver, name)

    return CoveredStream(feed)

  def on_host(self, name: str, split: Streamed, batch_size: int) -> Feed:
    """Returns a feed of (Plan, Images) that covers a whole split once, on the host.

    Args:
      name: of the split.
      split: that is read.
      batch_size: B.
    """
    plans = covering_plans(len(split.label), batch_size)
    rows = np.arange(batch_size)

    def deliver(plan: Plan, images: Images) -> tuple[Plan, Images]:
      return plan, images

    return self._start(split, plans, rows, deliver, name)

  def _start(
    self,
    split: Streamed,
    plans: Iterator[Plan],
    rows: np.ndarray,
    deliver: Callable[[Plan, Images], Any],
    name: str,
  ) -> Feed:
    """Starts a feed; see `Feed`."""
    readers = self._readers.setdefault(name, [])
    if split.reader not in readers:
      readers.append(split.reader)
    feed = Feed(
      split,
      plans,
      rows,
      deliver,
      name=name,
      say=self._say,
      closing=self._closing,
    )
    self._open = [other for other in self._open if other.is_open] + [feed]
    return feed

  def faulty(self) -> dict[str, dict[str, Any]]:
    """Returns what could not be read since the run was started; the same everywhere.

    Returns:
      Split -> {"count": images, of each process, "first": name -> reason of some}; only
      splits of which some image could not be read.
    """
    own = {}
    for name, readers in self._readers.items():
      found = {}
      for reader in readers:
        found |= getattr(reader, "faulty", {})
      first = dict(itertools.islice(found.items(), _MOST_FAULTY))
      own[name] = {"count": len(found), "first": first}
    merged: dict[str, dict[str, Any]] = {}
    for faults in hosts.gather(own):
      for name, found in faults.items():
        if not found["count"]:
          continue
        total = merged.setdefault(name, {"count": 0, "first": {}})
        total["count"] += found["count"]
        first = total["first"] | found["first"]
        total["first"] = dict(itertools.islice(first.items(), _MOST_FAULTY))
    return merged

  def close(self) -> None:
    """Ends all that are still open."""
    self._closing.set()
    for feed in self._open:
      feed.close()


class CoveredStream:
  """A streamed split that is covered once at a time, in the order of its examples."""

  def __init__(self, start: Callable[[int], Feed]):
    """Takes what starts to read it, for a batch size."""
    self._start = start

  def parts(self, batch_size: int) -> Iterator[Part]:
    """Yields batches that cover every example once.

    Args:
      batch_size: examples of a batch, a multiple of the number of devices.
    """
    with contextlib.closing(self._start(batch_size)) as feed:
      while (part := feed.next(_never)) is not None:
        yield part


def _never() -> bool:
  return False


def _put(
  mesh: Mesh, split: Streamed, plan: Plan, rows: np.ndarray, images: Images
) -> Delivered:
  """Copies this process's rows of a batch to its devices.

  Args:
    mesh: devices.
    split: that was read.
    plan: of the batch.
    rows: i64[b] ascending, those that the devices hold.
    images: what was read of them: all but the padding.
  """
  image = images.image
  intact = images.intact
  missing = len(rows) - len(image)
  if missing:
    padding = np.zeros((missing, *split.shape), np.uint8)
    image = np.concatenate([image, padding])
    intact = np.concatenate([intact, np.zeros(missing, bool)])
  index = plan.index[rows]
  local = Delivered(
    image=image,
    label=split.label[index],
    index=index,
    mask=plan.mask[rows] * intact.astype(np.float32),
  )
  number = len(plan.index)
  return jax.tree.map(lambda x: sharding.put_rows(mesh, x, rows, number), local)
