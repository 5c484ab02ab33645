"""Published weights: safetensors files in the naming of torchvision, timm or the authors' code, and runs of ours.

Our networks name their modules as the published code names its own, dots included, so
that one rule maps every parameter: the path joined by dots, `kernel` and `scale` being
`weight`, `mean` and `var` `running_mean` and `running_var`, with the axes of kernels in
PyTorch's order.
"""

from pathlib import Path

from flax import traverse_util
import numpy as np
import safetensors
import safetensors.numpy

from jaxdistill import checkpoint
from jaxdistill.errors import DataError, require
from jaxdistill.types import PyTree

_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "mean": "running_mean",
  "var": "running_var",
}
# Linen's (height, width, in, out), (in, out) and (width, in, out) as PyTorch's (out,
# in, ...).
_AXES = {4: (3, 2, 0, 1), 3: (2, 1, 0), 2: (1, 0)}


def _published(path: tuple[str, ...]) -> str:
  return ".".join(map(str, (*path[1:-1], _LEAVES.get(path[-1], path[-1]))))


def _shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
  return (
    tuple(shape[axis] for axis in _AXES[len(shape)])
    if path[-1] == "kernel"
    else tuple(shape)
  )


def shapes(variables: PyTree) -> dict[str, tuple[int, ...]]:
  """Returns published name -> shape in PyTorch's layout, for the variables of a network (arrays or their shapes)."""
  return {
    _published(path): _shape(path, x.shape)
    for path, x in traverse_util.flatten_dict(variables).items()
  }


def to_published(variables: PyTree) -> dict[str, np.ndarray]:
  """Returns published name -> array in PyTorch's layout."""
  turned = lambda path, x: (
    np.transpose(x, _AXES[x.ndim]) if path[-1] == "kernel" else np.asarray(x)
  )
  return {
    _published(path): turned(path, x)
    for path, x in traverse_util.flatten_dict(variables).items()
  }


def from_published(tensors: dict[str, np.ndarray], variables: PyTree) -> PyTree:
  """Returns float32 arrays for the tree `variables` out of published names; those without a name keep what is there."""

  def leaf(path, x):
    if _published(path) not in tensors:
      return x
    value = np.asarray(tensors[_published(path)], np.float32)
    return (
      np.transpose(value, np.argsort(_AXES[x.ndim])) if path[-1] == "kernel" else value
    )

  flat = traverse_util.flatten_dict(variables)
  return traverse_util.unflatten_dict({path: leaf(path, x) for path, x in flat.items()})


def _read(path: Path) -> dict[str, np.ndarray]:
  """Reads all tensors of a safetensors file, or of a directory in which a run left a member's weights.

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
      f"{path} is not a sound safetensors file ({error}): PyTorch's own files are converted by "
      "safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW)"
    ) from error
  # Left by PyTorch's DataParallel around a network, and by its batch normalisation.
  prefix = (
    "module." if tensors and all(name.startswith("module.") for name in tensors) else ""
  )
  return {
    name.removeprefix(prefix): x
    for name, x in tensors.items()
    if not name.endswith("num_batches_tracked")
  }


def _listed(names: list[str], most: int = 12) -> str:
  return ", ".join(names[:most]) + (
    f" and {len(names) - most} more" if len(names) > most else ""
  )


def load(
  path: str, variables: PyTree, num_classes: int
) -> tuple[dict[tuple[str, ...], np.ndarray], str]:
  """Reads published weights for a network.

  A classifier for another number of classes is left out: the network keeps its own.

  Args:
    path: safetensors file, or a member's directory of a run (`members/<member>/best`).
    variables: the network's variables, or their shapes.
    num_classes: C of the network.

  Returns:
    (path in `variables` -> float32 array, which names were left out: "" if none).

  Raises:
    DataError, CheckpointError: if the file is missing or damaged.
    ConfigError: if it does not belong to the network, with the missing and unexpected
      names.
  """
  tensors, expected = _read(Path(path).expanduser()), shapes(variables)
  other = {
    name: tensors[name].shape
    for name, shape in expected.items()
    if name in tensors and tensors[name].shape != shape
  }
  head = [
    name
    for name, shape in other.items()
    if shape[1:] == expected[name][1:] and expected[name][0] == num_classes
  ]
  problems = {
    "missing": sorted(expected.keys() - tensors.keys()),
    "unexpected": sorted(tensors.keys() - expected.keys()),
    "of another shape": [
      f"{name} {list(shape)} instead of {list(expected[name])}"
      for name, shape in other.items()
      if name not in head
    ],
  }
  found = "; ".join(
    f"{what}: {_listed(names)}" for what, names in problems.items() if names
  )
  require(not found, f"init {path} does not fit the network: {found}")
  flat = traverse_util.flatten_dict(variables)
  turned = traverse_util.flatten_dict(
    from_published({n: x for n, x in tensors.items() if n not in head}, variables)
  )
  return {key: turned[key] for key in flat if _published(key) not in head}, ", ".join(
    sorted(head)
  )
