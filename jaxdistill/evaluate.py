"""Exact evaluation over a whole split: top-1, top-5 and NLL of every member and of the method's predictions."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import augment, metrics, sharding
from jaxdistill import cohort as cohort_lib
from jaxdistill.types import GroupSpec, Mean, Method, TrainState


def make_eval_step(specs: Sequence[GroupSpec], method: Method, *, mean, std, mesh) -> Callable:
  """Returns the jitted function that measures one batch of a resident split.

  Returns:
    (cohort, method state, image uint8[N, H, W, 3], label i32[N], index i32[B], mask f32[B]) ->
    name -> metric -> `Mean`, for every member and every prediction of the method.
  """
  names = cohort_lib.member_names(specs)

  def eval_step(cohort, method_state, image, label, index, mask):
    index, mask = sharding.constrain_rows(mesh, (index, mask))
    image = augment.normalize(augment.to_float(image[index]), mean, std)
    label = label[index]
    params = {name: group.params for name, group in cohort.items()}
    stats = {name: group.stats for name, group in cohort.items()}
    images = jnp.broadcast_to(image[None], (len(names), *image.shape))
    outputs, _ = cohort_lib.forward(specs, params, stats, images, jax.random.key(0), train=False)
    scores = {name: jnp.where(outputs.alive[m], outputs.logits[m], jnp.nan) for m, name in enumerate(names)}
    predicted = method.predict(method_state.params, method_state.memory, outputs)
    # log(p) are logits of the same distribution; clipped, as a probability may underflow to 0.
    scores |= {name: jnp.log(jnp.maximum(p, 1e-30)) for name, p in predicted.items()}
    measure = lambda score: {"top1": metrics.top_k(score, label, 1), "top5": metrics.top_k(score, label, 5),
                             "nll": metrics.negative_log_likelihood(score, label)}
    return {name: {metric: Mean.of(value, mask) for metric, value in measure(score).items()}
            for name, score in scores.items()}
  return jax.jit(eval_step)


def compile_eval(eval_step: Callable, state: TrainState, image, label, batch_size: int) -> Callable:
  """Compiles `eval_step` for a split and a batch size, so that it can be said when that happens."""
  index, mask = np.zeros(batch_size, np.int32), np.zeros(batch_size, np.float32)
  return eval_step.lower(state.cohort, state.method, image, label, index, mask).compile()


def evaluate(eval_step: Callable, state: TrainState, image, label, *, num_examples: int,
             batch_size: int) -> dict[str, dict[str, float]]:
  """Measures a whole split; the remainder is padded and masked, so that every example counts once.

  Args:
    eval_step: from `make_eval_step`, or `compile_eval`.
    state: train state.
    image: uint8[N, H, W, 3] on the devices.
    label: i32[N].
    num_examples: N.
    batch_size: examples of a batch, a multiple of the number of devices.

  Returns:
    name -> metric -> value: accuracies as fractions, NLL in nats.
  """
  total = None
  for start in range(0, num_examples, batch_size):
    index = np.arange(start, start + batch_size)
    mask = (index < num_examples).astype(np.float32)
    index = np.minimum(index, num_examples - 1).astype(np.int32)
    part = eval_step(state.cohort, state.method, image, label, index, mask)
    total = part if total is None else jax.tree.map(jnp.add, total, part)
  values = jax.device_get(total)
  return {name: {metric: float(mean.value()) for metric, mean in row.items()} for name, row in values.items()}
