"""Folders of runs that nobody trained, for the tests of what is made of them."""

import json
import math
from pathlib import Path
from typing import Any

from experiments.training.metrics import Log

OPTIONS = {"heads": 4, "window": 16}


def make(
  path: Path,
  *,
  mechanism: str = "dot_product",
  options: dict[str, Any] | None = None,
  rate: float = 3e-3,
  data: str = "kjv",
  metric: str = "bits_per_byte",
  losses: tuple[float, ...] = (3.0, 1.5, 2.0),
  step_seconds: float = 0.25,
  finished: bool = True,
) -> dict[str, Any]:
  """Writes config, log and, if finished, summary; returns the summary or {}.

  `losses` are those of the validations, at the steps 10, 20, ...
  """
  path.mkdir(parents=True)
  config = {
    "mechanism": mechanism,
    "attention": OPTIONS if options is None else options,
    "optimizer": {"rate": rate, "clip": 1.0},
    "data": {"name": data, "batch": 16},
  }
  (path / "config.json").write_text(json.dumps(config))
  with Log(path, 0, say=lambda text: None) as log:
    for i, loss in enumerate(losses, start=1):
      for step in (10 * i - 5, 10 * i):
        log.write(step, "train", loss=loss + 0.1, rate=rate, tokens_per_second=14200)
      log.write(10 * i, "validation", **_numbers(metric, loss))
  if not finished:
    return {}
  summary = {
    "mechanism": mechanism,
    "host": "language",
    "data": data,
    "steps": 10 * len(losses),
    "parameters": 812345,
    "flops_per_step": 3.21e9,
    "bytes_temporary": 3 * 2**20,
    "bytes_arguments": 2**20,
    "step_seconds": step_seconds,
    "train_seconds": 80.0,
    "final": {"validation": _numbers(metric, losses[-1])},
    "best": {"step": 20, "split": "validation", **_numbers(metric, min(losses))},
    "versions": {"jax": "0.11.2"},
    "device": "1 x cpu",
  }
  (path / "summary.json").write_text(json.dumps(summary))
  return summary


def _numbers(metric: str, loss: float) -> dict[str, float]:
  value = 1 - loss / 4 if metric == "accuracy" else loss / math.log(2)
  return {"loss": loss, metric: value}
