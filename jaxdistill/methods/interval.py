"""Interval distillation: the members train alone, then learn from what they knew together, and so on."""

import jax
import jax.numpy as jnp

from jaxdistill import losses, metrics, targets
from jaxdistill.core.method import Method, Setup, Survey
from jaxdistill.core.types import Objective
from jaxdistill.errors import require, require_choice, require_positive
from jaxdistill.methods import _tables as tables


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
  """Trains in cycles: epochs on the labels alone, then epochs towards the cohort's aggregated soft labels as well.

      L_i = a_r CE(z_i, y) + b_r KL(S || softmax(z_i / T)),   S(x) = sum_k v_k softmax(z_k(x) / T) / sum_k v_k

  in distillation epoch r = 0 .. T_d - 1, with a_r = 1 - r / T_d and b_r = 1 + r / T_d,
  v_k the accuracy of member k. S is made once, at the end of the independent epochs,
  and kept for the rest of the cycle.

  Args:
    independent_epochs: T_in of every cycle.
    distillation_epochs: T_d of every cycle.
    temperature: T > 0.
    weights: "gradual" as above, or "fixed", a = 1 and b = 2.
    teacher: "table", S is measured on every training image without augmentation and
      looked up; "snapshot", copies of all members are kept and predict what they see of
      each batch (one more forward pass a step).
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
      Online Distillation. Entropy
    21(4), 2019, equations 4 to 11 and algorithm 1. No code was released.
  Differs from the paper: its formula of the accuracy weights has a misprinted
    denominator and that of the KL a stray minus sign.
  """
  lengths = independent_epochs, distillation_epochs
  require(
    all(isinstance(n, int) and n >= 1 for n in lengths),
    "independent_epochs and distillation_epochs must be "
    f"whole numbers of at least 1, got {independent_epochs} and {distillation_epochs}",
  )
  require_positive(temperature=temperature)
  require_choice(
    weights=(weights, ("gradual", "fixed")),
    teacher=(teacher, ("table", "snapshot")),
    accuracy=(accuracy, ("train", "holdout")),
    dtype=(dtype, tables.DTYPES),
  )
  cycle = independent_epochs + distillation_epochs
  soften = lambda logits: jax.nn.softmax(logits / temperature)

  def blend(outputs, accuracies):
    return targets.accuracy_weighted(
      soften(outputs.logits), jnp.where(outputs.alive, accuracies, 0)
    )

  def loss(step):
    params, memory, outputs, batch, views, context = step
    position = context.epoch % cycle
    distilling, r = position >= independent_epochs, position - independent_epochs
    gradual = jnp.where(
      distilling, r / distillation_epochs if weights == "gradual" else 0.0, 0.0
    )
    alpha, beta = (
      1 - gradual,
      jnp.where(distilling, 1 + gradual if weights == "gradual" else 2.0, 0.0),
    )
    soft = _soft_labels(
      memory, batch, views, context, distilling, blend, outputs.logits.shape
    )
    ce = losses.soft_cross_entropy(outputs.logits, views.target).mean(axis=1)
    entropy = -jax.scipy.special.xlogy(soft, soft).sum(axis=-1)
    kl = (losses.soft_cross_entropy(outputs.logits / temperature, soft) - entropy).mean(
      axis=1
    )
    objective = alpha * ce + beta * (temperature**2 if scale_kl else 1) * kl
    return Objective(
      objective,
      jnp.float32(0),
      {"kl": jnp.where(distilling, kl, jnp.nan), "distilling": distilling},
      memory,
    )

  def init(key, setup):
    _require_whole_cycles(setup, independent_epochs, distillation_epochs)
    memory = {"accuracy": jnp.zeros(len(setup.outputs.members))}
    if teacher == "table":
      return {}, {
        **memory,
        "soft": tables.create(
          setup.num_examples, setup.num_classes, dtype=dtype, top_k=top_k
        ),
      }
    return {}, {**memory, "cohort": _variables(setup.cohort)}

  def update(memory, cohort, context):
    if teacher == "table":
      return memory
    done = context.step + 1
    now = (done % context.steps_per_epoch == 0) & (
      done // context.steps_per_epoch % cycle == independent_epochs
    )
    return {
      **memory,
      "cohort": jax.tree.map(
        lambda new, old: jnp.where(now, new, old), _variables(cohort), memory["cohort"]
      ),
    }

  due = lambda epoch: epoch % cycle == independent_epochs
  surveys = (_measure_accuracy(accuracy, due),)
  if teacher == "table":

    def write(soft, memory, outputs, batch):
      return tables.write(
        soft, batch.index, blend(outputs, memory["accuracy"]), batch.mask
      )

    surveys += (
      Survey(
        "train",
        due,
        lambda memory: memory["soft"],
        write,
        lambda memory, soft: {**memory, "soft": soft},
      ),
    )
  return Method(loss=loss, init=init, update=update, surveys=surveys, min_members=2)


def _require_whole_cycles(
  setup: Setup, independent_epochs: int, distillation_epochs: int
) -> None:
  cycle = independent_epochs + distillation_epochs
  epochs, remainder = divmod(setup.total_steps, setup.steps_per_epoch)
  whole = max(epochs // cycle, 1) * cycle
  require(
    not remainder and not epochs % cycle,
    f"cycles of {independent_epochs} + {distillation_epochs} epochs do not "
    f"fit a run of {setup.total_steps / setup.steps_per_epoch:.4g} epochs: set epochs to {whole} or "
    f"{whole + cycle}, or the lengths of a cycle",
  )


def _variables(cohort):
  return {name: (group.params, group.stats) for name, group in cohort.items()}


def _measure_accuracy(split: str, due) -> Survey:
  """Measures every member's top-1 accuracy on a split; a member that is not finite has none."""

  def collect(collected, memory, outputs, batch):
    labels = jnp.broadcast_to(batch.label[None], outputs.logits.shape[:2])
    right = (
      metrics.top_k(outputs.logits, labels, 1)
      * outputs.alive[:, None]
      * batch.mask[None]
    )
    return {
      "right": collected["right"] + right.sum(axis=1),
      "count": collected["count"] + batch.mask.sum(),
    }

  start = lambda memory: {
    "right": jnp.zeros_like(memory["accuracy"]),
    "count": jnp.zeros(()),
  }
  return Survey(
    split,
    due,
    start,
    collect,
    lambda memory, collected: {
      **memory,
      "accuracy": collected["right"] / collected["count"],
    },
  )


def _soft_labels(memory, batch, views, context, distilling, blend, shape) -> jax.Array:
  """Returns what every member is to learn of the batch: f32[M, B, C], from the table or from the snapshot."""
  if "cohort" in memory:
    forward = lambda: blend(
      context.forward(memory["cohort"], views.image), memory["accuracy"]
    )
    soft = jax.lax.cond(distilling, forward, lambda: jnp.zeros(shape[1:]))
    return jnp.broadcast_to(jax.lax.stop_gradient(soft)[None], shape)
  soft = tables.read(memory["soft"], batch.index, shape[-1])
  # The member whose images were mixed learns the mixture, as it does of the labels.
  share, partner = views.perturbation.weight, views.perturbation.permutation
  chosen = (jnp.arange(shape[0]) == views.perturbation.member)[:, None, None]
  return jnp.where(
    chosen, (share * soft + (1 - share) * soft[partner])[None], soft[None]
  )
