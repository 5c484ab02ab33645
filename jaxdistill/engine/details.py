"""What a trained cohort is measured by in full, and under noise.

Classes, pairs of classes that are taken for each other, confidence against accuracy,
how far members agree, ensembles of some of them, and images with Gaussian noise.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from jaxdistill import losses, metrics
from jaxdistill.core.method import GroupSpec, mean_ensemble
from jaxdistill.core.types import Outputs
from jaxdistill.engine import sharding
from jaxdistill.engine.cohort import member_names
from jaxdistill.engine.compiler import jit_for_host
from jaxdistill.engine.evaluate import Scored
from jaxdistill.engine.measures import ALL_MEASURES, MEASURES, Row, classification
from jaxdistill.engine.resident import Delivered, Resident
from jaxdistill.inputs.normalize import to_float

BINS = 10
"""Of confidence, as those of the calibration error."""

_MOST_CONFUSED = 10

# Of the noise: it has nothing to do with any run's, so that all runs see the same.
_NOISE_SEED = 0

_TASK = classification(ALL_MEASURES)
_BY_NAME = {measure.name: measure for measure in MEASURES}
_UNDER_NOISE = (_BY_NAME["top1"], _BY_NAME["nll"])
_TASK_UNDER_NOISE = classification(_UNDER_NOISE)

Score = Callable[..., Scored]
"""From `engine.evaluate.make_scores`."""


class Kept(NamedTuple):
  """What is kept of a member or prediction, [B, ...], on the way to the host.

  Attributes:
    measures: measure -> values of every example.
    predicted: i32[B] the class that is said; -1 where the scores are not finite.
  """

  measures: dict[str, Any]
  predicted: Any


class Batch(NamedTuple):
  """What is kept of a batch, every array [B, ...].

  Attributes:
    label: i32[B].
    kept: name -> what is kept of it.
    kl: f32[B, M, M] KL(row || column) of the members' predictions, in nats.
  """

  label: Any
  kept: dict[str, Kept]
  kl: Any


def with_ensembles(
  score: Score,
  specs: Sequence[GroupSpec],
  ensembles: Mapping[str, Sequence[str]],
) -> Score:
  """Returns the function that scores ensembles of chosen members as well.

  An ensemble is the mean of its finite members' probabilities.

  Args:
    score: of members and predictions.
    specs: the groups, in member order.
    ensembles: name -> its members.
  """
  names = member_names(specs)

  def score_all(*arguments: Any) -> Scored:
    outputs, scores = score(*arguments)
    for name, members in ensembles.items():
      rows = np.array([names.index(member) for member in members])
      chosen = Outputs(
        logits=outputs.logits[rows], alive=outputs.alive[rows], groups={}
      )
      (scores[name],) = mean_ensemble({}, {}, chosen).values()
    return Scored(outputs, scores)

  return score_all


def make_detail_step(score: Score, mesh: Mesh) -> Callable:
  """Returns the jitted function that measures one batch in full.

  It is (cohort, method state, split, index i32[B]) -> `Batch`.

  Args:
    score: of what is measured.
    mesh: device mesh.
  """

  def step(cohort, method_state, split: Resident | Delivered, index) -> Batch:
    index = sharding.constrain_rows(mesh, index)
    image, label = split.take(index)
    outputs, scores = score(cohort, method_state, image)
    kept = {}
    for name, logits in scores.items():
      kept[name] = Kept(_TASK.per_batch(logits, label), _predicted(logits))
    # Students are rows there.
    kl = losses.pairwise_kl(outputs.logits, outputs.logits)
    return Batch(label=label, kept=kept, kl=kl.transpose(2, 1, 0))

  return jit_for_host(step, mesh)


def _predicted(logits: jax.Array) -> jax.Array:
  """Returns the most probable class of every example, -1 where none is."""
  finite = jnp.isfinite(logits).all(axis=-1)
  return jnp.where(finite, jnp.argmax(logits, axis=-1), -1)


def make_noise_step(score: Score, mesh: Mesh) -> Callable:
  """Returns the jitted function that measures one batch of noisy images.

  It is (cohort, method state, split, index i32[B], deviation f32[], draw i32[]) ->
  name -> measure -> f32[B]. Every number of every image, in [0, 1], gets noise of its
  own from N(0, deviation^2), and is not cut off. The noise is a function of the draw
  and of the example's row alone; another deviation scales it.

  Args:
    score: of what is measured.
    mesh: device mesh.
  """

  def step(
    cohort, method_state, split: Resident | Delivered, index, deviation, draw
  ) -> dict[str, Any]:
    index = sharding.constrain_rows(mesh, index)
    image, label = split.take(index)
    key = jax.random.fold_in(jax.random.key(_NOISE_SEED), draw)

    def noise(row: jax.Array) -> jax.Array:
      return jax.random.normal(jax.random.fold_in(key, row), image.shape[1:])

    noisy = to_float(image) + deviation * jax.vmap(noise)(index)
    scores = score(cohort, method_state, noisy).scores
    measured = {}
    for name, logits in scores.items():
      measured[name] = _TASK_UNDER_NOISE.per_batch(logits, label)
    return measured

  return jit_for_host(step, mesh)


def rows_under_noise(values: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Row]:
  """Returns name -> measure -> value over a whole split: what a noise step gives."""
  return {name: _TASK_UNDER_NOISE.reduce(kept) for name, kept in values.items()}


# On the host: values of a whole split, [N, ...].


class Detail(NamedTuple):
  """What is told of one member or prediction.

  Attributes:
    row: measure -> value.
    per_class: accuracy on the examples of every class; None for a class without any,
      and for what is not finite.
    confusions: the most frequent pairs of a label and another class that is said
      instead: {"label", "predicted", "count"}, most frequent first.
    reliability: of every bin of confidence {"confidence", "accuracy", "count"}; means
      are None in an empty bin.
  """

  row: Row
  per_class: list[float | None]
  confusions: list[dict[str, int]]
  reliability: list[dict[str, Any]]


def describe(kept: Kept, label: np.ndarray, num_classes: int) -> Detail:
  """Reduces what was kept of one member or prediction.

  Args:
    kept: of the whole split.
    label: i32[N].
    num_classes: C.
  """
  is_finite = bool((kept.predicted >= 0).all())
  correct = kept.measures["top1"]
  per_class: list[float | None] = [None] * num_classes
  confusions = []
  confidence = np.zeros(0)
  if is_finite:
    per_class = _per_class(correct, label, num_classes)
    confusions = _confusions(kept.predicted, label, num_classes)
    confidence, correct = kept.measures["ece"].T
  return Detail(
    row=_TASK.reduce(kept.measures),
    per_class=per_class,
    confusions=confusions,
    reliability=_reliability(confidence, correct[: len(confidence)]),
  )


def _per_class(
  correct: np.ndarray, label: np.ndarray, num_classes: int
) -> list[float | None]:
  """Returns the accuracy of every class; None where there are no examples."""
  counts = np.bincount(label, minlength=num_classes)
  hits = np.bincount(label, weights=correct, minlength=num_classes)
  found: list[float | None] = []
  for count, hit in zip(counts.tolist(), hits.tolist(), strict=True):
    found.append(hit / count if count else None)
  return found


def _confusions(
  predicted: np.ndarray, label: np.ndarray, num_classes: int
) -> list[dict[str, int]]:
  """Returns the most frequent wrong pairs; of equal counts the lower classes first."""
  wrong = predicted != label
  pairs = label[wrong].astype(np.int64) * num_classes + predicted[wrong]
  pair, count = np.unique(pairs, return_counts=True)
  most_frequent = np.argsort(-count, kind="stable")[:_MOST_CONFUSED]
  found = []
  for k in most_frequent:
    label_of_pair, predicted_in_it = divmod(int(pair[k]), num_classes)
    found.append(
      {"label": label_of_pair, "predicted": predicted_in_it, "count": int(count[k])}
    )
  return found


def _reliability(confidence: np.ndarray, correct: np.ndarray) -> list[dict[str, Any]]:
  """Returns mean confidence and accuracy of every bin."""
  bins = []
  masks = np.asarray(metrics.in_bins(jnp.asarray(confidence), BINS))
  for k in range(BINS):
    inside = masks[k]
    row: dict[str, Any] = {"confidence": None, "accuracy": None}
    row["count"] = int(inside.sum())
    if row["count"]:
      row["confidence"] = float(confidence[inside].mean(dtype=np.float64))
      row["accuracy"] = float(correct[inside].mean(dtype=np.float64))
    bins.append(row)
  return bins


class Agreement(NamedTuple):
  """How far members agree; NaN for a member that is not finite.

  Attributes:
    same_class: [M][M] fraction of the examples on which both say the same class.
    kl: [M][M] mean of KL(row || column) in nats.
  """

  same_class: list[list[float]]
  kl: list[list[float]]


def agreement(batch: Batch, members: Sequence[str]) -> Agreement:
  """Compares members pairwise.

  Args:
    batch: of the whole split.
    members: names of all of them, in the order of `batch.kl`.
  """
  predicted: np.ndarray = np.stack([batch.kept[name].predicted for name in members])
  finite: np.ndarray = np.all(predicted >= 0, axis=1)
  both = finite[:, None] & finite[None]
  same = (predicted[:, None] == predicted[None]).mean(axis=-1)
  kl = batch.kl.mean(axis=0, dtype=np.float64)
  return Agreement(
    same_class=np.where(both, same, np.nan).tolist(),
    kl=np.where(both, kl, np.nan).tolist(),
  )
