"""What all processes of a run must have alike: config, code, data, the workdir's disk.

It is compared once, before anything is compiled.
"""

import hashlib
from pathlib import Path
import time

import jax
import numpy as np

import jaxdistill
from jaxdistill.run import hosts
from jaxdistill.run.build import Experiment
from jaxdistill.run.config import HARMLESS, ConfigDict, config_differences, flatten
from jaxdistill.run.workdir import lock_text, versions

# A network disk may show a new file that late.
_SHARED_SECONDS = 10.0

# Where a host keeps its copy of the data is its own affair.
_OWN_KEYS = ("data.dir",)


def require_same_config(config: ConfigDict) -> None:
  """Raises ConfigError in all processes unless all have one config and one code.

  Args:
    config: of this process.
  """
  if not hosts.several():
    return
  advice = "give all processes the same"
  here = _code()
  there = hosts.from_first(here)
  differing = []
  for name, value in here.items():
    if there.get(name) != value:
      differing.append(f"{name} {value} (there {there.get(name)})")
  complaint = ""
  if differing:
    complaint = f"has other code than process 0: {', '.join(differing)}"
  hosts.require_all(complaint, advice)

  differing = _differences(hosts.from_first(config.to_dict()), config)
  complaint = ""
  if differing:
    complaint = f"has another config than process 0: {'; '.join(differing)}"
  hosts.require_all(complaint, advice)


def _differences(first: dict, own: ConfigDict) -> list[str]:
  """Returns the keys that differ from the first process's config.

  Those that may change from one run to the next have to be the same here.
  """
  differing = config_differences(first, own)
  there = flatten(first)
  here = flatten(own)
  for key in HARMLESS:
    if key not in _OWN_KEYS and there.get(key) != here.get(key):
      differing.append(f"{key}: there {there.get(key)!r}, here {here.get(key)!r}")
  return differing


def _code() -> dict[str, str]:
  """Returns package -> version, of this one also a hash of its files."""
  digest = hashlib.sha256()
  folder = Path(jaxdistill.__file__).parent
  for path in sorted(folder.rglob("*.py")):
    digest.update(str(path.relative_to(folder)).encode())
    digest.update(path.read_bytes())
  return {**versions(), "files of jaxdistill": digest.hexdigest()[:12]}


def require_same_data(experiment: Experiment) -> None:
  """Raises ConfigError in all processes unless all have read the same.

  Args:
    experiment: of this process.
  """
  if not hosts.several():
    return
  dataset = experiment.dataset
  hosts.require_same(f"data set ({dataset.name})", _digest(dataset))
  hosts.require_same("initial weights", _digest(experiment.init.args))


def _digest(tree) -> str:
  """Returns a hash of all arrays, texts and readers of a pytree."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    digest.update(jax.tree_util.keystr(path).encode())
    # What is read when it is needed tells itself from other files.
    text = getattr(leaf, "digest", leaf)
    if isinstance(text, str):
      digest.update(text.encode())
      continue
    array = np.ascontiguousarray(leaf)
    digest.update(f"{array.dtype}{array.shape}".encode())
    digest.update(array.data)
  return digest.hexdigest()


def require_shared(path: Path) -> None:
  """Raises ConfigError in all processes unless all see one workdir.

  Args:
    path: workdir, of which the first process holds the lock.
  """
  if not hosts.several():
    return
  expected = hosts.from_first(lock_text(path))
  deadline = time.monotonic() + _SHARED_SECONDS
  while lock_text(path) != expected and time.monotonic() < deadline:
    time.sleep(0.1)
  complaint = ""
  if lock_text(path) != expected:
    complaint = f"does not see the workdir {path} of process 0"
  hosts.require_all(complaint, "give one on a disk that all of them see")
