"""The documentation is run as it stands, and names only what exists."""

import re

import pytest

from jaxdistill.__main__ import COMMANDS
from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.run.build import build
from jaxdistill.run.config import load_config
from jaxdistill.run.config_files import packaged_configs
from jaxdistill.run.study import cells_of, load_study, select
from tests.docs import pages
from tests.helpers import runs

PAGES = pages.all_pages()
RUNNABLE = [page for page in PAGES if pages.blocks(page, "python")]
TRAINING = {"jaxdistill.main", "jaxdistill"}


def every(collect):
  """Parameters: every page with each thing that `collect` finds on it."""
  parameters = []
  for page in PAGES:
    for thing in dict.fromkeys(collect(page)):
      label = thing if isinstance(thing, str) else " ".join(thing.arguments)
      parameters.append(pytest.param(thing, id=f"{pages.name_of(page)}: {label}"))
  return parameters


def config_files(page):
  """Config files that a page names, in commands or in the text."""
  return re.findall(r"configs/\w+\.py", page.read_text())


def config_arguments(page):
  """Config files with their argument that a page names."""
  return re.findall(r"configs/\w+\.py:[\w,]*\w", page.read_text())


def repository_files(page):
  """Files and folders of the repository that a page names in backquotes."""
  roots = "jaxdistill|tests|benchmarks|docs|launch|studies"
  return [
    text
    for text in pages.inline_code(page)
    if re.fullmatch(rf"({roots})/[\w./]*", text)
  ]


def links(page):
  """Targets of a page's relative links and figures, below the repository's root."""
  folder = page.parent.relative_to(runs.ROOT)
  targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", pages.prose(page))
  return [str(folder / target) for target in targets if "://" not in target]


def anchors(page):
  """A page's links to headings: page below the repository's root, and the anchor."""
  folder = page.parent.relative_to(runs.ROOT)
  targets = re.findall(r"\]\(([\w/.]+#[\w-]+)\)", pages.prose(page))
  return [str(folder / target) for target in targets]


def training_commands(page):
  """Commands that train with a config of the repository, by its path or its name."""
  studies = study_commands(page)
  found = []
  for command in pages.commands(page):
    path = config_of(command)
    known = path.startswith("configs/") or path.partition(":")[0] in packaged_configs()
    if command.module in TRAINING and command not in studies and known:
      found.append(command)
  return found


def study_commands(page):
  """Commands that run a study."""
  found = []
  for command in pages.commands(page):
    if command.module == "jaxdistill" and command.arguments[:1] == ("study",):
      found.append(command)
  return found


def config_of(command):
  """What `--config` of a command is; "" without it."""
  for argument in command.arguments:
    if argument.startswith("--config="):
      return argument.removeprefix("--config=")
  return ""


def overrides_of(command):
  """The `key=value` of a command's `--config.key=value`."""
  return [
    argument.removeprefix("--config.")
    for argument in command.arguments
    if argument.startswith("--config.")
  ]


@pytest.fixture
def own_files(workplace):
  """Writes the modules that pages show, without running anything."""
  for page in RUNNABLE:
    for source in pages.blocks(page, "python"):
      first, _, _ = source.partition("\n")
      if re.fullmatch(r"# \w+\.py", first):
        (workplace / first.removeprefix("# ")).write_text(source)
  return workplace


def test_no_two_pages_show_a_file_of_one_name():
  files = []
  for page in RUNNABLE:
    for source in pages.blocks(page, "python"):
      files += re.findall(r"\A# (\w+\.py)\n", source)
  assert files
  assert len(files) == len(set(files))


def runnable_pages():
  """Every page but the README; those that train are slow."""
  for page in RUNNABLE:
    if page.name == "README.md":
      continue
    trains = any("train(" in source for source in pages.blocks(page, "python"))
    marks = [pytest.mark.slow] if trains else []
    yield pytest.param(page, id=pages.name_of(page), marks=marks)


@pytest.mark.parametrize("page", list(runnable_pages()))
def test_python_blocks_run(page, workplace):
  pages.run(page, workplace)


