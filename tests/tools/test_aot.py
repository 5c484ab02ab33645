"""Compiling for devices that are not there: what is refused, and what is told."""

import dataclasses
import importlib.metadata
import re
import subprocess
import sys

import jax
import pytest

from jaxdistill import __main__ as commands
from jaxdistill.errors import ConfigError
from jaxdistill.tools import _aot_report, _hlo, aot
from tests.helpers import runs

GIB = 2**30
CONFIG = "--config=digits_baselines:independent"
V5E = "--topology=v5e:2x2"

REPORT = _aot_report.Report(
  config="pair",
  topology="v5e:2x2",
  device_kind="TPU v5 lite",
  devices=4,
  hosts=1,
  batch_size=128,
  images_each=32,
  steps=10,
  seconds=18.25,
  members={"resnet8": (2, 81_140)},
  memory=_aot_report.Memory(
    arguments=2 * GIB, outputs=512, temporaries=GIB, code=GIB // 2, beside=GIB // 2
  ),
  capacity=16 * GIB,
  flops=4e9,
  images=(2000, 8, 8, 3),
  tables=[(2000, 2, 10)],
  program=(),
)


def error_of(arguments, capsys):
  """Returns the one line that the command ends with, which is code 2."""
  assert commands.main(["aot", *arguments]) == 2
  captured = capsys.readouterr()
  assert captured.out == ""
  (line,) = captured.err.splitlines()
  assert len(line) <= 330
  return line


@pytest.fixture
def nothing_installed(monkeypatch):
  """No optional dependency is there."""

  def version(package):
    raise importlib.metadata.PackageNotFoundError(package)

  monkeypatch.setattr(importlib.metadata, "version", version)


@pytest.mark.parametrize("name", ["v9:2x2", "h100", "", "tpu:2x2"])
def test_a_topology_nobody_knows_is_refused_with_those_known(name, capsys):
  said = error_of([CONFIG, f"--topology={name}"], capsys)
  if not name:
    assert "no --topology given" in said
    return
  assert repr(name) in said
  for known in ("v4:2x2x2", "v5e:4x4", "h100:2x4"):
    assert known in said


@pytest.mark.parametrize(
  "name", ["v5e:4", "v4:2x2", "v5e:0x2", "v5e:2xx2", "h100:1x2x4", "v5e:999x999"]
)
def test_a_shape_that_the_devices_cannot_have_is_refused(name, capsys):
  said = error_of([CONFIG, f"--topology={name}"], capsys)
  assert f"{name!r} needs" in said


@pytest.mark.parametrize("name", ["v5e:3x5", "v5e:2x1", "v4:2x3x2"])
def test_a_shape_that_splits_a_host_is_refused_in_our_words(name, capsys):
  said = error_of([CONFIG, f"--topology={name}"], capsys)
  assert f"{name!r} is not made of hosts with 2x2 chips: take even numbers" in said


@pytest.mark.parametrize(
  "topology, package, extra",
  [("v5e:2x2", "libtpu", "tpu"), ("h100:2x4", "jax-cuda12-plugin", "cuda12")],
)
def test_an_extra_that_is_missing_is_told_with_its_command(
  nothing_installed, topology, package, extra, capsys
):
  said = error_of([CONFIG, f"--topology={topology}"], capsys)
  assert f"{package}, which is not installed" in said
  assert f"pip install 'jaxdistill[{extra}]'" in said


@pytest.mark.parametrize(
  "arguments, told",
  [
    ([V5E], "no --config given"),
    ([CONFIG, V5E, "--examples=5,2"], "give all three"),
    ([CONFIG, V5E, "--config.epochs"], "--config.epochs has no value"),
    ([CONFIG, V5E, "--epochs=3"], "unknown argument '--epochs=3'"),
    (["--config=digits_basel", V5E], "there is no config file 'digits_basel'"),
  ],
)
def test_a_wrong_command_line_is_refused_in_one_line(arguments, told, capsys):
  assert told in error_of(arguments, capsys)


@pytest.mark.parametrize(
  "flag, told",
  [
    ("--image=32", "'32' is not a pair of whole numbers above zero"),
    ("--examples=5,x", "'5,x' is not a pair of whole numbers above zero"),
    ("--classes=0", "'0' is no whole number above zero"),
  ],
)
def test_sizes_are_whole_numbers_above_zero(flag, told, capsys):
  with pytest.raises(SystemExit) as stop:
    commands.main(["aot", CONFIG, V5E, flag])
  assert stop.value.code == 2
  assert told in capsys.readouterr().err


def test_a_data_set_of_shapes_takes_no_memory():
  found = aot.shapes_only((10**9, 500), (224, 224), 1000, holdout=1000)
  assert found.train.image.shape == (10**9 - 1000, 224, 224, 3)
  assert found.holdout.label.shape == (1000,)
  assert found.train.image.base.nbytes == 1
  few = aot.shapes_only((5000, 500), (8, 8), 10, holdout=0.1, per_class=20)
  assert (len(few.train.label), len(few.holdout.label)) == (180, 20)
  with pytest.raises(ConfigError, match="examples_per_class is 9, but there are 80"):
    aot.shapes_only((80, 5), (8, 8), 10, per_class=9)
  with pytest.raises(ConfigError, match="holdout is 5, but there are 5"):
    aot.shapes_only((5, 5), (8, 8), 2, holdout=5)


def test_data_that_is_not_at_hand_may_be_told_by_its_size(monkeypatch, capsys):
  there = aot.Topology(jax.devices(), GIB)
  monkeypatch.setattr(aot, "open_topology", lambda _: there)
  config = "--config=imagenet_competitive_transformers"
  said = error_of([config, "--config.data.name=npz", V5E], capsys)
  assert "must name an npz file" in said
  assert said.endswith("--examples=1281167,50000 --image=224,224 --classes=1000")


