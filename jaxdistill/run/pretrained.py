"""Published weights: safetensors files as torchvision, timm or authors name them.

Our networks name their modules as the published code names its own, dots included, so
that one rule maps every parameter: the path joined by dots, `kernel` and `scale` being
`weight`, `mean` and `var` `running_mean` and `running_var`, with the axes of kernels in
PyTorch's order.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import math
import os
from pathlib import Path
import re
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy

from jaxdistill.core.foreign import (
  expand,
  open_file,
  parse_json,
  physical_memory,
)
from jaxdistill.core.types import PyTree
from jaxdistill.errors import CheckpointError, DataError, reason, require
from jaxdistill.inputs.normalize import Normalization
from jaxdistill.run import card, checkpoint
from jaxdistill.run.manifest import are_channels

_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "mean": "running_mean",
  "var": "running_var",
}
# Linen's (height, width, in, out), (in, out) and (width, in, out) as PyTorch's (out,
# in, ...).
_AXES = {4: (3, 2, 0, 1), 3: (2, 1, 0), 2: (1, 0)}

# The positions of ViT, CeiT and Vim, of the class token and of a grid of patches.
_POSITIONS = "pos_embed"

# What only one library calls its weights, the more telling ones first.
_NAMINGS = {
  "keras": r"(^|[./])(gamma|beta|moving_mean|moving_variance)(:0)?$|:0$",
  "flax": r"(^|[./])(kernel|scale|embedding)$|^params[./]",
  "transformers": (
    r"(^|\.)(embeddings|embedder|encoder\.layer|encoder\.stages|convolution"
    r"|normalization)\."
  ),
  "torchvision": (
    r"(^|\.)(encoder\.layers|conv_proj|features|layer[1-4]|heads\.head)\."
    r"|(^|\.)class_token$"
  ),
  "timm": (
    r"(^|\.)(blocks|stages|patch_embed|conv_stem|stem)\.|(^|\.)(cls_token|pos_embed)$"
  ),
}
# As the format has it: the length of the header, and how long it may be.
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000

_TYPES = ("F64", "F32", "F16", "BF16")

# An integer that PyTorch's batch normalisation keeps.
_COUNTER = "num_batches_tracked"

FORMAT = "safetensors"
"""What cards call the format of these files."""

VariablePath = tuple[str, ...]
"""Where a variable is in a network's tree: collection, modules, leaf."""

ClassPosition = Callable[[int], int]
"""Number of patch tokens -> where the class token stands among them."""


class InitialWeights(NamedTuple):
  """Weights of one file.

  Attributes:
    arrays: path of a variable -> float32 array.
    missing_head: names of the classifier that was left out, as it is for other classes;
      "" if none was.
    resized: sides of the grids of positions that were interpolated, "14x14 to 2x2"; ""
      if none were.
    normalization: what the run normalised its images with that the weights are from;
      None where the file does not say.
  """

  arrays: dict[VariablePath, np.ndarray]
  missing_head: str
  resized: str
  normalization: Normalization | None

  def describe(self, group: str, path: str, num_classes: int) -> str:
    """Returns the line that says where a group starts."""
    line = f"{group} starts from {path}"
    if self.missing_head:
      line += f" but for {self.missing_head}, which it has for {num_classes} classes"
    if self.resized:
      line += f"; its {_POSITIONS} was interpolated from {self.resized}"
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


def batch_counters(variables: PyTree, count: int) -> dict[str, np.ndarray]:
  """Returns the counters that PyTorch's batch normalisations have.

  Args:
    variables: of a network.
    count: of the batches that it has seen.

  Returns:
    Published name -> int64[].
  """
  counters = {}
  for path in _flatten(variables):
    name = _published_name(path)
    if name.endswith(".running_mean"):
      module = name.removesuffix(".running_mean")
      counters[f"{module}.{_COUNTER}"] = np.array(count, np.int64)
  return counters


def unflatten(arrays: Mapping[VariablePath, Any]) -> PyTree:
  """Returns the tree of a network's variables."""
  return traverse_util.unflatten_dict(dict(arrays))


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


def _read(path: Path) -> tuple[dict[str, np.ndarray], Normalization | None]:
  """Reads a safetensors file, or a member's directory of a run.

  Returns:
    (all tensors, what the run normalised its images with, if its manifest or the card
    of the file says so).

  Raises:
    DataError, CheckpointError: if it is missing or damaged, or its card another's.
  """
  if os.path.isdir(path):
    tree, contents = checkpoint.load(path)
    return to_published(tree), _normalization(path, contents)
  try:
    _check_header(path)
    tensors = safetensors.numpy.load_file(path)
  except DataError:
    raise
  except FileNotFoundError as error:
    raise DataError(f"{path}: there is no such file") from error
  except (
    OSError,
    ValueError,
    MemoryError,
    # Of counters in types that numpy does not have.
    AttributeError,
    safetensors.SafetensorError,
  ) as error:
    raise DataError(
      f"{path} is not an intact safetensors file ({reason(error)}): convert PyTorch "
      "files by safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW)"
    ) from error
  contents = card.find(path) or {}
  return _without_wrappers(tensors), _normalization(card.path_of(path), contents)


def _normalization(path: Path, contents: Mapping[str, Any]) -> Normalization | None:
  """Returns what a member's manifest says of the channels, if it does.

  Raises:
    CheckpointError: for anything but three numbers each.
  """
  if "mean" not in contents and "std" not in contents:
    return None
  for name in ("mean", "std"):
    if not are_channels(contents.get(name)):
      raise CheckpointError(
        f"{path}: {name} in its manifest is {str(contents.get(name))[:60]}, not a "
        "number for each of three channels: take an intact member"
      )
  return Normalization(tuple(contents["mean"]), tuple(contents["std"]))


