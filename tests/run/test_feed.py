"""Which batches are read, by whom, and how reading ahead ends."""

import hashlib
import itertools
import re
import threading
import time

import jax
import numpy as np
from PIL import Image
import pytest
from sklearn.datasets import load_sample_images

from jaxdistill.core.types import TrainState
from jaxdistill.data import Dataset, Images, Split, Streamed
from jaxdistill.data.folder import folder
from jaxdistill.engine import sharding
from jaxdistill.engine.evaluate import evaluate
from jaxdistill.engine.measures import CLASSIFICATION
from jaxdistill.engine.sampling import make_sampler
from jaxdistill.errors import DataError, StalledError
from jaxdistill.run import alike, background, feed, hosts, residency
from jaxdistill.run.background import Stopped
from tests.helpers import streams

SHAPE = (4, 4, 3)
COUNT = 20
BATCH = 8


def never():
  return False


def orders(epoch):
  """Another order in every epoch."""
  return np.roll(np.arange(COUNT, dtype=np.int32), epoch)


def plans(start, stop, seed=0):
  made = feed.training_plans(
    orders, batch_size=BATCH, steps_per_epoch=2, start=start, stop=stop, seed=seed
  )
  return list(made)


def numbered(count=COUNT, **keys):
  """A split whose image i is filled with i, read from rows that run backwards."""
  filled = np.arange(count, dtype=np.uint8)[:, None, None, None]
  image = np.broadcast_to(filled, (count, *SHAPE)).copy()
  rows = np.arange(count)[::-1]
  reader = streams.Reader(image[::-1], **keys)
  label = np.arange(count, dtype=np.int32) % 3
  return Streamed(label=label, rows=rows, shape=SHAPE, reader=reader)


@pytest.fixture
def feeds():
  said = []
  made = feed.Feeds(sharding.make_mesh(4), said.append)
  made.said = said
  yield made
  made.close()


# What is read.


def test_batches_follow_the_order_of_their_epoch_and_begin_anywhere():
  whole = plans(0, 7)
  assert [plan.number for plan in whole] == list(range(7))
  for step, plan in enumerate(whole):
    epoch, position = divmod(step, 2)
    expected = orders(epoch)[position * BATCH : (position + 1) * BATCH]
    np.testing.assert_array_equal(plan.index, expected)
    assert plan.index.dtype == np.int32 and plan.mask.all()
  # No two draws of a run are the same.
  draws = np.concatenate([plan.draw for plan in whole])
  np.testing.assert_array_equal(draws, np.arange(7 * BATCH))
  others = np.concatenate([plan.draw for plan in plans(0, 7, seed=2**31 - 1)])
  assert not set(draws) & set(others) and (others > 0).all()
  for one, other in zip(plans(3, 7), whole[3:], strict=True):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_draws_of_a_long_run_are_counted_beyond_32_bits():
  (plan,) = feed.training_plans(
    orders, batch_size=BATCH, steps_per_epoch=2, start=2**30, stop=2**30 + 1
  )
  assert plan.draw[0] == 2**33


def test_processes_request_the_rows_of_one_global_batch():
  split = numbered()
  plan = plans(3, 4)[0]
  whole = feed.request_of(split, plan, np.arange(BATCH))
  np.testing.assert_array_equal(whole.index, split.rows[plan.index])
  parts = []
  for rows in (np.arange(4), np.arange(4, BATCH)):
    parts.append(feed.request_of(split, plan, rows))
  for field in ("index", "draw"):
    joined = np.concatenate([getattr(part, field) for part in parts])
    np.testing.assert_array_equal(joined, getattr(whole, field))


def test_padding_is_not_read_and_no_request_is_empty():
  covering = list(feed.covering_plans(COUNT, BATCH))
  assert [int(plan.mask.sum()) for plan in covering] == [8, 8, 4]
  first, second = np.arange(4), np.arange(4, BATCH)
  np.testing.assert_array_equal(feed.read_rows(covering[-1], first), first)
  np.testing.assert_array_equal(feed.read_rows(covering[-1], second), [4])
  read = np.concatenate([plan.index[plan.mask > 0] for plan in covering])
  np.testing.assert_array_equal(read, np.arange(COUNT))


