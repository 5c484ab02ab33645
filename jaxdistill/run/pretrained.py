"""Published weights: safetensors files as torchvision, timm or authors name them.

Our networks name their modules as the published code names its own, dots included, so
that one rule maps every parameter: the path joined by dots, `kernel` and `scale` being
`weight`, `mean` and `var` `running_mean` and `running_var`, with the axes of kernels in
PyTorch's order.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flax import traverse_util
import numpy as np
import safetensors
import safetensors.numpy

from jaxdistill.core.types import PyTree
from jaxdistill.errors import DataError, require
from jaxdistill.run import checkpoint

_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "mean": "running_mean",
  "var": "running_var",
}
# Linen's (height, width, in, out), (in, out) and (width, in, out) as PyTorch's (out,
# in, ...).
_AXES = {4: (3, 2, 0, 1), 3: (2, 1, 0), 2: (1, 0)}

VariablePath = tuple[str, ...]
"""Where a variable is in a network's tree: collection, modules, leaf."""


class InitialWeights(NamedTuple):
  """Weights of one file.

  Attributes:
    arrays: path of a variable -> float32 array.
    missing_head: names of the classifier that was left out, as it is for other classes;
      "" if none was.
  """

  arrays: dict[VariablePath, np.ndarray]
  missing_head: str

  def describe(self, group: str, path: str, num_classes: int) -> str:
    """Returns the line that says where a group starts."""
    line = f"{group} starts from {path}"
    if self.missing_head:
      line += f" but for {self.missing_head}, which it has for {num_classes} classes"
    return line


def stack(members: Sequence[InitialWeights]) -> dict[VariablePath, np.ndarray]:
  """Stacks the weights of a group's members: path -> float32 [K, ...]."""
  return {
    path: np.stack([member.arrays[path] for member in members])
    for path in members[0].arrays
  }


def _flatten(variables: PyTree) -> dict[VariablePath, Any]:
  """Returns path -> array, or its shape, of every variable."""
  return traverse_util.flatten_dict(variables)


def _published_name(path: VariablePath) -> str:
  """Returns the name that a variable has in published files."""
  _, *modules, leaf = path
  return ".".join([*map(str, modules), _LEAVES.get(leaf, leaf)])


def _published_shape(path: VariablePath, shape: Sequence[int]) -> tuple[int, ...]:
  """Returns the shape that a variable has in PyTorch's layout."""
  if path[-1] != "kernel":
    return tuple(shape)
  return tuple(shape[axis] for axis in _AXES[len(shape)])


def shapes(variables: PyTree) -> dict[str, tuple[int, ...]]:
  """Returns published name -> shape in PyTorch's layout.

  Args:
    variables: of a network: arrays, or their shapes.
  """
  flat = _flatten(variables)
  return {
    _published_name(path): _published_shape(path, x.shape) for path, x in flat.items()
  }


def to_published(variables: PyTree) -> dict[str, np.ndarray]:
  """Returns published name -> array in PyTorch's layout."""
  published = {}
  for path, x in _flatten(variables).items():
    x = np.asarray(x)
    if path[-1] == "kernel":
      x = np.transpose(x, _AXES[x.ndim])
    published[_published_name(path)] = x
  return published


def from_published(tensors: Mapping[str, np.ndarray], variables: PyTree) -> PyTree:
  """Returns the tree `variables` with the arrays of published names, in float32.

  Variables that have no published array stay as they are.
  """
  filled = {}
  for path, x in _flatten(variables).items():
    tensor = tensors.get(_published_name(path))
    if tensor is None:
      filled[path] = x
      continue
    tensor = np.asarray(tensor, np.float32)
    if path[-1] == "kernel":
      tensor = np.transpose(tensor, np.argsort(_AXES[x.ndim]))
    filled[path] = tensor
  return traverse_util.unflatten_dict(filled)


def _read(path: Path) -> dict[str, np.ndarray]:
  """Reads all tensors of a safetensors file, or of a member's directory of a run.

  Raises:
    DataError, CheckpointError: if it is missing or damaged.
  """
  if path.is_dir():
    return to_published(checkpoint.load(path)[0])
  try:
    tensors = safetensors.numpy.load_file(path)
  except FileNotFoundError as error:
    raise DataError(f"{path}: there is no such file") from error
  except (OSError, safetensors.SafetensorError) as error:
    raise DataError(
      f"{path} is not an intact safetensors file ({str(error)[:60]}): convert PyTorch "
      "files by safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW)"
    ) from error
  return _without_wrappers(tensors)


def _without_wrappers(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Removes what DataParallel and batch normalisation add to PyTorch's files."""
  wrapped = bool(tensors) and all(name.startswith("module.") for name in tensors)
  kept = {}
  for name, tensor in tensors.items():
    if name.endswith("num_batches_tracked"):
      continue
    kept[name.removeprefix("module.") if wrapped else name] = tensor
  return kept


def _listed(names: Sequence[str], most: int = 3) -> str:
  """Joins names for a line, the first `most` of them."""
  shown = ", ".join(names[:most])
  if len(names) > most:
    shown += f" and {len(names) - most} more"
  return shown


def _require_finite(path: str, tensors: Mapping[str, np.ndarray]) -> None:
  """Raises DataError for numbers that are not finite.

  A member that starts from them would never learn, and might win every contest: on a
  CPU, compiled programs were seen to make finite logits of a kernel with a NaN.
  """
  bad = []
  for name, tensor in tensors.items():
    if not np.isfinite(np.asarray(tensor, np.float32)).all():
      bad.append(name)
  if bad:
    raise DataError(
      f"{path} holds numbers that are not finite, in {_listed(sorted(bad), most=3)}: "
      "take intact weights"
    )


def load(path: str, variables: PyTree, num_classes: int) -> InitialWeights:
  """Reads published weights for a network.

  A classifier for another number of classes is left out: the network keeps its own.

  Args:
    path: safetensors file, or a member's directory of a run (`members/<member>/best`).
    variables: the network's variables, or their shapes.
    num_classes: C of the network.

  Raises:
    DataError, CheckpointError: if the file is missing or damaged.
    ConfigError: if it does not belong to the network, with the missing and unexpected
      names.
  """
  tensors = _read(Path(path).expanduser())
  expected = shapes(variables)
  head = []
  misshapen = []
  for name, shape in expected.items():
    if name not in tensors or tensors[name].shape == shape:
      continue
    found = tensors[name].shape
    if shape[0] == num_classes and found[1:] == shape[1:]:
      head.append(name)
    else:
      misshapen.append(f"{name} {list(found)} instead of {list(shape)}")
  problems = {
    "missing": sorted(expected.keys() - tensors.keys()),
    "unexpected": sorted(tensors.keys() - expected.keys()),
    "of another shape": misshapen,
  }
  told = "; ".join(
    f"{what}: {_listed(names)}" for what, names in problems.items() if names
  )
  require(not told, f"init {path} does not fit the network: {told}")

  fitting = {name: tensor for name, tensor in tensors.items() if name not in head}
  _require_finite(path, fitting)
  filled = _flatten(from_published(fitting, variables))
  arrays = {path: x for path, x in filled.items() if _published_name(path) not in head}
  return InitialWeights(arrays=arrays, missing_head=", ".join(sorted(head)))
