"""What a method keeps comes back: tables, held-out weights, fusion modules and snapshots, wherever a run was stopped."""

import pytest

import jaxdistill
from jaxdistill.errors import Preempted
from jaxdistill.run import checkpoint
from tests.helpers import runs
from tests.run.test_train import assert_same_run

# Method, keys, and what must be in its state.
CASES = [
    ("progressive_self_kd", ["batch_size=256", "steps=12", "method.dtype=float16", "method.top_k=4"], ("past", "stats")),
    ("kdcl.general", ["batch_size=256", "steps=12", "holdout=100"], ("weights",)),
    ("ps_kd", ["batch_size=256", "steps=12", "method.source=previous_weights"], ("past",)),
    ("ffsd", ["cohort.convnet.members=3"], ("fusion",)),
    ("interval", ["batch_size=256", "steps=15", "method.teacher=snapshot", "method.independent_epochs=1",
                  "method.distillation_epochs=2"], ("accuracy", "cohort")),
]


@pytest.mark.parametrize("name, overrides, kept", CASES, ids=lambda value: value if isinstance(value, str) else None)
def test_stopped_and_resumed_is_the_same_run(tmp_path, name, overrides, kept):
  """Stopped within an epoch, in the second and in the third of them."""
  make = lambda: runs.config(name, *overrides, "log_every=1 steps", "checkpoint_every=100 steps")
  jaxdistill.train(make(), tmp_path / "whole", quiet=True)
  for count in (8, 5):
    asked = iter([False] * (count - 1) + [True])
    try:
      jaxdistill.train(make(), tmp_path / "broken", stop=lambda: next(asked, False), quiet=True)
    except Preempted:
      pass
  jaxdistill.train(make(), tmp_path / "broken", quiet=True)
  assert_same_run(tmp_path / "whole", tmp_path / "broken")
  state, _ = checkpoint.load(sorted((tmp_path / "whole" / "checkpoints").iterdir())[-1])
  assert all(part in state["method"]["memory"] for part in kept)
