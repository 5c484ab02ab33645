"""Which splits live on the devices: arrays, and what is read from files and fits.

The others are streamed.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import math
from typing import Any

import numpy as np

from jaxdistill.data import Dataset, Split, Streamed
from jaxdistill.run import hosts
from jaxdistill.run.background import Stopped
from jaxdistill.run.build import Experiment
from jaxdistill.run.console import Console
from jaxdistill.run.feed import Feeds
from jaxdistill.run.room import in_units, resident_limit

SPLITS = ("train", "test", "holdout")
"""In the order in which they are given room."""

# Images that are read at once into a resident split.
_READ_AT_ONCE = 256


def bytes_of(split: Split | Streamed) -> int:
  """Returns the bytes of a split's images."""
  return len(split.label) * math.prod(split.shape)


def splits_of(dataset: Dataset) -> dict[str, Split | Streamed]:
  """Returns the splits that there are, by name."""
  found = {}
  for name in SPLITS:
    split = getattr(dataset, name)
    if split is not None:
      found[name] = split
  return found


def streamed_splits(dataset: Dataset) -> tuple[str, ...]:
  """Returns the names of the splits that are read when they are needed."""
  names = []
  for name, split in splits_of(dataset).items():
    if isinstance(split, Streamed):
      names.append(name)
  return tuple(names)


def that_fit(experiment: Experiment, resident_bytes: int) -> list[str]:
  """Returns which streamed splits are to become resident; the same in all processes.

  Args:
    experiment: as it was built.
    resident_bytes: the key of the config.
  """
  splits = splits_of(experiment.dataset)
  names = fitting(splits, resident_limit(resident_bytes))
  if "train" in names and _is_read_in_two_ways(experiment):
    names.remove("train")
  # Hosts may differ in their memory, and all have to do the same.
  return hosts.from_first(names)


def fitting(splits: Mapping[str, Split | Streamed], limit: int) -> list[str]:
  """Returns which streamed splits fit into what other splits leave.

  Each gets room if it fits into what is left. Those that are read in another way every
  time get none.

  Args:
    splits: by name; those of arrays need room first.
    limit: bytes of a device that all of them may take.
  """
  left = limit
  for split in splits.values():
    if isinstance(split, Split):
      left -= bytes_of(split)
  names = []
  for name, split in splits.items():
    if not isinstance(split, Streamed) or split.varies:
      continue
    needed = bytes_of(split)
    if needed <= left:
      names.append(name)
      left -= needed
  return names


def settle(
  experiment: Experiment,
  to_read: Sequence[str],
  feeds: Feeds,
  console: Console,
  stop: Callable[[], bool],
) -> Experiment:
  """Returns an experiment some of whose streamed splits are arrays.

  All processes read the whole of them, as each of their devices holds it.

  Args:
    experiment: as it was built.
    to_read: names of those splits, from `that_fit`.
    feeds: to read them with.
    console: to say which splits are streamed.
    stop: whether the run is to stop.

  Raises:
    Stopped: if it is.
    DataError: for what cannot be read.
  """
  splits = splits_of(experiment.dataset)
  changes: dict[str, Any] = {}
  for name in to_read:
    split = read_whole(name, splits[name], feeds, console, stop)
    if split is not None:
      changes[name] = split

  settled = with_dataset(experiment, experiment.dataset._replace(**changes))
  for name in streamed_splits(settled.dataset):
    console.say(f"note: {name} is streamed: {_described(splits[name])}")
  return settled


def _is_read_in_two_ways(experiment: Experiment) -> bool:
  """Tells whether surveys cover training images in another size than steps do."""
  surveyed = {survey.split for survey in experiment.method.surveys}
  dataset = experiment.dataset
  return "train" in surveyed and dataset.train.shape != dataset.test.shape


def with_dataset(experiment: Experiment, dataset: Dataset) -> Experiment:
  """Returns an experiment with another data set; a dispatch streams one batch."""
  most = experiment.max_steps_per_dispatch
  if isinstance(dataset.train, Streamed):
    most = 1
  return dataclasses.replace(experiment, dataset=dataset, max_steps_per_dispatch=most)


def _described(split: Split | Streamed) -> str:
  """Returns how many images of which size a split has."""
  height, width, _ = split.shape
  count = f"{len(split.label):,} images of {height} x {width} pixels"
  return f"{count}, {in_units(bytes_of(split))}"


def read_whole(
  name: str,
  split: Split | Streamed,
  feeds: Feeds,
  console: Console,
  stop: Callable[[], bool],
) -> Split | None:
  """Reads all images of a split; returns None if some process cannot read all.

  Args:
    name: of the split.
    split: that is streamed.
    feeds: to read it with.
    console: says how long that took.
    stop: whether the run is to stop.

  Raises:
    Stopped: if it is.
  """
  assert isinstance(split, Streamed)
  image = np.empty((len(split.label), *split.shape), np.uint8)
  is_whole = True
  several = hosts.several()
  # None of several may stop alone.
  stop_here = stop
  if several:
    stop_here = _never
  what = f"Reading {name} into memory ({_described(split)})"
  feed = feeds.on_host(name, split, min(_READ_AT_ONCE, len(split.label)))
  with console.timed(what), contextlib.closing(feed):
    while (batch := feed.next(stop_here)) is not None:
      hosts.getting_on(slowly=True)
      plan, images = batch
      rows = plan.index[plan.mask > 0]
      image[rows] = images.image
      is_whole &= bool(images.intact.all())
      if not is_whole:
        break
  all_whole = all(hosts.gather(is_whole))
  if several and stop():
    raise Stopped
  if not all_whole:
    console.say(f"note: not all images of {name} can be read: it is streamed")
    return None
  return Split(image=image, label=split.label)


def _never() -> bool:
  return False
