"""The README's examples are run as they stand, and its commands name what exists."""

import re
import sys

import numpy as np
import runs

import jaxdistill

TEXT = (runs.ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def block(containing):
  (found,) = [b for b in BLOCKS if containing in b]
  return found


def test_the_losses_in_a_plain_optax_loop():
  names = {}
  exec(block("targets.teaching_weights"), names)
  start = names["objective"](np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32))[1]
  assert (names["ce"] < 0.5).all() and (names["ce"] < start).all()


def test_a_run_from_python_and_the_weights_of_a_member(tmp_path, monkeypatch):
  (tmp_path / "configs").symlink_to(runs.ROOT / "configs")
  monkeypatch.chdir(tmp_path)
  names = {}
  exec(block("checkpoint.load("), names)
  logits = names["network"].apply(names["variables"], np.zeros((2, 8, 8, 3), np.float32), train=False).logits
  assert logits.shape == (2, 10) and names["summary"]["steps"] == 22


def test_a_method_in_twenty_lines(tmp_path, monkeypatch):
  source = block("def toward_mean")
  assert len(source.strip().splitlines()) <= 20
  (tmp_path / "my_method.py").write_text(source)
  monkeypatch.syspath_prepend(tmp_path)
  (name,) = re.findall(r"--config.method.name=(\S+:\S+)", TEXT)
  config = runs.config("independent", f"method.name={name}", "method.weight=0.5", "steps=4")
  jaxdistill.train(config, tmp_path / "run", quiet=True)
  line = runs.metrics(tmp_path / "run")[-2]
  for member in ("convnet.0", "convnet.1"):
    assert np.isclose(line[f"loss/{member}"], line[f"ce/{member}"] + 0.5 * line[f"kl/{member}"], rtol=1e-4)
  sys.modules.pop("my_method")


def test_commands_name_files_and_modules_that_exist():
  for path in re.findall(r"--config=(configs/\S+\.py)", TEXT) + [f"configs/{p}" for p in re.findall(r"`(cifar\w+\.py)`", TEXT)]:
    assert (runs.ROOT / path).is_file(), path
  for module in re.findall(r"python -m jaxdistill\.(\w+)", TEXT):
    assert (runs.ROOT / "jaxdistill" / f"{module}.py").is_file(), module
  ci = (runs.ROOT / ".ci" / "run").read_text()
  assert "-m pytest" in ci and "README.md" in ci
