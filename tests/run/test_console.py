"""What a run prints."""

import numpy as np
import pytest

from jaxdistill.data import Ranking
from jaxdistill.engine.measures import MEASURES
from jaxdistill.engine.retrieval import RATES, retrieval
from jaxdistill.run.console import Console, with_model


@pytest.mark.parametrize(
  "name, model, shown",
  [
    ("convnet", "small.convnet", "convnet"),
    ("convnet.1", "small.convnet", "convnet.1"),
    ("vit", "vit.vit_b", "vit"),
    ("mine", "my_networks:mine", "mine"),
    ("resnet8.0", "vgg.vgg19", "resnet8.0 (vgg.vgg19)"),
    ("resnet8", "resnet_cifar.resnet20", "resnet8 (resnet_cifar.resnet20)"),
    ("student", "resnet_cifar.resnet32", "student (resnet_cifar.resnet32)"),
  ],
)
def test_a_network_stands_behind_a_name_that_does_not_say_it(name, model, shown):
  assert with_model(name, model) == shown


def test_an_evaluation_is_a_line(capsys):
  row = {measure.name: 0.5 for measure in MEASURES}
  for loss in (0.25, None):
    Console().evaluation(
      step=21,
      total=40,
      epoch=5.25,
      loss=loss,
      images_per_second=1234.5,
      rows={"resnet8.0": row},
    )
  line = "step 21/40 epoch 5.25  test top-1 %  resnet8.0 50.00"
  assert capsys.readouterr().out.splitlines() == [
    f"{line}  (loss 0.2500, 1,234 images/s)",
    f"{line}  (loss -, 1,234 images/s)",
  ]


def test_an_evaluation_of_a_search_is_a_line_too(capsys):
  nothing = np.zeros(1)
  task = retrieval(Ranking(nothing, nothing, nothing))
  row = {rate.name: 0.5 for rate in RATES}
  Console().evaluation(
    step=1,
    total=2,
    epoch=1.0,
    loss=None,
    images_per_second=1.0,
    rows={"resnet8.0": row},
    task=task,
  )
  member = {"last": row, "best": {"step": 1, **row}, "parameters": 10, "model": "vgg"}
  summary = {
    "method": "dml",
    "steps": 4,
    "select_on": "test",
    "members": {"resnet8.0": member},
    "predictions": [],
  }
  Console().closing_table(summary, (), "runs/here", 1.0, task)
  line, title, *table = capsys.readouterr().out.splitlines()
  assert "test Rank-1 %  resnet8.0 50.00" in line
  assert "Rank-1 on the test split" in title
  headings = next(each for each in table if "last" in each)
  assert "mAP %" in headings and "NLL" not in headings


def test_the_progress_bar_shows_loss_and_rate(monkeypatch, capsys):
  monkeypatch.setenv("TTY_COMPATIBLE", "1")
  monkeypatch.setenv("FORCE_COLOR", "1")
  monkeypatch.setenv("COLUMNS", "80")
  console = Console()
  with console.progress(0, 78200):
    console.advance(40100, 12345.0, loss=0.25)
  assert " steps loss 0.2500 12,345 images/s " in capsys.readouterr().out


def test_the_closing_table_names_the_networks(capsys):
  row = {measure.name: 0.5 for measure in MEASURES}
  member = {"last": row, "best": {"step": 3, **row}, "parameters": 10}
  members = {
    "convnet.0": {**member, "model": "small.convnet"},
    "resnet8.0": {**member, "model": "vgg.vgg19"},
  }
  summary = {
    "method": "dml",
    "steps": 4,
    "select_on": "test",
    "members": members,
    "predictions": [],
  }
  Console().closing_table(summary, (), "runs/here", 1.0)
  said = capsys.readouterr().out
  assert "convnet.0  " in said and "resnet8.0 (vgg.vgg19)" in said
  assert "small.convnet" not in said