@pytest.mark.parametrize("devices, member", [(1, 1), (4, 1), (4, 2)])
def test_rows_come_to_the_devices_that_hold_them(devices, member):
  mesh = sharding.make_mesh(devices, member)
  rows = sharding.rows_here(mesh, BATCH)
  np.testing.assert_array_equal(rows, np.arange(BATCH))
  local = np.arange(2 * BATCH).reshape(BATCH, 2)
  there = sharding.put_rows(mesh, local, rows, BATCH)
  assert there.sharding == sharding.shard_over_rows(mesh)
  np.testing.assert_array_equal(there, local)


@pytest.mark.slow
def test_the_order_on_the_host_is_that_of_the_devices():
  key = jax.random.key(3)
  sampler = make_sampler("balanced", label=np.arange(COUNT) % 3, batch_size=BATCH)
  order = feed.host_order(key, sharding.make_mesh(4), sampler)
  np.testing.assert_array_equal(order(2), sampler(key, 2))


# Reading ahead.


def test_batches_are_the_examples_that_a_resident_split_would_give(feeds):
  split = numbered()
  running = feeds.training(split, iter(plans(1, 5)), BATCH)
  for plan in plans(1, 5):
    batch = running.next(never)
    image, label = batch.take(batch.index)
    np.testing.assert_array_equal(image[:, 0, 0, 0], plan.index)
    np.testing.assert_array_equal(label, split.label[plan.index])
    np.testing.assert_array_equal(batch.index, plan.index)
  assert running.next(never) is None
  assert running.waited > 0


def test_a_stream_is_covered_once_without_what_cannot_be_read(feeds):
  intact = np.ones(COUNT, bool)
  # Rows run backwards: examples 2 and 17.
  intact[[17, 2]] = False
  split = numbered(intact=intact)
  seen = []
  for batch, index, mask in feeds.covered("test", split).parts(BATCH):
    kept = np.asarray(mask) > 0
    np.testing.assert_array_equal(np.asarray(batch.image)[kept, 0, 0, 0], index[kept])
    seen += index[kept].tolist()
  assert seen == [i for i in range(COUNT) if i not in (2, 17)]
  first = {"image 17": "damaged", "image 2": "damaged"}
  assert feeds.faulty() == {"test": {"count": 2, "first": first}}


def test_what_cannot_be_read_is_left_out_of_every_mean(feeds):
  """By hand: of four examples one is damaged; the others have 1, 0 and 1."""
  split = numbered(count=4, intact=np.array([True, True, False, True]))
  right = np.array([1.0, 1.0, 0.0, 1.0])

  def eval_step(cohort, method_state, batch, index):
    del cohort, method_state
    assert len(batch.label) == BATCH
    return {"net": {"top1": right[index]}}

  def reduce(values):
    return {"top1": float(values["top1"].mean())}

  task = CLASSIFICATION._replace(reduce=reduce)
  state = TrainState(step=0, key=None, cohort={}, method=None)
  parts = feeds.covered("test", split).parts(BATCH)
  rows, count = evaluate(eval_step, state, parts, sharding.make_mesh(4), task)
  # Rows run backwards: example 1 is damaged.
  assert count == 3
  assert rows == {"net": {"top1": pytest.approx(2 / 3)}}


def test_training_takes_no_example_that_was_left_out(feeds):
  split = numbered(intact=np.arange(COUNT) != 19)
  running = feeds.training(split, iter(plans(0, 1)), BATCH)
  with pytest.raises(DataError, match="train: example 0 could not be read"):
    running.next(never)


class Failing(streams.Reader):
  """Fails at its second batch."""

  error = DataError("shard 3 is damaged")

  def batches(self, requests):
    for number, images in enumerate(super().batches(requests)):
      if number == 1:
        raise self.error
      yield images


