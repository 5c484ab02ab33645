"""Tells what the time of a train step on a CPU is spent on.

    taskset -c 1 python benchmarks/step_profile.py --config.perturb.every=10
    taskset -c 1 python benchmarks/step_profile.py --torch --top=20

To be run on one core, where nothing runs beside anything else, so that the time of an
operation is its own. Every operation of XLA's program is put under one kind by its
opcode, by what is fused into it and by where in the program it was written. What XLA
fuses counts as a whole. `--torch` profiles the same step in eager PyTorch instead,
whose operations have kinds of their own. Flags of `benchmarks/step.py` hold here, the
first of `--variants` is profiled.
"""

import collections
from pathlib import Path
import re
import tempfile

from absl import app, flags
import step

_STEPS = flags.DEFINE_integer("steps", 3, "Steps that are traced.")
_TOP = flags.DEFINE_integer("top", 0, "How many single operations are told as well.")

_NAME = re.compile(r'op_name="([^"]*)"')
_CALLS = re.compile(r"(?:calls|to_apply)=%?([\w.-]+)")

_MOVING = {
  "bitcast",
  "broadcast",
  "concatenate",
  "constant",
  "convert",
  "copy",
  "dynamic-slice",
  "dynamic-update-slice",
  "gather",
  "iota",
  "pad",
  "parameter",
  "reshape",
  "reverse",
  "slice",
  "transpose",
  "tuple",
}
_PRODUCTS = {"convolution", "dot"}

# Part of the name of an operation of PyTorch -> kind.
_OF_TORCH = {
  "convolution_backward": "convolutions, gradients",
  "convolution": "convolutions, forward",
  "batch_norm_backward": "batch norm, backward",
  "batch_norm": "batch norm, forward",
}


class Program:
  """What XLA made of a step, to tell what its operations are."""

  def __init__(self, text: str):
    from jaxdistill.tools import _hlo

    self._by_name = {}
    self._opcodes = collections.defaultdict(set)
    for instruction in _hlo.parse(text):
      self._by_name[instruction.name] = instruction
      self._opcodes[instruction.computation].add(instruction.opcode)

  def kind(self, name: str) -> str:
    """Returns what an operation is done for."""
    instruction = self._by_name.get(name)
    if instruction is None:
      return "between operations"
    found = _NAME.search(instruction.rest)
    written = ""
    if found:
      written = found[1]
    opcodes = {instruction.opcode}
    if instruction.opcode == "fusion":
      for computation in _CALLS.findall(instruction.rest):
        opcodes |= self._opcodes[computation]
      opcodes.discard("fusion")
    if "_kernel_gradient" in written:
      if opcodes & _PRODUCTS:
        return "convolutions, kernel gradients"
      return "kernel gradients, copies and sums of parts"
    direction = "forward"
    if "transpose(" in written:
      direction = "backward"
    if opcodes & _PRODUCTS:
      names = {"forward": "forward", "backward": "input gradients"}
      return f"convolutions, {names[direction]}"
    if "jvp(" not in written:
      return "views, losses, optimiser, rest"
    if opcodes <= _MOVING:
      return f"copies, {direction}"
    if opcodes & {"reduce", "reduce-window"}:
      return f"sums over a map (batch norm), {direction}"
    return f"by element (batch norm, ReLU, +), {direction}"


def own_times(events):
  """Returns name -> time in which none of the events inside another one ran.

  Args:
    events: (start, end, name) of one thread.
  """
  times = collections.Counter()
  open_events = []
  for start, end, name in sorted(events, key=lambda event: (event[0], -event[1])):
    while open_events and open_events[-1][0] <= start:
      open_events.pop()
    times[name] += end - start
    if open_events:
      times[open_events[-1][1]] -= end - start
    open_events.append((end, name))
  return times


def profile_jax(config):
  """Returns operation -> ms of a step, and the operations' kinds."""
  import jax

  variant = step.jax_variant(config, step._VARIANTS.value[0])
  variant.run()
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(_STEPS.value):
        variant.run()
    [path] = Path(folder).rglob("*.xplane.pb")
    trace = jax.profiler.ProfileData.from_file(str(path))
    times = collections.Counter()
    for plane in trace.planes:
      for line in plane.lines:
        events = []
        for event in line.events:
          name = dict(event.stats).get("hlo_op")
          if name:
            events.append((event.start_ns, event.end_ns, name))
        times.update(own_times(events))
  program = Program(variant.program)
  per_step = _STEPS.value * variant.steps
  return {
    name: (time / 1e6 / per_step, program.kind(name)) for name, time in times.items()
  }


def profile_torch(config):
  """Returns operation -> ms of a step, and the operations' kinds."""
  import torch
  import torch_step

  run, *_ = torch_step.variant(config, step.NUM_CLASSES, step.EXAMPLES)
  run()
  with torch.profiler.profile(
    activities=[torch.profiler.ProfilerActivity.CPU]
  ) as found:
    for _ in range(_STEPS.value):
      run()
  operations = {}
  for event in found.key_averages():
    kind = "everything else"
    for part, own_kind in _OF_TORCH.items():
      if part in event.key:
        kind = own_kind
        break
    operations[event.key] = (event.self_cpu_time_total / 1e3 / _STEPS.value, kind)
  return operations


def main(argv):
  config = step.read_config([arg.removeprefix("--config.") for arg in argv[1:]])
  if step._TORCH.value:
    operations = profile_torch(config)
  else:
    operations = profile_jax(config)
  by_kind = collections.Counter()
  for ms, kind in operations.values():
    by_kind[kind] += ms
  total = by_kind.total()
  print(f"{'kind':46} {'ms/step':>8} {'share':>6}")
  for kind, ms in sorted(by_kind.items(), key=lambda item: -item[1]):
    print(f"{kind:46} {ms:8.1f} {100 * ms / total:5.1f}%")
  print(f"{'in all':46} {total:8.1f}")
  largest = sorted(operations.items(), key=lambda item: -item[1][0])
  for name, (ms, kind) in largest[: _TOP.value]:
    print(f"{name:60} {ms:8.2f}  {kind}")


if __name__ == "__main__":
  from jaxdistill.run import kept_memory

  kept_memory.restart_with_it()
  app.run(main, flags_parser=lambda argv: flags.FLAGS(argv, known_only=True))
