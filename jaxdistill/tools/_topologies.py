"""Devices that are not there, to compile for.

For TPUs libtpu describes them, which works on any machine; for GPUs JAX's CUDA plugin
is told what one of them is like, and no driver is needed.
"""

import importlib.metadata
import math
import os
import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from jaxdistill.errors import ConfigError, describe, require
from jaxdistill.tools import _h100

_GIB = 2**30

# The largest pods there are have fewer than ten thousand chips.
_MOST_CHIPS = 10_000

# libtpu would ask the cloud about the machine that it runs on and warn that there is
# none, and it allows one process only.
_ENVIRONMENT = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_MIN_LOG_LEVEL": "3",
  "TPU_STDERR_LOG_LEVEL": "3",
}


class _Extra(NamedTuple):
  """An optional dependency.

  Attributes:
    name: of the extra, for pip.
    packages: one of which has to be installed.
  """

  name: str
  packages: tuple[str, ...]


class _Kind(NamedTuple):
  """A kind of device.

  Attributes:
    memory: published bytes of a device.
    dimensions: of its topologies.
    options: what `get_topology_desc` wants to know besides the name.
  """

  memory: int
  dimensions: int
  options: dict[str, Any] = {}


_TPU = _Extra("tpu", ("libtpu",))
_CUDA = _Extra("cuda12", ("jax-cuda12-plugin", "jax-cuda13-plugin"))

# Memory by Google's pages about the TPU versions. They count chips; a device is one of
# the chip's two cores for v2, v3 and tpu7x, and both of them together for v4 and v5p.
_TPUS = {
  "v2": _Kind(8 * _GIB, 2),
  "v3": _Kind(16 * _GIB, 2),
  "v4": _Kind(32 * _GIB, 3, {"chip_config_name": "megacore"}),
  "v5e": _Kind(16 * _GIB, 2),
  "v5p": _Kind(95 * _GIB, 3, {"chip_config_name": "megacore"}),
  "v6e": _Kind(32 * _GIB, 2),
  "tpu7x": _Kind(96 * _GIB, 3),
}
_GPUS = {"h100": _Kind(_h100.MEMORY, 2)}
KINDS = _TPUS | _GPUS

EXAMPLES = "such as v5e:4x4 or v4:2x2x2 (chips), or h100:2x4 (hosts x GPUs)"


class Topology(NamedTuple):
  """Devices that are not there.

  Attributes:
    devices: all of them.
    memory: published bytes of each.
  """

  devices: list[Any]
  memory: int


def open_topology(text: str) -> Topology:
  """Returns the devices of a topology.

  Args:
    text: kind and shape: chips as in "v5e:4x4" for TPUs, hosts times GPUs as in
      "h100:2x4".

  Raises:
    ConfigError: for one that nobody knows, or if what describes it is not installed.
  """
  name, shape = _parse(text)
  # For what JAX computes on the way: the machine's own accelerator is left alone.
  jax.config.update("jax_platforms", "cpu")
  if name in _GPUS:
    devices = _gpus(text, name, shape)
  else:
    devices = _tpus(text, name, shape)
  return Topology(devices, KINDS[name].memory)


def _gpus(text: str, name: str, shape: tuple[int, ...]) -> list[Any]:
  """Returns GPUs, as JAX's CUDA plugin describes them."""
  _require_installed(text, _CUDA)
  hosts, gpus = shape
  return _open(
    text,
    platform="cuda",
    topology_name=name,
    target_config=_h100.TARGET_CONFIG,
    # Slices x hosts of a slice x GPUs of a host.
    topology=f"1x{hosts}x{gpus}",
  )


def _tpus(text: str, name: str, shape: tuple[int, ...]) -> list[Any]:
  """Returns TPUs, as libtpu describes them.

  Raises:
    ConfigError: if the shape is not made of whole hosts.
  """
  options = dict(_TPUS[name].options)
  if math.prod(shape) == 1:
    # Hosts have four chips where nothing is said.
    options["chips_per_host_bounds"] = (1, 1, 1)
  else:
    columns, rows, *_ = shape
    require(
      columns % 2 == 0 and rows % 2 == 0,
      f"--topology: {text!r} is not made of hosts with 2x2 chips: take even numbers "
      f"in the first two places, {EXAMPLES}",
    )
  _require_installed(text, _TPU)
  for variable, value in _ENVIRONMENT.items():
    os.environ.setdefault(variable, value)
  return _open(text, platform="tpu", topology_name=text, **options)


def _parse(text: str) -> tuple[str, tuple[int, ...]]:
  """Returns the kind of device and the shape: ("v5e", (4, 4))."""
  name, _, sizes = text.partition(":")
  if name not in KINDS:
    raise ConfigError(
      f"--topology: nobody knows {text!r}; known are {', '.join(KINDS)}, {EXAMPLES}"
    )
  dimensions = KINDS[name].dimensions
  shape = ()
  if re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4})*", sizes):
    shape = tuple(int(size) for size in sizes.split("x"))
  require(
    len(shape) == dimensions and math.prod(shape) <= _MOST_CHIPS,
    f"--topology: {text!r} needs {dimensions} whole numbers with x between them, of at "
    f"most {_MOST_CHIPS:,} chips: {EXAMPLES}",
  )
  return name, shape


def _require_installed(text: str, extra: _Extra) -> None:
  """Raises ConfigError if an optional dependency is not there."""
  for package in extra.packages:
    try:
      importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
    return
  raise ConfigError(
    f"--topology: {text} needs {extra.packages[0]}, which is not installed: "
    f"pip install 'jaxdistill[{extra.name}]'; the devices themselves are not needed"
  )


def _open(text: str, **described: Any) -> list[Any]:
  """Returns the devices that JAX makes of a description."""
  try:
    return topologies.get_topology_desc(**described).devices
  except (jax.errors.JaxRuntimeError, RuntimeError, NotImplementedError) as error:
    raise ConfigError(
      f"--topology: {text} cannot be made: {describe(error)}"
    ) from error
