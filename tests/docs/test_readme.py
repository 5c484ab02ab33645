"""README's examples do what it says they do."""

import re

import numpy as np
import pytest

import jaxdistill
from tests.docs import pages
from tests.helpers import runs

PAGE = runs.ROOT / "README.md"
TEXT = PAGE.read_text()


def block(containing):
  """The one Python block with this text in it."""
  (found,) = [b for b in pages.blocks(PAGE, "python") if containing in b]
  return found


def test_the_losses_in_a_plain_optax_loop():
  names = {}
  exec(block("targets.teaching_weights"), names)
  weights = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
  _, start = names["objective"](weights)
  assert (names["ce"] < 0.5).all()
  assert (names["ce"] < start).all()


@pytest.mark.slow
def test_all_blocks_run_and_the_member_is_a_function(workplace):
  names = pages.run(PAGE, workplace)
  assert names["summary"]["steps"] == 22
  assert names["logits"].shape == (2, 10)
  member = names["member"]
  assert {"params", "batch_stats"} <= set(member.variables)
  assert member.manifest["step"] == 22
  assert len(member.class_names) in (0, 10)


@pytest.mark.slow
def test_a_method_in_twenty_lines(workplace):
  source = block("def toward_mean")
  assert len(source.strip().splitlines()) <= 20
  (workplace / "my_method.py").write_text(source)
  (name,) = re.findall(r"--config.method.name=(\S+:\S+)", TEXT)
  overrides = [f"method.name={name}", "method.weight=0.5", "steps=4"]
  config = runs.config("independent", *overrides)
  jaxdistill.train(config, workplace / "run", quiet=True)
  line = runs.metrics(workplace / "run")[-2]
  for member in ("convnet.0", "convnet.1"):
    expected = line[f"ce/{member}"] + 0.5 * line[f"kl/{member}"]
    assert np.isclose(line[f"loss/{member}"], expected, rtol=1e-4)


def test_readme_is_short_enough_to_read():
  assert len(TEXT.splitlines()) <= 160


def test_the_test_command_is_the_one_that_continuous_integration_runs():
  script = (runs.ROOT / ".ci" / "run").read_text()
  assert "-m pytest" in script
  assert "README.md" in script
  first = next(line for line in TEXT.splitlines() if "-m pytest" in line)
  assert first.endswith("-m pytest -n 2")
