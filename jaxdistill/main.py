"""Trains a cohort from a config file.

    python -m jaxdistill.main --config=configs/digits_competitive.py --config.epochs=5 --workdir=runs/try

`--config.any.key=value` overrides a key of the config. The same command with the same workdir resumes.
"""

from pathlib import Path
import signal
import sys
import time

from absl import flags

from jaxdistill.errors import ConfigError, run_command

_CONFIG = flags.DEFINE_string("config", None, "Config file; override any key with --config.<key>=<value>.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run writes; default runs/<config>/<time>.")
_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def _stop_on_signals():
  """Turns the first SIGTERM or Ctrl-C into a request to save and stop; the second one kills."""
  asked = []
  def ask(number, frame):
    del frame
    asked.append(number)
    signal.signal(number, signal.SIG_DFL)
    print("jaxdistill: stopping: the state is saved after the current step; once more stops at once", file=sys.stderr)
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, ask)
  return lambda: bool(asked)


def _help() -> str:
  from jaxdistill import registry
  lists = [f"{kind}: {', '.join(registry.list_available(kind))}" for kind in registry.PACKAGES]
  return "\n\n".join([__doc__.strip(), flags.FLAGS.main_module_help().strip(), *lists])


def run(argv: list[str]) -> None:
  """Parses the command line and trains."""
  if {"-h", "--help"} & set(argv):
    print(_help())
    return
  try:
    rest = flags.FLAGS(argv, known_only=True)[1:]
  except flags.Error as error:
    raise ConfigError(f"command line: {error}") from error
  prefix = "--config."
  unknown = [arg for arg in rest if not arg.startswith(prefix)]
  if unknown or not _CONFIG.value:
    raise ConfigError(f"command line: {f'unknown argument {unknown[0]!r}' if unknown else 'no --config given'}: "
                      "python -m jaxdistill.main --config=FILE [--config.KEY=VALUE ...] [--workdir=DIR]")
  # Imported late: they pull in jax, and a wrong command line should be told at once.
  from jaxdistill import config as config_lib
  from jaxdistill import sharding, trainer
  sharding.keep_order_on_cpu()
  config = config_lib.load(_CONFIG.value, [arg.removeprefix(prefix) for arg in rest])
  workdir = _WORKDIR.value or f"runs/{Path(_CONFIG.value).stem}/{time.strftime('%Y%m%d-%H%M%S')}"
  trainer.train(config, workdir, stop=_stop_on_signals())


def main() -> int:
  """Runs the command line; returns the exit code."""
  return run_command(lambda: run(sys.argv), debug=lambda: flags.FLAGS.is_parsed() and _DEBUG.value)


if __name__ == "__main__":
  sys.exit(main())
