"""Interval distillation: epochs alone, then epochs with the cohort's soft labels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill import losses, metrics, targets
from jaxdistill.core.method import Context, Method, Setup, Step, Survey, variables_of
from jaxdistill.core.types import Batch, Group, Objective, Outputs, PyTree
from jaxdistill.errors import require, require_choice, require_positive
from jaxdistill.methods import _tables
from jaxdistill.methods._past import keep_weights

BRIEF = {"independent_epochs": 1, "distillation_epochs": 1}


def interval(
  *,
  independent_epochs: int = 10,
  distillation_epochs: int = 30,
  temperature: float = 3.0,
  weights: str = "gradual",
  teacher: str = "table",
  accuracy: str = "train",
  scale_kl: bool = False,
  dtype: str = "float32",
  top_k: int = 0,
) -> Method:
  """Returns the method of cycles: epochs on the labels alone, then distillation epochs.

      L_i = a_r CE(z_i, y) + b_r KL(S || softmax(z_i / T))
      S(x) = sum_k v_k softmax(z_k(x) / T) / sum_k v_k

  in distillation epoch r = 0 .. T_d - 1, with a_r = 1 - r / T_d and b_r = 1 + r / T_d,
  v_k the accuracy of member k. S, the cohort's aggregated soft labels, is made once, at
  the end of the independent epochs, and kept for the rest of the cycle.

  Args:
    independent_epochs: T_in of every cycle.
    distillation_epochs: T_d of every cycle.
    temperature: T > 0.
    weights: "gradual" as above, or "fixed", a = 1 and b = 2.
    teacher: "table", S is measured on every training image without augmentation and
      looked up; "snapshot", copies of all members are kept and predict what they see of
      each batch (one more forward pass a step). A member whose images were mixed learns
      the mixture of the soft labels.
    accuracy: split on which v is measured, "train", or "holdout" if examples are held
      out.
    scale_kl: multiply the KL by T^2, which the paper does not.
    dtype: of the table: float32, float16 or bfloat16.
    top_k: classes to keep of each soft label, the rest evenly spread; 0 keeps all. See
      `tables.create`.

  Raises:
    ConfigError: for values out of range, and at initialisation for a run that is not a
      whole number of cycles.

  Reference:
    L. Gao, X. Lan, H. Mi, D. Feng, K. Xu, Y. Peng: Multistructure-Based Collaborative
      Online Distillation. Entropy 21(4), 2019, equations 4 to 11 and algorithm 1. No
      code was released.
  Differs from the paper: its formula of the accuracy weights has a misprinted
    denominator and that of the KL a stray minus sign.
  """
  cycle = _Cycle(independent=independent_epochs, distillation=distillation_epochs)
  require(
    _is_whole(independent_epochs) and _is_whole(distillation_epochs),
    "independent_epochs and distillation_epochs must be whole numbers of at least 1, "
    f"got {independent_epochs} and {distillation_epochs}",
  )
  require_positive(temperature=temperature)
  require_choice(
    weights=(weights, ("gradual", "fixed")),
    teacher=(teacher, ("table", "snapshot")),
    accuracy=(accuracy, ("train", "holdout")),
    dtype=(dtype, _tables.DTYPES),
  )
  kl_factor = temperature**2 if scale_kl else 1

  def blend(outputs: Outputs, accuracies: jax.Array) -> jax.Array:
    """Aggregates the members' predictions to soft labels f32[B, C]."""
    probabilities = jax.nn.softmax(losses.bounded(outputs.logits) / temperature)
    return targets.accuracy_weighted(
      probabilities, jnp.where(outputs.alive, accuracies, 0)
    )

  def run_snapshot(step: Step) -> jax.Array:
    """Returns what the kept weights predict for the images of each member."""
    memory = step.memory
    shape = step.outputs.logits.shape[1:]

    def predict() -> jax.Array:
      outputs = step.context.forward(memory["cohort"], step.views.image)
      # What is predicted for images that no other member sees is not of their images.
      accuracies = jnp.where(step.views.is_mixed_apart, 0, memory["accuracy"])
      return blend(outputs, accuracies)

    distilling = cycle.is_distilling(step.context.epoch)
    soft = jax.lax.cond(distilling, predict, lambda: jnp.zeros(shape))
    return step.views.as_perturbed(jax.lax.stop_gradient(soft)[None])

  soft_labels = _look_up if teacher == "table" else run_snapshot

  def loss(step: Step) -> Objective:
    distilling = cycle.is_distilling(step.context.epoch)
    label_weight, kl_weight = cycle.weights(
      step.context.epoch, gradual=weights == "gradual"
    )

    soft = soft_labels(step)
    label_loss = step.label_loss
    entropy = -jax.scipy.special.xlogy(soft, soft).sum(axis=-1)
    soft_ce = losses.soft_cross_entropy(step.outputs.logits / temperature, soft)
    kl = (soft_ce - entropy).mean(axis=1)

    member = label_weight * label_loss + kl_weight * kl_factor * kl
    logged = {"kl": jnp.where(distilling, kl, jnp.nan), "distilling": distilling}
    return Objective(member=member, metrics=logged)

  def init(key: jax.Array, setup: Setup) -> tuple[PyTree, PyTree]:
    del key
    _require_whole_cycles(setup, cycle)
    memory: dict[str, PyTree] = {"accuracy": jnp.zeros(len(setup.outputs.members))}
    if teacher == "table":
      memory["soft"] = _tables.create(
        setup.num_examples, setup.num_classes, dtype=dtype, top_k=top_k
      )
    else:
      memory["cohort"] = variables_of(setup.cohort)
    return {}, memory

  def update(memory: PyTree, cohort: dict[str, Group], context: Context) -> PyTree:
    if teacher == "table":
      return memory
    steps_done = context.step + 1
    epochs_done = steps_done // context.steps_per_epoch
    epoch_ends = steps_done % context.steps_per_epoch == 0
    now = epoch_ends & cycle.begins_distilling(epochs_done)
    return {**memory, "cohort": keep_weights(now, cohort, memory["cohort"])}

  def write_soft_labels(
    soft: PyTree, memory: PyTree, outputs: Outputs, batch: Batch
  ) -> PyTree:
    blended = blend(outputs, memory["accuracy"])
    return _tables.write(soft, batch.index, blended, batch.mask)

  # The accuracies come first: the soft labels are weighted by them.
  surveys = [
    Survey(
      split=accuracy,
      due=cycle.begins_distilling,
      start=_start_accuracy,
      collect=_collect_accuracy,
      finish=_finish_accuracy,
    )
  ]
  if teacher == "table":
    surveys.append(
      Survey(
        split="train",
        due=cycle.begins_distilling,
        start=lambda memory: memory["soft"],
        collect=write_soft_labels,
        finish=lambda memory, soft: {**memory, "soft": soft},
      )
    )
  return Method(
    loss=loss, init=init, update=update, surveys=tuple(surveys), min_members=2
  )


