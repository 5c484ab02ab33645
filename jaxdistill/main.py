"""Trains a cohort from a config file.

    python -m jaxdistill.main --config=configs/digits_competitive.py --workdir=runs/try

A config that comes with the package may be named without its folder and ending, as in
`--config=digits_competitive`. `--config.any.key=value` overrides a key of the config,
such as `--config.epochs=5`. The same command with the same workdir resumes.
"""

from collections.abc import Sequence
import sys
import time
import traceback

from absl import flags

from jaxdistill.errors import ConfigError, run_command
from jaxdistill.run import background, hosts, kept_memory, signals
from jaxdistill.run.assignments import assignments

_CONFIG = flags.DEFINE_string(
  "config",
  None,
  "Config file, or the name of one that comes with the package; override any key with "
  "--config.<key>=<value>.",
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Where the run writes; default runs/<config>/<time>."
)
_FORK = flags.DEFINE_string(
  "fork", None, "Workdir of another run, whose newest state a new run starts from."
)
_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")

_USAGE = (
  "python -m jaxdistill.main --config=FILE [--config.KEY=VALUE ...] [--workdir=DIR]"
)


def _help() -> str:
  from jaxdistill.core import registry
  from jaxdistill.run.config_files import packaged_configs

  parts = [(__doc__ or "").strip(), flags.FLAGS.main_module_help().strip()]
  parts.append(f"configs: {', '.join(packaged_configs())}")
  for kind in registry.KINDS:
    parts.append(f"{kind}: {', '.join(registry.list_available(kind))}")
  return "\n\n".join(parts)


def run(argv: Sequence[str]) -> None:
  """Parses the command line and trains.

  Args:
    argv: arguments after the program's name.
  """
  if {"-h", "--help"} & set(argv):
    print(_help())
    return
  try:
    rest = flags.FLAGS(["jaxdistill", *argv], known_only=True)[1:]
  except flags.Error as error:
    raise ConfigError(f"command line: {error}") from error
  changes = assignments(rest, _USAGE)
  if not _CONFIG.value:
    raise ConfigError(
      f"command line: no --config given: {_USAGE}; python -m jaxdistill configs lists "
      "those that come with the package"
    )
  # Before JAX has a device.
  hosts.connect()
  with hosts.together():
    _train(_CONFIG.value, changes)


def _train(path: str, changes: Sequence[str]) -> None:
  """Trains as the flags say, in one process or in each of several.

  Args:
    path: config file, or the name of one.
    changes: what overrides the config, each as `key=value`.
  """
  # Imported late: they pull in jax, and a wrong command line should be told at once.
  from jaxdistill.engine import sharding
  from jaxdistill.run import trainer
  from jaxdistill.run.config import load_config
  from jaxdistill.run.config_files import find_config

  several = hosts.several()
  sharding.keep_order_on_cpu(several)
  hosts.require_devices()
  config = load_config(path, changes)
  now = hosts.from_first(time.strftime("%Y%m%d-%H%M%S"))
  default_workdir = f"runs/{find_config(path).run_name}/{now}"
  workdir = _WORKDIR.value or default_workdir
  stop = signals.stop_together() if several else signals.stop_on_signals()
  trainer.train(config, workdir, fork=_FORK.value, stop=stop)


def main(argv: Sequence[str]) -> int:
  """Runs the command line; returns the exit code.

  Args:
    argv: arguments after the program's name.
  """
  try:
    code = run_command(
      lambda: run(argv), debug=lambda: flags.FLAGS.is_parsed() and _DEBUG.value
    )
  except Exception as error:
    if not hosts.joined():
      raise
    traceback.print_exc()
    code = getattr(error, "exit_code", 1)
  hosts.leave(code)
  return background.leave(code)


if __name__ == "__main__":
  kept_memory.restart_with_it()
  sys.exit(main(sys.argv[1:]))
