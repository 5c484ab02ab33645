"""A study, and a run, as if they had been trained: files made of chosen numbers."""

import json
import math

from jaxdistill.run.manifest import write_json

MEMBERS = ("net.0", "net.1")

NETWORKS = {"net": {"model": "small.convnet", "members": 2}}


def row(name, method, control, **changes):
  """A row of results.json."""
  described = {
    "name": name,
    "method": method,
    "control": control,
    "reference": False,
    "perturbed": False,
    "cohort": NETWORKS,
    "data": "digits",
    "published": {},
  }
  return {**described, **changes}


def record(value):
  """What is kept of a member: its last accuracy, and a best one that is higher."""
  return {"last": {"top1": value, "nll": 1.0}, "best": {"top1": value + 0.01}}


def cell(row_name, seed, *values, seconds=0.1):
  """A finished run, whose members have these accuracies and their mean as ensemble."""
  members = dict(zip(MEMBERS, [record(value) for value in values], strict=True))
  return {
    "name": f"{row_name}/seed{seed}",
    "row": row_name,
    "method": "any",
    "seed": seed,
    "members": members,
    "ensemble": record(sum(values) / len(values)),
    "predictions": {},
    "steps": 40,
    "seconds_per_step": seconds,
    "digest": "0" * 64,
  }


def write_study(folder, rows, cells, **changes):
  """Writes results.json; returns the folder."""
  folder.mkdir(parents=True, exist_ok=True)
  found = {
    "title": "A <small> study",
    "about": "Who is better?",
    "rows": rows,
    "cells": cells,
    "versions": {"jaxdistill": "0.1"},
  }
  write_json(folder / "results.json", {**found, **changes})
  return folder


def small_study(folder, seeds=5):
  """A study in which `rivals` beats its control by a point, and `peers` does not."""
  rows = [
    row("alone", "apart", "alone"),
    row("alone+", "apart", "alone+", perturbed=True),
    row("peers", "mutual", "alone", reference=True),
    row("rivals", "contest", "alone+", perturbed=True, published={"net": 0.75}),
  ]
  cells = []
  for seed in range(seeds):
    level = 0.6 + 0.02 * seed
    cells += [
      cell("alone", seed, level, level + 0.02),
      cell("alone+", seed, level + 0.01, level + 0.03, seconds=0.2),
      cell("peers", seed, level + 0.01 * (-1) ** seed, level + 0.02, seconds=0.15),
      cell("rivals", seed, level + 0.03, level + 0.03, seconds=0.3),
    ]
  return write_study(folder, rows, cells)


def write_metrics(workdir, *, contest=True, windows=10):
  """Writes the metrics of 40 steps: net.0 teaches first, net.1 from the middle on."""
  lines = []
  for window in range(1, windows + 1):
    step = 40 * window // windows
    late = window > windows / 2
    line = {
      "step": step,
      "epoch": float(window),
      "split": "train",
      "ce/net.0": 2 * math.exp(-0.1 * window),
      "ce/net.1": 2.4 * math.exp(-0.2 * window),
      "top1/net.0": 0.05 * window,
      "top1/net.1": 0.06 * window,
    }
    if contest:
      line["wins/net.0"] = 0.25 + 0.5 * (not late)
      line["wins/net.1"] = 0.25 + 0.5 * late
    line["images_per_second"] = 640.0
    lines.append(line)
    test = {"step": step, "epoch": float(window), "split": "test"}
    for name in (*MEMBERS, "ensemble"):
      test[f"top1/{name}"] = 0.06 * window
    lines.append(test)
  workdir.mkdir(parents=True, exist_ok=True)
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (workdir / "metrics.jsonl").write_text(text)


def write_evaluation(workdir, *, noise=True):
  """Writes what the command `evaluate` would."""
  names = (*MEMBERS, "ensemble")
  measures = {"top1": 0.7, "ece": 0.05, "nll": 0.9, "brier": 0.4}
  empty = {"confidence": None, "accuracy": None, "count": 0}
  bins = [empty] * 8
  bins.append({"confidence": 0.85, "accuracy": 0.75, "count": 40})
  bins.append({"confidence": 0.95, "accuracy": 0.9, "count": 60})
  evaluation = {
    "format": 1,
    "weights": "last",
    "split": "test",
    "members": {name: measures for name in MEMBERS},
    "predictions": {"ensemble": measures},
    "agreement": {
      "members": list(MEMBERS),
      "same_class": [[1.0, 0.8], [0.8, 1.0]],
      "kl": [[0.0, 0.3], [0.4, 0.0]],
    },
    "reliability": {name: bins for name in names},
    "noise": None,
  }
  if noise:
    evaluation["noise"] = {
      "std": [0.0, 0.05, 0.1],
      "draws": 10,
      "top1": {name: [0.7, 0.6, 0.5] for name in names},
    }
  write_json(workdir / "evaluation.json", evaluation)


def write_run(workdir):
  """Writes a finished run with its metrics and evaluation; returns its folder."""
  write_metrics(workdir)
  write_evaluation(workdir)
  members = {}
  for name in MEMBERS:
    members[name] = {**record(0.7), "model": "small.convnet", "parameters": 100}
  summary = {
    "members": members,
    "ensemble": record(0.72),
    "predictions": ["ensemble"],
    "method": "contest",
    "data": "digits",
    "seed": 3,
    "steps": 40,
    "config_digest": "0" * 64,
  }
  write_json(workdir / "summary.json", summary)
  config = {"batch_size": 64}
  write_json(
    workdir / "config.json",
    {"version": 1, "config": config, "digests": [], "versions": {"jax": "0.10"}},
  )
  return workdir