class _Cycle(NamedTuple):
  """A cycle of epochs.

  Attributes:
    independent: epochs T_in in which the members train alone.
    distillation: epochs T_d that follow.
  """

  independent: int
  distillation: int

  @property
  def epochs(self) -> int:
    """Length of the cycle."""
    return self.independent + self.distillation

  def begins_distilling(self, epoch):
    """Tells whether an epoch, from 0, is the first one of distillation in a cycle."""
    return epoch % self.epochs == self.independent

  def is_distilling(self, epoch: jax.Array) -> jax.Array:
    """Tells whether an epoch, from 0, is one of distillation: bool[]."""
    return epoch % self.epochs >= self.independent

  def weights(self, epoch: jax.Array, *, gradual: bool) -> tuple[jax.Array, jax.Array]:
    """Returns the weights (a, b) of the labels and of the KL in an epoch from 0."""
    distilling = self.is_distilling(epoch)
    if not gradual:
      return jnp.float32(1), jnp.where(distilling, 2.0, 0.0)
    r = epoch % self.epochs - self.independent
    moved = jnp.where(distilling, r / self.distillation, 0.0)
    return 1 - moved, jnp.where(distilling, 1 + moved, 0.0)


def _is_whole(epochs: object) -> bool:
  """Tells whether a number of epochs is an integer of at least 1."""
  return isinstance(epochs, int) and epochs >= 1


def _require_whole_cycles(setup: Setup, cycle: _Cycle) -> None:
  """Raises ConfigError unless the run is a whole number of cycles."""
  epochs, remainder = divmod(setup.total_steps, setup.steps_per_epoch)
  whole = max(epochs // cycle.epochs, 1) * cycle.epochs
  given = setup.total_steps / setup.steps_per_epoch
  require(
    not remainder and not epochs % cycle.epochs,
    f"cycles of {cycle.independent} + {cycle.distillation} epochs do not fit a run of "
    f"{given:.4g} epochs: set epochs to {whole} or {whole + cycle.epochs}, "
    "or the lengths of a cycle",
  )


def _look_up(step: Step) -> jax.Array:
  """Returns the soft labels of the table for every member: f32[M, B, C]."""
  num_classes = step.outputs.logits.shape[-1]
  soft = _tables.read(step.memory["soft"], step.batch.index, num_classes)
  return step.views.as_seen(soft[None])


def _start_accuracy(memory: PyTree) -> PyTree:
  """Returns the counts of no example."""
  return {"right": jnp.zeros_like(memory["accuracy"]), "count": jnp.zeros(())}


def _collect_accuracy(
  collected: PyTree, memory: PyTree, outputs: Outputs, batch: Batch
) -> PyTree:
  """Counts a batch's correct predictions; a member that is not finite has none."""
  del memory
  labels = outputs.repeat(batch.label)
  correct = metrics.top_k(outputs.logits, labels, 1)
  right = correct * outputs.alive[:, None] * batch.mask[None]
  return {
    "right": collected["right"] + right.sum(axis=1),
    "count": collected["count"] + batch.mask.sum(),
  }


def _finish_accuracy(memory: PyTree, collected: PyTree) -> PyTree:
  """Returns the memory with every member's top-1 accuracy."""
  return {**memory, "accuracy": collected["right"] / collected["count"]}
