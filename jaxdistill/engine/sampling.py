"""In which order an epoch visits the training examples: pure functions of the epoch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core import rng
from jaxdistill.engine.dispatch import epoch_order
from jaxdistill.errors import require, require_choice

Sampler = Callable[[jax.Array, int], jax.Array]
"""(key of the run, epoch) -> i32[N'] rows, at least as many as an epoch has examples.

The batches of an epoch are parts of it, one behind the other.
"""

SAMPLERS = ("shuffle", "balanced", "identities")


def make_sampler(
  name: str,
  *,
  label: np.ndarray,
  batch_size: int,
  images: int = 4,
  repeats: int = 1,
) -> Sampler:
  """Returns the order of the examples of an epoch, which is a function of its number.

  An epoch has as many steps under each of them.

  Args:
    name: "shuffle": every example once. "balanced": every class equally often, the
      examples of a class in turn. "identities": batches of a few classes, with as many
      examples of each; where a class has fewer, some of them stand there again.
    label: i32[N] of the training examples.
    batch_size: B.
    images: examples of each class in a batch, for "identities".
    repeats: how often an example stands in the order, one behind the other, for the
      first two. An epoch then visits fewer examples.

  Raises:
    ConfigError: for values that do not fit each other, or the data.

  Reference:
    A. Hermans, L. Beyer, B. Leibe: In Defense of the Triplet Loss for Person
      Re-Identification. arXiv:1703.07737, 2017, for batches of identities.
    M. Berman, H. Jegou, A. Vedaldi, I. Kokkinos, M. Douze: MultiGrain: a unified image
      embedding for classes and instances. arXiv:1902.05509, 2019, for repeats.
  """
  require_choice(sampler=(name, SAMPLERS))
  require(
    1 <= repeats <= batch_size,
    f"repeats must lie in 1..batch_size ({batch_size}), got {repeats}",
  )
  length = len(label) // batch_size * batch_size
  if name == "identities":
    return _of_identities(label, batch_size, images, repeats)
  if name == "balanced":
    classes = _Classes.of(label)
    return _repeated(lambda key, epoch: _balanced(key, epoch, classes, length), repeats)
  return _repeated(lambda key, epoch: epoch_order(key, epoch, len(label)), repeats)


def _repeated(sampler: Sampler, repeats: int) -> Sampler:
  """Returns an order of which each row stands `repeats` times; its length stays."""
  if repeats == 1:
    return sampler

  def order(key: jax.Array, epoch: int) -> jax.Array:
    rows = sampler(key, epoch)
    return jnp.repeat(rows, repeats)[: len(rows)]

  return order


class _Classes(NamedTuple):
  """Which rows the classes have that have any.

  Attributes:
    label: i32[N].
    first: i32[C] place of each class's first example when they are sorted by class.
    count: i32[C] its number of examples.
  """

  label: np.ndarray
  first: np.ndarray
  count: np.ndarray

  @classmethod
  def of(cls, label: np.ndarray) -> "_Classes":
    """Returns the classes of examples i32[N]."""
    _, counts = np.unique(label, return_counts=True)
    first = np.cumsum(counts) - counts
    return cls(label, first.astype(np.int32), counts.astype(np.int32))

  def shuffled(self, key: jax.Array) -> jax.Array:
    """Returns all rows, sorted by class, in random order within each: i32[N]."""
    shuffled = jax.random.permutation(key, len(self.label))
    by_class = jnp.argsort(jnp.asarray(self.label)[shuffled], stable=True)
    return shuffled[by_class]

  def rounds(self, key: jax.Array, count: int) -> jax.Array:
    """Returns all classes in a random order, again and again: i32[count, C]."""
    keys = jax.random.split(key, count)
    number = len(self.count)
    return jax.vmap(lambda own: jax.random.permutation(own, number))(keys)

  def take(self, shuffled: jax.Array, chosen: jax.Array, turn: jax.Array) -> jax.Array:
    """Returns rows of the chosen classes, those of a class in turn.

    Args:
      shuffled: from `shuffled`.
      chosen: i32[...] classes.
      turn: i32[...] how many examples of it came before; it begins again behind the
        last.
    """
    first = jnp.asarray(self.first)[chosen]
    count = jnp.asarray(self.count)[chosen]
    return shuffled[first + turn % count]


def _split_key(key: jax.Array, epoch: int) -> tuple[jax.Array, jax.Array]:
  """Returns the keys of the classes and of their examples in an epoch."""
  epoch_key = jax.random.fold_in(rng.stream(key, "order"), epoch)
  class_key, example_key = jax.random.split(epoch_key)
  return class_key, example_key


def _balanced(key: jax.Array, epoch: int, classes: _Classes, length: int) -> jax.Array:
  """Returns an order in which the counts of any two classes differ by one at most."""
  class_key, example_key = _split_key(key, epoch)
  num_rounds = -(-length // len(classes.count))
  chosen = classes.rounds(class_key, num_rounds)
  # Each class stands in each round once.
  turn = jnp.arange(num_rounds)[:, None]
  rows = classes.take(classes.shuffled(example_key), chosen, turn)
  return rows.reshape(-1)[:length]


def _of_identities(
  label: np.ndarray, batch_size: int, images: int, repeats: int
) -> Sampler:
  """Returns batches of P identities with K images each, one behind the other."""
  classes = _Classes.of(label)
  number = len(classes.count)
  require(
    batch_size % images == 0,
    f"batch_size {batch_size} is no multiple of sampler_images={images}: batches hold "
    "as many images of each identity",
  )
  in_batch = batch_size // images
  require(
    in_batch <= number,
    f"batch_size {batch_size} / sampler_images={images} are {in_batch} identities in a "
    f"batch, the training set has {number}: lower batch_size or raise sampler_images",
  )
  require(
    repeats == 1,
    f"repeats={repeats} does not go with sampler=identities, whose batches hold "
    "sampler_images of each identity: set repeats=1",
  )
  steps = len(label) // batch_size
  # A round holds whole batches, in which no identity stands twice: those left over wait
  # for the next one.
  batches = number // in_batch
  num_rounds = -(-steps // batches)

  def order(key: jax.Array, epoch: int) -> jax.Array:
    class_key, example_key = _split_key(key, epoch)
    chosen = classes.rounds(class_key, num_rounds)[:, : batches * in_batch, None]
    before = images * jnp.arange(num_rounds)[:, None, None]
    turn = before + jnp.arange(images)[None, None]
    rows = classes.take(classes.shuffled(example_key), chosen, turn)
    return rows.reshape(-1)[: steps * batch_size]

  return order