def _check_header(path: Path) -> None:
  """Checks what the library does not.

  It opens anything, takes the last one of two equal names, has no numpy type for some
  of the format's, and gives integers and complex numbers as they are.

  Raises:
    OSError, ValueError: if it is no safetensors file, or has a name twice.
    DataError: for tensors that are no floating-point numbers.
  """
  with open_file(path, max_bytes=physical_memory()) as file:
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if length > _MAX_HEADER_BYTES:
      raise ValueError(f"it claims a header of {length} bytes")
    header = parse_json(file.read(length))
  if not isinstance(header, dict):
    raise ValueError("its header is no table")
  for name, tensor in header.items():
    if name == "__metadata__" or name.endswith(_COUNTER):
      continue
    kind = tensor.get("dtype") if isinstance(tensor, dict) else None
    if kind not in _TYPES:
      raise DataError(
        f"{path}: {name} is of type {kind}, not one of {', '.join(_TYPES)}: convert it "
        "to F32"
      )


def _without_wrappers(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Removes what DataParallel and batch normalisation add to PyTorch's files."""
  wrapped = bool(tensors) and all(name.startswith("module.") for name in tensors)
  kept = {}
  for name, tensor in tensors.items():
    if name.endswith(_COUNTER):
      continue
    kept[name.removeprefix("module.") if wrapped else name] = tensor
  return kept


def _fit_positions(
  tensors: dict[str, np.ndarray],
  expected: Mapping[str, tuple[int, ...]],
  class_position: ClassPosition,
) -> str:
  """Interpolates the positions among the tensors, if they are of another grid.

  Both grids have to be square; others stay as they are.

  Returns:
    "14x14 to 2x2", or "" if nothing was to be done.
  """
  positions = tensors.get(_POSITIONS)
  wanted = expected.get(_POSITIONS)
  if positions is None or wanted is None or positions.shape == wanted:
    return ""
  if positions.ndim != 3 or positions.shape[::2] != wanted[::2]:
    return ""
  old = math.isqrt(max(0, positions.shape[1] - 1))
  new = math.isqrt(wanted[1] - 1)
  if not old or (old**2, new**2) != (positions.shape[1] - 1, wanted[1] - 1):
    return ""
  tensors[_POSITIONS] = resize_positions(positions, new, class_position)
  return f"{old}x{old} to {new}x{new}"


def resize_positions(
  positions: np.ndarray, side: int, class_position: ClassPosition
) -> np.ndarray:
  """Interpolates the positions of a square grid of patches, as timm does.

  Bicubic, with antialiasing where the grid becomes smaller; the class token keeps its
  own.

  Args:
    positions: [1, 1 + patches, D].
    side: of the new grid.
    class_position: of the network.

  Returns:
    f32[1, 1 + side * side, D].
  """
  positions = np.asarray(positions, np.float32)
  _, count, dim = positions.shape
  at = class_position(count - 1)
  class_token = positions[:, at : at + 1]
  old_side = math.isqrt(count - 1)
  grid = np.delete(positions, at, axis=1).reshape(old_side, old_side, dim)

  resized = jax.image.resize(grid, (side, side, dim), "cubic", antialias=True)
  patches = np.asarray(resized).reshape(1, side * side, dim)
  at = class_position(side * side)
  parts = [patches[:, :at], class_token, patches[:, at:]]
  return np.concatenate(parts, axis=1)


def _library(names: Iterable[str]) -> str:
  """Returns the library whose names these look like; "" if they look like none's."""
  names = list(names)
  for library, pattern in _NAMINGS.items():
    if any(re.search(pattern, name) for name in names):
      return library
  return ""


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
    # Numbers that float32 has not become infinite.
    with np.errstate(over="ignore"):
      numbers = np.asarray(tensor, np.float32)
    if not np.isfinite(numbers).all():
      bad.append(name)
  if bad:
    raise DataError(
      f"{path} holds numbers that are not finite, in {_listed(sorted(bad), most=3)}: "
      "take intact weights"
    )


def load(
  path: str,
  variables: PyTree,
  num_classes: int,
  class_position: ClassPosition | None = None,
) -> InitialWeights:
  """Reads published weights for a network.

  A classifier for another number of classes is left out: the network keeps its own.
  Positions of another grid of patches are interpolated.

  Args:
    path: safetensors file, or a member's directory of a run (`members/<member>/best`).
    variables: the network's variables, or their shapes.
    num_classes: C of the network.
    class_position: of a network of tokens; without it, positions of another grid are
      refused.

  Raises:
    DataError, CheckpointError: if the file is missing or damaged.
    ConfigError: if it does not belong to the network, with the missing and unexpected
      names, or the library whose names they look like.
  """
  tensors, normalization = _read(expand(path))
  expected = shapes(variables)
  resized = ""
  if class_position is not None:
    resized = _fit_positions(tensors, expected, class_position)
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
  missing = sorted(expected.keys() - tensors.keys())
  unexpected = sorted(tensors.keys() - expected.keys())
  library = _library(unexpected)
  if 2 * len(missing) > len(expected) and library:
    told = (
      f"its names look like those of {library}, such as {unexpected[0]}, and the "
      f"network's are such as {missing[0]}: rename them"
    )
  else:
    problems = {
      "missing": missing,
      "unexpected": unexpected,
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
  return InitialWeights(
    arrays=arrays,
    missing_head=", ".join(sorted(head)),
    resized=resized,
    normalization=normalization,
  )
