"""Retrieval: members are measured by what they find in a gallery."""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import metrics
from jaxdistill.data import JUNK, Ranking
from jaxdistill.engine.measures import Row, Task

FEATURE = "pooled"
"""What is compared: the input of the classifier."""

# Queries that are searched at a time: with 20 thousand images in the gallery, as those
# of Market-1501, an array of their distances takes 10 MB.
_QUERIES = 128


class Rate(NamedTuple):
  """One number of an evaluation of retrieval.

  Attributes:
    name: in files, as `<name>/<member>`.
    of: what all queries found -> the number.
    heading: of its column in the closing table; "" leaves it out.
    percent: whether it is a fraction that people read in per cent.
  """

  name: str
  of: Callable[[metrics.Found], jax.Array]
  heading: str = ""
  percent: bool = True


RATES = (
  Rate("rank1", functools.partial(metrics.rank_k, k=1), heading="Rank-1"),
  Rate("rank5", functools.partial(metrics.rank_k, k=5)),
  Rate("rank10", functools.partial(metrics.rank_k, k=10)),
  Rate("map", metrics.mean_average_precision, heading="mAP"),
)


def retrieval(ranking: Ranking) -> Task:
  """Returns the measures of a split that is searched, as Market-1501's is.

  Each query is a single image. Junk does not count, nor do images of the query's own
  identity by its own camera. Methods predict classes, and have no features: only
  members are measured.

  Args:
    ranking: of the whole split.
  """
  return Task(
    measures=RATES,
    selecting=RATES[0],
    per_batch=_features,
    reduce=functools.partial(_reduce, ranking),
    feature=FEATURE,
  )


def _features(features: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns what is kept of a batch: its features."""
  del labels
  return features.astype(jnp.float32)


def _reduce(ranking: Ranking, features: np.ndarray) -> Row:
  """Searches a whole split: features f32[N, D] -> measure -> value.

  Of a member that is not finite no query finds anything.
  """
  in_gallery = ~ranking.is_query
  # It moves to the device once.
  gallery = jnp.asarray(features[in_gallery])
  identity = ranking.identity[in_gallery]
  camera = ranking.camera[in_gallery]

  parts = []
  rows = np.flatnonzero(ranking.is_query)
  for start in range(0, len(rows), _QUERIES):
    part = rows[start : start + _QUERIES]
    # Filled up, so that all parts have one shape: it is compiled once.
    filled = np.resize(part, _QUERIES)
    found = _search(
      features[filled],
      ranking.identity[filled],
      ranking.camera[filled],
      gallery,
      identity,
      camera,
      distance=ranking.distance,
    )
    parts.append(jax.device_get(found))
  count = len(rows)
  found = jax.tree.map(lambda *each: np.concatenate(each)[:count], *parts)
  return {rate.name: float(rate.of(found)) for rate in RATES}


@functools.partial(jax.jit, static_argnames="distance")
def _search(
  query: jax.Array,
  query_identity: jax.Array,
  query_camera: jax.Array,
  gallery: jax.Array,
  identity: jax.Array,
  camera: jax.Array,
  *,
  distance: str,
) -> metrics.Found:
  """Searches the gallery for some queries.

  Args:
    query: f32[Q, D] features.
    query_identity: i32[Q].
    query_camera: i32[Q].
    gallery: f32[G, D] features.
    identity: i32[G].
    camera: i32[G].
    distance: see `metrics.feature_distance`.
  """
  same_identity = query_identity[:, None] == identity[None]
  same_camera = query_camera[:, None] == camera[None]
  junk = jnp.broadcast_to(identity == JUNK, same_identity.shape)
  return metrics.rank_gallery(
    metrics.feature_distance(query, gallery, distance),
    right=same_identity,
    ignored=junk | (same_identity & same_camera),
  )