class Uncompilable:
  """A lowered step that XLA gives up on."""

  def compile(self):
    raise jax.errors.JaxRuntimeError("INTERNAL: no tile sizes satisfy hlo\n\tmap")


def test_what_xla_cannot_compile_is_told_in_one_line():
  with pytest.raises(ConfigError, match="pair: XLA cannot compile .*no tile") as told:
    aot._compile("pair", Uncompilable())
  assert "\n" not in str(told.value)


def rows_in(text):
  """Returns label -> value of a printed table."""
  _, *lines = text.splitlines()
  return dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in lines)


def rows_of(report):
  """Returns label -> value of a report's table."""
  return rows_in(_aot_report.table(report))


def test_the_table_tells_what_fits():
  rows = rows_of(REPORT)
  assert rows["devices"] == "4 x TPU v5 lite on 1 host"
  assert rows["dispatch"] == "10 steps of 128 images, 32 on a device"
  assert rows["parameters of resnet8"] == "2 x 81,140"
  assert rows["memory of a device"] == "4 GiB of 16 GiB (25.0 %)"
  assert rows["work"] == "4 GFLOPs a step, 1 on a device"
  assert rows["collectives"] == "none"
  assert rows["data set"] == "neither copied nor gathered"
  assert rows["tables"] == "not gathered"
  _aot_report.require_fits(REPORT)


def test_the_table_tells_what_is_wrong():
  program = _hlo.parse(
    "ENTRY %main (p: u8[2000,192]) -> f32[] {\n"
    "  %copy.1 = u8[2000,192]{0,1} copy(%p)\n"
    "  %all-gather.1 = bf16[2000,2,10]{2,1,0} all-gather(%t), channel_id=1\n"
    "}\n"
  )
  rows = rows_of(dataclasses.replace(REPORT, program=program))
  copied = "COPIED as a whole in every dispatch: 375 KiB by copy"
  assert rows["data set"] == copied
  assert rows["tables"].startswith("GATHERED")
  assert rows["all-gather"] == "1, 78.1 KiB in all, largest 78.1 KiB"


def test_what_does_not_fit_is_refused_with_both_numbers():
  with pytest.raises(ConfigError, match=r"needs 4 GiB and has 3 GiB; 2.5 GiB are data"):
    _aot_report.require_fits(dataclasses.replace(REPORT, capacity=3 * GIB))


@pytest.mark.parametrize(
  "text, told",
  [
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
      "temporaries (189.43G) exceeds available HBM (15.75G).",
      "189.43G of a device, of 15.75G",
    ),
    ("Used 20.50G of 15.75G hbm. Exceeded by 4.75G.", "20.50G of a device, of 15.75G"),
    ("RESOURCE_EXHAUSTED: no more", ""),
  ],
)
def test_what_xla_says_of_a_program_that_is_too_large(text, told):
  assert told in aot.amounts(text)
  assert bool(told) == bool(aot.amounts(text))


def run_for(topology, *arguments):
  """Runs the command for a pair of small networks in a process of its own."""
  command = [sys.executable, "-m", "jaxdistill", "aot", CONFIG]
  command += [f"--topology={topology}", "--config.steps_per_dispatch=1"]
  command += ["--config.cohort.resnet8=none", *arguments]
  return subprocess.run(
    command, capture_output=True, text=True, timeout=540, cwd=runs.ROOT
  )


SHAPES = ("--examples=50000,10000", "--image=32,32", "--classes=10")
MANY = ("--examples=1000000,10000", *SHAPES[1:])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["independent", "ps_kd"])
def test_a_step_for_tpus_moves_nothing_that_may_stay(method):
  pytest.importorskip("libtpu", reason="libtpu is not installed: pip install jax[tpu]")
  options = ("--config.batch_size=32", f"--config.method.name={method}")
  result = run_for("v5e:2x2", *options, *SHAPES)
  assert result.returncode == 0, result.stderr
  rows = rows_in(result.stdout.partition("\n")[2])
  assert rows["devices"] == "4 x TPU v5 lite on 1 host"
  assert rows["convolutions"].endswith(", 0 grouped")
  assert rows["data set"] == "neither copied nor gathered"
  assert rows["all-reduce"]
  if method == "independent":
    assert "all-gather" not in rows
  else:
    # The rows of the batch, which go to where the table has them.
    assert rows["tables"] == "not gathered"
    assert rows["all-gather"] == "1, 2.5 KiB in all, largest 2.5 KiB"


@pytest.mark.slow
def test_what_xla_finds_too_large_is_refused_in_one_line():
  pytest.importorskip("libtpu", reason="libtpu is not installed: pip install jax[tpu]")
  result = run_for("v5e:1x1", "--config.batch_size=600000", *MANY)
  assert result.returncode == 2
  assert result.stderr.count("\n") == 1
  # How much it wants depends on how XLA fuses the step.
  told = re.search(
    r"does not fit: XLA wants ([\d.]+)G of a device, of 15\.75G", result.stderr
  )
  assert told
  assert float(told[1]) > 100


@pytest.mark.slow
def test_what_is_too_large_for_a_tpu_is_refused_before_it_is_compiled(capsys):
  pytest.importorskip("libtpu", reason="libtpu is not installed: pip install jax[tpu]")
  imagenet = ["--examples=1281167,50000", "--image=224,224", "--classes=1000"]
  said = error_of([CONFIG, V5E, *imagenet], capsys)
  assert "does not fit" in said
  assert "187 GiB" in said
  assert "16 GiB" in said
