"""The commands behind `python -m jaxdistill`."""

import pytest

from jaxdistill import __main__ as commands
from jaxdistill.run.config_files import packaged_configs


def test_alone_it_lists_the_commands(capsys):
  assert commands.main([]) == 0
  said = capsys.readouterr().out
  for name, command in commands.COMMANDS.items():
    assert f"  {name} " in said
    assert command.summary in said


def test_the_installed_script_takes_the_command_line(monkeypatch, capsys):
  monkeypatch.setattr("sys.argv", ["jaxdistill"])
  assert commands.script() == 0
  assert capsys.readouterr().out == f"{commands.usage()}\n"


def test_an_unknown_command_is_refused_in_one_line(capsys):
  assert commands.main(["modles"]) == 2
  said = capsys.readouterr().err
  told = "command line: there is no command 'modles'; did you mean 'models'?"
  assert said == f"jaxdistill: error: {told}\n"


def test_configs_are_listed_with_their_arguments(capsys):
  assert commands.main(["configs"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line for line in lines if not line.startswith(" ")] == list(
    packaged_configs()
  )
  position = lines.index("digits_baselines")
  title, arguments = lines[position + 1 : position + 3]
  assert title.startswith("  The baselines of digits_competitive.py")
  assert arguments == "  arguments: independent dml"


@pytest.mark.parametrize("name", sorted(commands.COMMANDS))
def test_every_command_tells_how_it_is_used(name, capsys):
  try:
    code = commands.main([name, "--help"])
  except SystemExit as stop:
    code = stop.code
  assert code == 0
  assert "python -m jaxdistill" in capsys.readouterr().out