@pytest.mark.parametrize("path", every(config_files))
def test_config_files_exist(path):
  assert (runs.ROOT / path).is_file()


@pytest.mark.parametrize("path", every(config_arguments))
def test_configs_take_the_arguments_that_pages_give_them(path, monkeypatch):
  monkeypatch.chdir(runs.ROOT)
  load_config(path)


@pytest.mark.parametrize("path", every(repository_files))
def test_files_of_the_repository_exist(path):
  assert (runs.ROOT / path).exists()


@pytest.mark.parametrize("path", every(links))
def test_links_lead_somewhere(path):
  assert (runs.ROOT / path).exists()


@pytest.mark.parametrize("target", every(anchors))
def test_anchors_name_headings(target):
  path, _, anchor = target.partition("#")
  headings = re.findall(r"^#+ (.*)$", pages.prose(runs.ROOT / path), re.MULTILINE)
  slugs = [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]
  assert anchor in slugs


@pytest.mark.parametrize("command", every(training_commands))
def test_training_commands_have_keys_that_exist(command, own_files, monkeypatch):
  monkeypatch.chdir(runs.ROOT)
  config = load_config(config_of(command), overrides_of(command))
  # Where the data is at hand, or a user's own code takes part, everything is built.
  if config.data.name == "digits" or config.data.name.startswith("my_"):
    build(config)


@pytest.mark.parametrize("command", every(study_commands))
def test_studies_of_pages_are_valid_and_have_what_is_chosen(command, own_files):
  found = load_study(config_of(command), overrides_of(command))
  patterns = [a.removeprefix("--only=") for a in command.arguments if "--only=" in a]
  assert list(select(cells_of(found, own_files), patterns))


@pytest.mark.parametrize("page", PAGES, ids=pages.name_of)
def test_commands_exist(page):
  known = {"jaxdistill", "jaxdistill.main", "pytest", "venv"}
  for command in pages.commands(page):
    assert command.module in known, command
    if command.module == "jaxdistill" and command.arguments:
      assert command.arguments[0] in {*COMMANDS, "COMMAND"}, command


@pytest.mark.parametrize("page", PAGES, ids=pages.name_of)
def test_imports_from_the_package_are_public(page):
  for source in pages.blocks(page, "python"):
    for module in re.findall(r"(?:from|import) (jaxdistill[\w.]*)", source):
      assert not any(part.startswith("_") for part in module.split(".")), module


def test_methods_named_on_their_page_exist():
  text = (runs.ROOT / "docs" / "methods.md").read_text()
  for heading in re.findall(r"^## (`.*`.*)$", text, re.MULTILINE):
    for name in re.findall(r"`([\w.]+)`", heading):
      assert registry.find("methods", name)


def test_networks_named_on_their_page_exist():
  text = (runs.ROOT / "docs" / "networks.md").read_text()
  _, _, after = text.partition("| name | what it is |")
  table, _, _ = after.partition("\n\n")
  rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
  assert rows
  available = set(registry.list_available("models"))
  for row in rows:
    names = re.findall(r"`([\w.]+)`", row)
    family = names[0].split(".")[0]
    for name in names:
      assert {name, f"{family}.{name}"} & available, name


@pytest.mark.parametrize(
  ["key", "kind"],
  [("optimizer.name", "optimizers"), ("optimizer.schedule", "schedules")],
)
def test_optimisers_and_schedules_named_on_the_page_of_networks_exist(key, kind):
  text = (runs.ROOT / "docs" / "networks.md").read_text()
  (row,) = re.findall(rf"^\| `{key}` \| (.*) \|$", text, re.MULTILINE)
  names = [name for name in re.findall(r"`([\w:.]+)`", row) if ":" not in name]
  assert set(names) <= set(registry.list_available(kind))


def test_a_key_that_does_not_exist_would_be_found(own_files, monkeypatch):
  monkeypatch.chdir(runs.ROOT)
  with pytest.raises(ConfigError, match="lerning_rate"):
    load_config("configs/digits_competitive.py", ["optimizer.lerning_rate=1.0"])
