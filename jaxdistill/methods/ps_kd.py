"""PS-KD: labels softened by what the network itself predicted an epoch ago."""

from jaxdistill.core.method import Method
from jaxdistill.errors import require, require_choice
from jaxdistill.methods._past import Softening, make_past
from jaxdistill.methods._self_taught import self_taught


def ps_kd(
  *,
  alpha: float = 0.8,
  schedule: str = "linear",
  source: str = "table",
  dtype: str = "float32",
  top_k: int = 0,
) -> Method:
  """Returns the method that mixes a member's earlier prediction into its labels.

      L = H((1 - a_e) y + a_e P_{e-1}(x), p),   a_e = alpha (e + 1) / E

  in epoch e = 0 .. E - 1. An example without an earlier prediction keeps its label.

  Args:
    alpha: weight of the past prediction at the end, in 0..1.
    schedule: "linear" as above, or "constant", alpha all along.
    source: "table", what was predicted for the example when it was last trained on, in
      training mode and before any update of that step (the released code);
      "previous_weights", what the weights of the end of the last epoch predict for the
      image as it is augmented now, in evaluation mode (one more forward pass a step).
      Where a member's images are mixed, the table's predictions are mixed alike, and
      nothing is written to it: it stays empty if every batch is mixed for all members.
    dtype: of the table: float32, float16 or bfloat16.
    top_k: classes to keep of each past prediction, the rest evenly spread; 0 keeps all.
      For data sets whose table would not fit: see `tables.create`.

  Raises:
    ConfigError: for values out of range.

  Reference:
    K. Kim, B. Ji, D. Yoon, S. Hwang: Self-Knowledge Distillation with Progressive
      Refinement of Targets. ICCV 2021.
  """
  require(0 <= alpha <= 1, f"alpha must lie in 0..1, got {alpha}")
  require_choice(schedule=(schedule, ("linear", "constant")))
  past = make_past(source=source, dtype=dtype, top_k=top_k)
  softening = Softening(past=past, alpha=alpha, schedule=schedule)
  return self_taught(softening=softening)
