"""Be Your Own Teacher: a network's deepest classifier teaches shallower ones."""

from jaxdistill.core.method import Method
from jaxdistill.errors import (
  require,
  require_choice,
  require_not_negative,
  require_positive,
)
from jaxdistill.methods._self_taught import Shallow, self_taught


def byot(
  *,
  alpha: float = 0.1,
  temperature: float = 3.0,
  hint_weight: float = 1e-6,
  deep_ce_weight: str = "1-alpha",
  hint_reduce: str = "sum",
  stages: tuple[str, ...] = (),
) -> Method:
  """Returns the method in which the deepest classifier teaches those of all stages.

      L = sum_{i <= N} (1 - alpha) CE(p_i, y)
          + sum_{i < N} [alpha T^2 KL(p_N || p_i) + hint_weight |f_i - f_N|^2]

  The deepest classifier's predictions and features are detached. The branches belong to
  the method and are dropped from what is exported; each of them is evaluated as
  `<member>.<stage>`, and the mean of a member's logits as `<member>.heads`.

  Args:
    alpha: weight of the teacher, in 0..1.
    temperature: T > 0.
    hint_weight: of the feature term.
    deep_ce_weight: weight of the deepest cross-entropy: "1-alpha" as printed above, or
      "1".
    hint_reduce: the feature term's "sum" over the batch, which its default weight is
      made for, or "mean".
    stages: features that get a branch; none stands for every stage but the last.

  Raises:
    ConfigError: for values out of range, and at initialisation for a network with a
      single stage.

  Reference:
    L. Zhang, J. Song, A. Gao, J. Chen, C. Bao, K. Ma: Be Your Own Teacher: Improve the
      Performance of Convolutional Neural Networks via Self Distillation. ICCV 2019. The
      hint is masked and summed, and the KL has the factor T^2, as in the best-known
      implementation (luanyunteng, 8f052ad).
  """
  require(0 <= alpha <= 1, f"alpha must lie in 0..1, got {alpha}")
  require_positive(temperature=temperature)
  require_not_negative(hint_weight=hint_weight)
  require_choice(
    deep_ce_weight=(deep_ce_weight, ("1-alpha", "1")),
    hint_reduce=(hint_reduce, ("sum", "mean")),
  )
  shallow = Shallow(
    stages=tuple(stages),
    alpha=alpha,
    temperature=temperature,
    hint_weight=hint_weight,
    hint_reduce=hint_reduce,
  )
  deep_weight = 1.0 if deep_ce_weight == "1" else 1 - alpha
  return self_taught(shallow=shallow, deep_weight=deep_weight)
