"""What the compiler is told, besides the program."""

from collections.abc import Callable
import functools
import os

import jax
from jax.sharding import Mesh

from jaxdistill.engine import sharding
from jaxdistill.nn import conv

# What XLA gives to YNN: of all that it may be, matrix products and sums only.
_YNN = "xla_cpu_experimental_ynn_fusion_type"
_TYPES = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"


def compiler_options(mesh: Mesh) -> dict[str, str] | None:
  """Returns the options for programs that run networks on a mesh; None: XLA's own.

  On a CPU, XLA gives most convolutions to a library, YNN, that computes each with a
  single core. Where a device has several they are left to Eigen, which shares them out.
  A choice in `XLA_FLAGS` is kept.

  Args:
    mesh: device mesh.
  """
  if sharding.platform_of(mesh) != "cpu" or not conv.shares_convolutions():
    return None
  if _YNN in os.environ.get("XLA_FLAGS", "") or not _is_known(_YNN, _TYPES):
    return None
  return {_YNN: _TYPES}


def jit_for_host(function: Callable, mesh: Mesh) -> Callable:
  """Jits a function that runs networks on a mesh and whose whole result the host reads.

  Args:
    function: its arguments and results are pytrees of arrays.
    mesh: device mesh.
  """
  return jax.jit(
    function,
    out_shardings=sharding.replicated(mesh),
    compiler_options=compiler_options(mesh),
  )


@functools.cache
def _is_known(option: str, value: str) -> bool:
  """Tells whether this XLA has an option: experimental ones come and go."""
  program = jax.jit(_nothing, compiler_options={option: value}).lower()
  try:
    program.compile()
  except jax.errors.JaxRuntimeError as error:
    if "INVALID_ARGUMENT" not in str(error):
      raise
    return False
  return True


def _nothing() -> int:
  return 0
