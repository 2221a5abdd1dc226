"""Scores of one saved run, kept as they are measured in its frontier.jsonl."""

import copy
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments import data
from experiments.claims.measuring import Kept
from experiments.errors import UserError, one_line
from experiments.frontier import costs, points, scores
from experiments.frontier.points import Point
from experiments.open_run import Saved
from experiments.training import measures

FILE = "frontier.jsonl"


class Run:
  """A saved run and its scores; what frontier.jsonl holds is not measured again.

  Attributes:
    saved: the run.
    workdir: its folder.
    metric: by which rows are judged: "right" or "bits".
    better: 1 if more of it is better, -1 if less is.
  """

  def __init__(self, saved: Saved, workdir: str, split: str, again: bool = False):
    self.saved, self.workdir, self.split = saved, workdir, split
    self.model, self.config = saved.model, saved.assembly.config
    task = saved.assembly.task
    self.better = measures.sign(task.metric)
    self.metric = "right" if task.metric == "accuracy" else "bits"
    try:
      cache = jax.eval_shape(lambda m: m.init_cache(1, 1, jnp.float32), self.model)
    except (AttributeError, NotImplementedError) as error:
      raise UserError(f"{workdir} does not decode: {one_line(error)}") from None
    self.cache = cache
    own = {"config": self.config.to_dict(), "step": saved.step}
    text = json.dumps(own, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    self.kept = Kept(Path(workdir) / FILE, digest)
    if again:
      self.kept.known.clear()
    self._rows: dict[str, Any] = {}

  def check(self, candidates: list[Point]) -> tuple[list[Point], dict[str, str]]:
    """Returns (the points that fit the model, reasons why others do not by name).

    Raises:
      UserError: if none fits, since the layers keep no keys to choose among.
    """
    refused = {p.name: points.refusal(p.policy, self.cache) for p in candidates}
    fit = [p for p in candidates if not refused[p.name]]
    if candidates and not fit:
      raise UserError("no policy fits the run: " + "; ".join(set(refused.values())))
    return fit, {name: why for name, why in refused.items() if why}

  @functools.cached_property
  def sizes(self) -> costs.Sizes:
    """Returns the model's sizes, for costs; its layers must keep keys."""
    return costs.sizes(self.model, self.config.dtype)

  def rows(self, count: int, **changes: Any) -> scores.Rows:
    """Returns rows of the run's task with other options of the data set."""
    key = json.dumps([count, changes])
    if key not in self._rows:
      task = self.task(**changes) if changes else self.saved.assembly.task
      self._rows = {key: scores.rows(task, self.split, count)}
    return self._rows[key]

  def task(self, **changes: Any) -> Any:
    """Returns the run's task with other options; UserError if they do not fit."""
    section = copy.deepcopy(self.config.data)
    section.update(changes)
    options = {n: v for n, v in section.items() if n not in ("name", "batch")}
    try:
      return data.load(section.name, options)
    except ValueError as error:
      raise UserError(str(error)) from None

  def has(self, option: str) -> bool:
    """Returns whether the run's data set has an option of that name."""
    return option in data.defaults(self.config.data.name)

  def scores(
    self, point: Point, count: int, prompt: int, **changes: Any
  ) -> dict[str, list[float]]:
    """Returns the scores of rows under a point's policy; see `scores.of`."""
    found = self.rows(count, **changes)
    setting = [self.split, count, prompt, changes, repr(point.policy)]

    def measure():
      return scores.of(
        self.model, found, prompt=prompt, policy=point.policy, dtype=self.config.dtype
      )

    return self.kept(json.dumps(setting), measure)
