"""What is known of a step that was compiled ahead of time, as a table."""

from collections.abc import Mapping, Sequence
import dataclasses
import math

from jaxdistill.errors import ConfigError
from jaxdistill.run.room import in_units
from jaxdistill.tools import _hlo

TAKE_LESS = "take more devices, fewer members or a smaller batch_size"
"""What helps where a step does not fit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
  """Bytes on one device."""

  arguments: int
  """The state and the training images, as the step is given them."""
  outputs: int
  """What the step returns beyond the state, which takes the place of the old one."""
  temporaries: int
  """Activations and whatever else XLA keeps during a step."""
  code: int
  """The program."""
  beside: int
  """Images for evaluation and copies of members: resident, and no part of the step."""

  @property
  def total(self) -> int:
    """All of it."""
    return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """A compiled step on devices of one kind."""

  config: str
  """What the command line calls the config."""
  topology: str
  """What it calls the devices."""
  device_kind: str
  """What JAX calls them."""
  devices: int
  """How many the mesh has."""
  hosts: int
  """How many processes they belong to."""
  batch_size: int
  """Images of all devices."""
  images_each: int
  """Images of one device."""
  steps: int
  """Of a dispatch."""
  seconds: float
  """That the compilation took here."""
  members: Mapping[str, tuple[int, int]]
  """Group -> (number of members, parameters of each)."""
  memory: Memory
  """Bytes on one device."""
  capacity: int
  """Published bytes of a device."""
  flops: float
  """Of a step, on all devices; 0: XLA does not tell."""
  images: tuple[int, ...]
  """Shape of the training images: (N, H, W, 3)."""
  tables: Sequence[tuple[int, ...]]
  """Shapes of the method's tables of the training examples, whole."""
  program: Sequence[_hlo.Instruction]
  """The optimised program of one device."""


def table(report: Report) -> str:
  """Returns the report in lines of two columns."""
  rows = [
    ("devices", _devices(report)),
    ("dispatch", _dispatch(report)),
    ("compiled in", f"{report.seconds:.1f} s"),
  ]
  for name, (count, parameters) in report.members.items():
    rows.append((f"parameters of {name}", f"{count} x {parameters:,}"))
  rows += _memory(report)
  rows += _work(report)
  rows += _findings(report)
  width = max(len(label) for label, _ in rows)
  lines = [f"{report.config} on {report.topology}"]
  lines += [f"  {label:<{width}}  {value}" for label, value in rows]
  return "\n".join(lines)


def _counted(number: int, noun: str) -> str:
  return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _devices(report: Report) -> str:
  hosts = _counted(report.hosts, "host")
  return f"{report.devices} x {report.device_kind} on {hosts}"


def _dispatch(report: Report) -> str:
  steps = _counted(report.steps, "step")
  return f"{steps} of {report.batch_size} images, {report.images_each} on a device"


def _memory(report: Report) -> list[tuple[str, str]]:
  """Returns the rows about the memory of a device."""
  memory = report.memory
  parts = {
    "state and training images": memory.arguments,
    "results": memory.outputs,
    "temporaries": memory.temporaries,
    "program": memory.code,
    "evaluation images, copies": memory.beside,
  }
  rows = [(label, in_units(number)) for label, number in parts.items()]
  percent = 100 * memory.total / report.capacity
  total = f"{in_units(memory.total)} of {in_units(report.capacity)} ({percent:.1f} %)"
  return [*rows, ("memory of a device", total)]


def _work(report: Report) -> list[tuple[str, str]]:
  """Returns the rows about the work of a step on a device."""
  together = report.flops / 1e9
  each = together / report.devices
  work = "not told by XLA"
  if together:
    work = f"{together:,.4g} GFLOPs a step, {each:,.4g} on a device"
  rows = [("work", work)]
  cycles = _hlo.estimated_cycles(report.program)
  if cycles:
    rows.append(("estimated cycles", f"{cycles:,}, loops once, branches all"))
  return rows


def _findings(report: Report) -> list[tuple[str, str]]:
  """Returns the rows about what the program has in it."""
  rows = []
  for kind, found in _hlo.collectives(report.program).items():
    rows.append(
      (
        kind,
        f"{found.count}, {in_units(found.bytes)} in all, largest "
        f"{in_units(found.largest)}",
      )
    )
  if not rows:
    rows.append(("collectives", "none"))
  convolutions = _hlo.convolutions(report.program)
  rows.append(("convolutions", f"{convolutions.count}, {convolutions.grouped} grouped"))
  rows.append(("data set", _data_set(report)))
  if report.tables:
    found = "not gathered"
    if tables_gathered(report.program, report.tables):
      found = "GATHERED whole in every step"
    rows.append(("tables", found))
  return rows


def _data_set(report: Report) -> str:
  """Returns what happens to the training images in a dispatch."""
  copies = _hlo.makers(report.program, "u8", report.images)
  if not copies:
    return "neither copied nor gathered"
  opcodes = ", ".join(sorted({copy.opcode for copy in copies}))
  size = in_units(math.prod(report.images))
  return f"COPIED as a whole in every dispatch: {size} by {opcodes}"


def tables_gathered(
  program: Sequence[_hlo.Instruction], tables: Sequence[tuple[int, ...]]
) -> bool:
  """Tells whether a collective returns one of the method's tables whole.

  Args:
    program: the optimised program of one device.
    tables: shapes of the tables.
  """
  for instruction in program:
    if instruction.opcode.removesuffix("-start") not in _hlo.COLLECTIVES:
      continue
    shapes = {shape for _, shape in _hlo.arrays(instruction.type)}
    if shapes & set(tables):
      return True
  return False


def require_fits(report: Report) -> None:
  """Refuses what needs more memory than a device has.

  Raises:
    ConfigError: with both numbers and the largest part.
  """
  memory = report.memory
  if memory.total > report.capacity:
    raise ConfigError(
      f"{report.config} does not fit on {report.topology}: a device needs "
      f"{in_units(memory.total)} and has {in_units(report.capacity)}; "
      f"{in_units(memory.arguments + memory.beside)} are data and state, "
      f"{in_units(memory.temporaries)} temporaries: {TAKE_LESS}"
    )
