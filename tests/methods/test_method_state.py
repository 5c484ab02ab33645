"""What a method keeps comes back, wherever a run was stopped.

Tables, held-out weights, fusion modules and snapshots.
"""

import pytest

import jaxdistill
from jaxdistill.core.method import SHARED
from jaxdistill.errors import Preempted
from jaxdistill.run import checkpoint
from tests.helpers import runs

# Method, keys, and what must be in its state. Five steps are an epoch of 256 digits.
CASES = [
  pytest.param(
    "progressive_self_kd",
    ["batch_size=256", "steps=12", "method.dtype=float16", "method.top_k=4"],
    (("memory", "past"), ("modules", "convnet")),
  ),
  pytest.param(
    "kdcl.general",
    ["batch_size=256", "steps=12", "holdout=100"],
    (("memory", "weights"),),
  ),
  pytest.param(
    "ps_kd",
    ["batch_size=256", "steps=12", "method.source=previous_weights"],
    (("memory", "past"),),
  ),
  pytest.param("ffsd", ["cohort.convnet.members=3"], (("modules", SHARED),)),
  pytest.param(
    "interval",
    [
      "batch_size=256",
      "steps=15",
      "method.teacher=snapshot",
      "method.independent_epochs=1",
      "method.distillation_epochs=2",
    ],
    (("memory", "accuracy"), ("memory", "cohort")),
  ),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, overrides, kept", CASES)
def test_stopped_and_resumed_is_the_same_run(tmp_path, name, overrides, kept):
  """Stopped within an epoch, in the second and in the third of them."""

  def train(workdir, stop=lambda: False):
    config = runs.config(
      name, *overrides, "log_every=1 steps", "checkpoint_every=100 steps"
    )
    jaxdistill.train(config, workdir, stop=stop, quiet=True)

  train(tmp_path / "whole")
  for count in (8, 5):
    answers = iter([False] * (count - 1) + [True])
    try:
      train(tmp_path / "broken", stop=lambda answers=answers: next(answers, False))
    except Preempted:
      pass
  train(tmp_path / "broken")
  runs.assert_same_run(tmp_path / "whole", tmp_path / "broken")
  state, _ = checkpoint.load(sorted((tmp_path / "whole" / "checkpoints").iterdir())[-1])
  for kind, name in kept:
    assert name in state["method"][kind]
