"""Progressive self-distillation with mutual features: PS-KD, BYOT and DMFL in one."""

from jaxdistill.core.method import Method
from jaxdistill.errors import (
  require,
  require_choice,
  require_not_negative,
  require_positive,
)
from jaxdistill.methods._past import Softening, make_past
from jaxdistill.methods._self_taught import Shallow, self_taught


def progressive_self_kd(
  *,
  ps_kd: bool = True,
  byot: bool = True,
  dmfl: bool = True,
  past_alpha: float = 0.8,
  schedule: str = "linear",
  source: str = "table",
  dtype: str = "float32",
  top_k: int = 0,
  alpha: float = 0.1,
  temperature: float = 3.0,
  hint_weight: float = 1e-6,
  hint_reduce: str = "sum",
  kl: str = "teacher",
  mutual_weight: float = 1.0,
  mutual_temperature: float = 1.0,
  stages: tuple[str, ...] = (),
) -> Method:
  """Returns the method of softened labels, shallow classifiers and mutual features.

      L = CE(p_N, y') + L_selfKD + L_DMFL
      L_selfKD = sum_{i <= N} (1 - alpha) CE(p_i, y')
                 + sum_{i < N} [alpha T^2 KL(p_N || p_i) + hint_weight |f_i - f_N|^2]
      L_DMFL = 1 / (N - 1) sum_{i < N} [KL(F_i || F_N) + KL(F_N || F_i)]

  y' are the labels softened by the past prediction, F the softmax of a branch's pooled
  features over its channels. Without any part this is independent training; the eight
  rows of the paper's tables are the eight subsets.

  Args:
    ps_kd: soften the labels; else y' = y.
    byot: teach shallow classifiers; else L_selfKD is left out.
    dmfl: mutual features; without `byot` the branches end in their pooled features.
    past_alpha: weight of the past prediction at the end, in 0..1.
    schedule: "linear", the weight rises from epoch to epoch, or "constant".
    source: of the past predictions, "table" or "previous_weights", see `ps_kd`.
    dtype: of the table: float32, float16 or bfloat16.
    top_k: classes to keep of each past prediction, the rest evenly spread; 0 keeps all.
    alpha: weight of the deepest classifier as a teacher, in 0..1.
    temperature: T > 0.
    hint_weight: of the feature term.
    hint_reduce: the feature term's "sum" over the batch, or "mean".
    kl: "teacher", T^2 KL(p_N || p_i) as above, or "printed", KL(p_i || p_N) at T = 1 as
      in equation 2; p_N is detached.
    mutual_weight: of L_DMFL.
    mutual_temperature: of the features' softmax.
    stages: features that get a branch; none stands for every stage but the last.

  Raises:
    ConfigError: for values out of range, and at initialisation for a network with a
      single stage.

  Reference:
    S. Chottananurak, J. Jeong, D. Kabir, T. Phisannupawong: Progressive Self-Knowledge
      Distillation with Mutual Learning, equations 1 to 3.
  Differs from the paper: the KL of L_selfKD is printed as KL(P_i || P_N), here it is
    that of the method it builds on, see `kl`; the paper says constant alpha = 0.8 in
    its text, for which there is `schedule`, and cites the method whose alpha rises.
  """
  require(0 <= past_alpha <= 1, f"past_alpha must lie in 0..1, got {past_alpha}")
  require(0 <= alpha <= 1, f"alpha must lie in 0..1, got {alpha}")
  require_positive(
    temperature=temperature,
    mutual_temperature=mutual_temperature,
    mutual_weight=mutual_weight,
  )
  require_not_negative(hint_weight=hint_weight)
  require_choice(
    schedule=(schedule, ("linear", "constant")),
    hint_reduce=(hint_reduce, ("sum", "mean")),
    kl=(kl, ("teacher", "printed")),
  )
  softening = None
  if ps_kd:
    past = make_past(source=source, dtype=dtype, top_k=top_k)
    softening = Softening(past=past, alpha=past_alpha, schedule=schedule)
  shallow = None
  if byot or dmfl:
    shallow = Shallow(
      stages=tuple(stages),
      classify=byot,
      alpha=alpha,
      temperature=temperature,
      hint_weight=hint_weight,
      hint_reduce=hint_reduce,
      mutual_weight=mutual_weight if dmfl else 0.0,
      mutual_temperature=mutual_temperature,
      printed_kl=kl == "printed",
    )
  # The deepest classifier's cross-entropy stands alone and in L_selfKD.
  deep_weight = 2 - alpha if byot else 1.0
  return self_taught(softening=softening, shallow=shallow, deep_weight=deep_weight)
