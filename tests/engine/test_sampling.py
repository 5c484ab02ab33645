"""The order of an epoch: what batches hold, and that it is a function of the epoch."""

import functools

import jax
import numpy as np
import pytest

from jaxdistill.engine.dispatch import epoch_order
from jaxdistill.engine.sampling import make_sampler
from jaxdistill.errors import ConfigError

KEY = jax.random.key(5)
# Of 10 classes: 2, 4, ..., 20 examples. The class that is numbered 3 has none.
LABELS = np.repeat([0, 1, 2, 4, 5, 6, 7, 8, 9, 10], 2 * np.arange(1, 11))
BATCH = 12
STEPS = len(LABELS) // BATCH


@functools.cache
def sampler(name, **keys):
  return jax.jit(make_sampler(name, label=LABELS, batch_size=BATCH, **keys))


def order_of(name, epoch=0, **keys):
  return np.array(sampler(name, **keys)(KEY, epoch))


def test_plain_shuffling_is_the_order_that_it_was():
  expected = epoch_order(KEY, 3, len(LABELS))
  np.testing.assert_array_equal(order_of("shuffle", epoch=3), expected)


@pytest.mark.parametrize(
  "name, keys",
  [("shuffle", {"repeats": 3}), ("balanced", {}), ("identities", {"images": 4})],
)
def test_the_order_is_a_function_of_the_epoch(name, keys):
  first = order_of(name, **keys)
  np.testing.assert_array_equal(first, order_of(name, **keys))
  assert (first != order_of(name, epoch=1, **keys)).mean() > 0.5
  # Enough for the steps of an epoch.
  assert STEPS * BATCH <= len(first) <= len(LABELS)
  assert first.min() >= 0 and first.max() < len(LABELS)


def test_every_class_stands_equally_often_and_its_examples_in_turn():
  rows = order_of("balanced")
  _, counts = np.unique(LABELS[rows], return_counts=True)
  assert len(counts) == 10 and np.ptp(counts) <= 1
  for label in np.unique(LABELS):
    own = rows[LABELS[rows] == label]
    size = (LABELS == label).sum()
    # None comes again before all were there.
    assert len(set(own[:size])) == min(size, len(own))


def test_a_batch_has_some_identities_and_as_many_images_of_each():
  seen = set()
  for epoch in range(4):
    batches = order_of("identities", epoch, images=4).reshape(STEPS, BATCH)
    for batch in batches:
      labels, counts = np.unique(LABELS[batch], return_counts=True)
      assert counts.tolist() == [4, 4, 4]
      seen.update(labels.tolist())
      for label in labels:
        own = batch[LABELS[batch] == label]
        # Of two images, each stands there twice.
        assert len(set(own)) == min(4, (LABELS == label).sum())
  assert seen == set(LABELS.tolist())


def test_repeats_stand_one_behind_the_other():
  once = order_of("shuffle")
  repeated = order_of("shuffle", repeats=3)
  assert len(repeated) == len(once)
  np.testing.assert_array_equal(repeated, np.repeat(once, 3)[: len(once)])


@pytest.mark.parametrize(
  "name, keys, message",
  [
    ("identity", {}, "sampler must be one of shuffle, balanced, identities, got"),
    ("shuffle", {"repeats": 13}, r"repeats must lie in 1..batch_size \(12\), got 13"),
    ("identities", {"images": 5}, "batch_size 12 is no multiple of sampler_images=5"),
    ("identities", {"images": 1}, "12 identities in a batch, the training set has 10"),
    ("identities", {"repeats": 2}, "repeats=2 does not go with sampler=identities"),
  ],
)
def test_what_does_not_fit_is_refused_in_a_line(name, keys, message):
  with pytest.raises(ConfigError, match=message):
    order_of(name, **keys)