@pytest.mark.parametrize(
  "error, told",
  [
    (DataError("shard 3 is damaged"), "shard 3 is damaged"),
    (
      OSError(5, "Input/output error", "a/shard"),
      "train: a/shard cannot be read: Input/output error",
    ),
  ],
)
def test_errors_of_a_reader_are_raised_where_its_batch_is_awaited(feeds, error, told):
  split = numbered()
  reader = Failing(np.zeros((COUNT, *SHAPE), np.uint8))
  reader.error = error
  running = feeds.training(split._replace(reader=reader), iter(plans(0, 4)), BATCH)
  assert running.next(never) is not None
  with pytest.raises(DataError, match=told):
    running.next(never)


class Wrong(streams.Reader):
  """Gives images that were not requested."""

  def batches(self, requests):
    for request in requests:
      count = len(request.index) + 1
      yield Images(np.zeros((count, *SHAPE), np.uint8), np.ones(count, bool))


class Short(streams.Reader):
  """Ends before its requests."""

  def batches(self, requests):
    next(iter(requests))
    yield from ()


@pytest.mark.parametrize(
  "kind, told",
  [(Wrong, r"gave uint8\[9, 4, 4, 3\] where uint8\[8, "), (Short, "ended")],
)
def test_a_reader_that_does_something_else_is_told(feeds, kind, told):
  split = numbered()._replace(reader=kind(np.zeros((COUNT, *SHAPE), np.uint8)))
  running = feeds.training(split, iter(plans(0, 4)), BATCH)
  with pytest.raises(DataError, match=told):
    running.next(never)


class Hanging(streams.Reader):
  """Gives nothing until it is let go."""

  def __init__(self):
    super().__init__(np.zeros((COUNT, *SHAPE), np.uint8))
    self.go = threading.Event()

  def batches(self, requests):
    requests = iter(requests)
    first = next(requests)
    self.go.wait()
    yield from super().batches(itertools.chain([first], requests))


@pytest.fixture
def hanging(feeds, monkeypatch):
  """A feed whose images do not come."""
  monkeypatch.setattr(feed, "_PERIOD", 0.01)
  monkeypatch.setattr(feed, "_FAREWELL_SECONDS", 0.01)
  monkeypatch.setenv(hosts.STALL_SECONDS, "0.1")
  reader = Hanging()
  split = numbered()._replace(reader=reader)
  yield feeds.training(split, iter(plans(5, 9)), BATCH)
  reader.go.set()


def test_a_long_wait_is_told_and_a_longer_one_ends_the_run(feeds, hanging, monkeypatch):
  monkeypatch.setattr(feed, "TOLD_SECONDS", 0.03)
  awaited = r"train \(batch 5, from example 6 on\)"
  with pytest.raises(StalledError, match=f"no image of {awaited} has come for") as e:
    hanging.next(never)
  assert e.value.exit_code == 82
  (told,) = feeds.said
  assert re.fullmatch(f"note: waiting for 0 s for images of {awaited}", told)
  assert 0.09 < hanging.waited < 5


def test_who_waits_can_be_stopped_and_leaves_a_thread_that_hangs(feeds, hanging):
  with pytest.raises(Stopped):
    hanging.next(lambda: True)
  given_up = len(background._given_up)
  feeds.close()
  assert len(background._given_up) == given_up + 1
  with pytest.raises(Stopped):
    hanging.next(never)


def test_a_feed_that_is_closed_leaves_no_thread(feeds):
  before = threading.active_count()
  reader = numbered().reader
  endless = iter(plans(0, 1000))
  running = feeds.training(numbered()._replace(reader=reader), endless, BATCH)
  assert running.next(never) is not None
  time.sleep(0.05)
  # One batch is in the queue, one waits for room, one may be requested.
  assert len(reader.requests) <= 4
  running.close()
  assert threading.active_count() == before


# Batches of files.


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
  """Twenty JPEG files for training and two for the test, parts of a photograph."""
  root = tmp_path_factory.mktemp("photographs")
  photograph = Image.fromarray(load_sample_images().images[0])
  for number in range(COUNT + 2):
    split = "train" if number < COUNT else "val"
    folder = root / split / str(number % 2)
    folder.mkdir(parents=True, exist_ok=True)
    left, top = 20 * number, 10 * number
    part = photograph.crop((left, top, left + 48, top + 40))
    part.save(folder / f"{number:02d}.jpg", quality=90)
  return root


