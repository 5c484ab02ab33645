"""Exact evaluation over a whole split: accuracy and confidence of every member and of the method's predictions."""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import augment, metrics, sharding
from jaxdistill import cohort as cohort_lib
from jaxdistill.protocol import GroupSpec, Method
from jaxdistill.types import TrainState


def make_forward(specs: Sequence[GroupSpec], mean, std, *, deployed: bool = False) -> Callable:
  """Returns (cohort, image uint8[B, H, W, 3]) -> Outputs: all members on the same images, in evaluation mode.

  With `deployed` they have their averaged weights, if there are any, instead of those in training.
  """
  members = len(cohort_lib.member_names(specs))

  def forward(cohort, image):
    image = augment.normalize(augment.to_float(image), mean, std)
    pairs = {name: group.deployed if deployed else (group.params, group.stats) for name, group in cohort.items()}
    params, stats = ({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))
    images = jnp.broadcast_to(image[None], (members, *image.shape))
    return cohort_lib.forward(specs, params, stats, images, jax.random.key(0), train=False)[0]
  return forward


def padded_batches(num_examples: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields (index i32[B], mask f32[B]) that cover every example once; the last batch is padded and masked."""
  for start in range(0, num_examples, batch_size):
    index = np.arange(start, start + batch_size)
    yield np.minimum(index, num_examples - 1).astype(np.int32), (index < num_examples).astype(np.float32)


def make_eval_step(specs: Sequence[GroupSpec], method: Method, *, mean, std, mesh) -> Callable:
  """Returns the jitted function that measures one batch of a resident split.

  Returns:
    (cohort, method state, image uint8[N, H, W, 3], label i32[N], index i32[B]) -> name -> metric -> f32[B], for
    every member and every prediction of the method.
  """
  names, forward = cohort_lib.member_names(specs), make_forward(specs, mean, std, deployed=True)

  def eval_step(cohort, method_state, image, label, index):
    index = sharding.constrain_rows(mesh, index)
    outputs, label = forward(cohort, image[index]), label[index]
    scores = {name: jnp.where(outputs.alive[m], outputs.logits[m], jnp.nan) for m, name in enumerate(names)}
    predicted = method.predict(method_state.params, method_state.memory, outputs)
    # log(p) are logits of the same distribution; clipped, as a probability may underflow to 0.
    scores |= {name: jnp.log(jnp.maximum(p, 1e-30)) for name, p in predicted.items()}
    return {name: {"top1": metrics.top_k(score, label, 1), "top5": metrics.top_k(score, label, 5),
                   "nll": metrics.negative_log_likelihood(score, label),
                   "confidence": jax.nn.softmax(score).max(axis=-1)} for name, score in scores.items()}
  return jax.jit(eval_step)


def compile_eval(eval_step: Callable, state: TrainState, image, label, batch_size: int) -> Callable:
  """Compiles `eval_step` for a split and a batch size, so that it can be said when that happens."""
  return eval_step.lower(state.cohort, state.method, image, label, np.zeros(batch_size, np.int32)).compile()


def _summarise(values: dict[str, np.ndarray]) -> dict[str, float]:
  confidence, correct = values["confidence"], values["top1"]
  # Bins and ranks mean nothing for a member that is not finite any more.
  sound = np.isfinite(confidence).all()
  return {**{metric: float(values[metric].mean(dtype=np.float64)) for metric in ("top1", "top5", "nll")},
          "ece": float(metrics.calibration_error(confidence, correct)) if sound else float("nan"),
          "aurc": float(metrics.risk_coverage_area(confidence, correct)) if sound else float("nan")}


def evaluate(eval_step: Callable, state: TrainState, image, label, *, num_examples: int,
             batch_size: int) -> dict[str, dict[str, float]]:
  """Measures a whole split; the remainder is padded, and every example counts once.

  Args:
    eval_step: from `make_eval_step`, or `compile_eval`.
    state: train state.
    image: uint8[N, H, W, 3] on the devices.
    label: i32[N].
    num_examples: N.
    batch_size: examples of a batch, a multiple of the number of devices.

  Returns:
    name -> metric -> value: accuracies, expected calibration error (10 bins) and area under the risk-coverage
    curve as fractions, NLL in nats.
  """
  parts = jax.device_get([eval_step(state.cohort, state.method, image, label, index)
                          for index, _ in padded_batches(num_examples, batch_size)])
  values = jax.tree.map(lambda *rows: np.concatenate(rows)[:num_examples], *parts)
  return {name: _summarise(row) for name, row in values.items()}
