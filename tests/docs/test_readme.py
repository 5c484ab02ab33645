"""The README's examples are run as they stand, and its commands name what exists."""

import re
import sys

import numpy as np

import jaxdistill
from jaxdistill.core import registry
from jaxdistill.run.build import build
from jaxdistill.run.config import group
from tests.helpers import runs

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


def test_networks_of_a_users_own(tmp_path, monkeypatch):
  (tmp_path / "my_networks.py").write_text(block("class OnlyLogits"))
  monkeypatch.syspath_prepend(tmp_path)
  config = runs.config("competitive", "cohort.convnet.model=my_networks:mine", "cohort.convnet.width=4", "method.beta=0")
  config.cohort.only = group("my_networks:only_logits")
  config.cohort.nnx = group("my_networks:from_nnx", members=2)
  cohort = build(config).state.cohort
  assert cohort["convnet"].params["Dense_0"]["kernel"].shape == (2, 4, 10)
  assert cohort["nnx"].params["head"]["kernel"].shape == (2, 16, 10) and set(cohort["only"].params) == {"Dense_0", "Dense_1"}
  sys.modules.pop("my_networks")


def test_the_listed_networks_exist():
  table = TEXT.split("## Networks")[1].split("\n\n")[2]
  rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
  assert len(rows) == 10
  for row in rows:
    names = re.findall(r"`([\w.]+)`", row)
    family = names[0].split(".")[0]
    for name in names:
      assert {name, f"{family}.{name}"} & set(registry.list_available("models")), name


def test_commands_name_files_and_modules_that_exist():
  for path in re.findall(r"--config=(configs/\S+\.py)", TEXT) + [f"configs/{p}" for p in re.findall(r"`((?:cifar|imagenet)\w+\.py)`", TEXT)]:
    assert (runs.ROOT / path).is_file(), path
  for module in re.findall(r"python -m jaxdistill\.(\w+)", TEXT):
    package = runs.ROOT / "jaxdistill"
    assert (package / f"{module}.py").is_file() or (package / module / "__main__.py").is_file(), module
  ci = (runs.ROOT / ".ci" / "run").read_text()
  assert "-m pytest" in ci and "README.md" in ci