WHOLE = (np.arange(BATCH),)


def hashes(photographs, planned, parts=WHOLE, **keys):
  """The SHA-256 of every batch, whose parts are read by a process each."""
  pixels = []
  for rows in parts:
    pytest.importorskip("tensorflow")
    train = folder(dir=str(photographs), statistics="imagenet", **keys).train
    requests = [feed.request_of(train, plan, rows) for plan in planned]
    pixels.append([images.image for images in train.reader.batches(requests)])
  found = []
  for batch in zip(*pixels, strict=True):
    found.append(hashlib.sha256(np.concatenate(batch).tobytes()).hexdigest())
  return found


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{"size": "16"}, {"size": "16", "crop": "centre"}])
def test_a_batch_of_files_has_the_same_hash_whoever_reads_it(photographs, keys):
  whole = hashes(photographs, plans(0, 7), **keys)
  assert len(set(whole)) == 7
  two = (np.arange(4), np.arange(4, BATCH))
  assert hashes(photographs, plans(0, 7), two, **keys) == whole
  # Gone on with in the middle of an epoch, by another number of threads.
  assert hashes(photographs, plans(3, 7), threads=3, **keys) == whole[3:]
  assert hashes(photographs, plans(5, 7), two, threads=1, **keys) == whole[5:]


@pytest.mark.slow
def test_resident_batches_of_files_have_the_hashes_of_streamed_ones(photographs):
  keys = {"size": "16", "crop": "centre"}
  pytest.importorskip("tensorflow")
  train = folder(dir=str(photographs), statistics="imagenet", **keys).train
  assert residency.fitting({"train": train}, 10**9) == ["train"]
  # As it is read once, in batches of another size.
  everything = np.arange(7)
  covering = list(feed.covering_plans(COUNT, 7))
  requests = [feed.request_of(train, plan, everything) for plan in covering]
  resident = np.concatenate([images.image for images in train.reader.batches(requests)])
  expected = []
  for plan in plans(0, 7):
    expected.append(hashlib.sha256(resident[plan.index].tobytes()).hexdigest())
  assert hashes(photographs, plans(0, 7), **keys) == expected


# What becomes resident.


def sized(count, varies=False):
  label = np.zeros(count, np.int32)
  reader = streams.Reader(np.zeros((1, *SHAPE), np.uint8))
  return Streamed(label, np.arange(count), (10, 10, 1), reader, varies)


@pytest.mark.parametrize(
  "limit, expected",
  [
    (1100, ["train", "test", "holdout"]),
    (1099, ["train", "test"]),
    (700, ["train", "holdout"]),
    (599, ["test", "holdout"]),
    (350, ["holdout"]),
    (0, []),
  ],
)
def test_a_split_becomes_resident_if_it_fits_into_what_is_left(limit, expected):
  splits = {"train": sized(6), "test": sized(4), "holdout": sized(1)}
  assert residency.fitting(splits, limit) == expected


def test_arrays_have_their_room_first_and_what_varies_gets_none():
  arrays = Split(np.zeros((4, 10, 10, 1), np.uint8), np.zeros(4, np.int32))
  splits = {"train": sized(6), "test": arrays}
  assert residency.fitting(splits, 999) == []
  assert residency.fitting(splits, 1000) == ["train"]
  assert residency.fitting({"train": sized(6, varies=True)}, 1000) == []


def test_processes_compare_what_their_readers_read():
  def digest(value):
    reader = streams.Reader(np.full((2, *SHAPE), value, np.uint8))
    split = sized(2)._replace(reader=reader)
    colours = (0.5, 0.5, 0.5)
    dataset = Dataset("mine", split, split, 1, mean=colours, std=colours)
    return alike._digest(dataset)

  assert digest(1) == digest(1) != digest(2)
