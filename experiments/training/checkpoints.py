"""Saves of a run with Orbax: the state and the data iterator, together.

The config is `config.json` in the workdir and travels in every checkpoint's metadata.
"""

import contextlib
import functools
import logging as python_logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import logging
from orbax.checkpoint import v1 as ocp

from attnjax import sharding
from experiments.errors import UserError
from experiments.training import damage, measures

_policies = ocp.training.preservation_policies


class Checkpoints:
  """The folder `checkpoints` of a workdir: the last `keep` saves and the best one.

  Nothing is written, or removed, before `restore` or `save`.
  """

  def __init__(
    self, workdir: Path, *, keep: int, metric: str, say: Callable[[str], None] = print
  ):
    self.folder, self.metric, self.say = Path(workdir) / "checkpoints", metric, say
    best = _policies.BestN(
      get_metric_fn=self._value, n=1, keep_checkpoints_without_metrics=False
    )
    self._keep: Any = _policies.AnyPreservationPolicy([_policies.LatestN(keep), best])

  @functools.cached_property
  def _manager(self) -> Any:
    return ocp.training.Checkpointer(
      str(self.folder.absolute()), preservation_policy=self._keep
    )

  def save(self, step: int, state: Any, data: Any, config: dict, metrics: dict | None):
    """Saves after step `step`; earlier checkpoints stay if it fails.

    Raises:
      UserError: if the disk is full or cannot be written.
    """
    if any(found.step == step for found in self._manager.checkpoints):
      return
    try:
      with _quiet():
        self._manager.save_checkpointables(
          step,
          {"state": flatten(state), "data": data},
          metrics=metrics,
          custom_metadata={"config": config},
          force=True,
        )
      if jax.process_index() == 0:
        damage.record(self.folder / str(step))
    except Exception as error:
      if not _is_disk(error):
        raise
      self.close()
      self._clear_unfinished()
      last = self.steps()[-1:]
      raise UserError(
        f"step {step} could not be saved in {self.folder}: {_first_line(error)};"
        f" the last checkpoint is that of step {last[0] if last else 'none'}"
      ) from error

  def restore(self, abstract: Any, data: Any) -> tuple[int, Any]:
    """Returns (step, state) of the newest whole checkpoint; (0, None) if there is none.

    A damaged checkpoint is reported and moved to `unreadable/` beside the folder, once
    an older one has been read. `data`, a Grain iterator, is set to where it was.

    Raises:
      UserError: if no checkpoint can be read, or the newest whole one is of another
        model. Then all of them stay where they are.
    """
    damaged = {}
    for step in reversed(self.steps()):
      if reason := damage.find(self.folder / str(step)):
        damaged[step] = reason
        continue
      state = self.load(step, abstract, data)
      for step_of, reason in damaged.items():
        self.say(f"the checkpoint of step {step_of} cannot be read ({reason}):"
                 " falling back")  # fmt: skip
        self._set_aside(step_of)
      self._clear_unfinished()
      return step, state
    if damaged:
      step, reason = max(damaged.items())
      raise UserError(
        f"no checkpoint in {self.folder} can be read; that of step {step}: {reason}."
        " Remove the folder to begin anew"
      )
    self._clear_unfinished()
    return 0, None

  def load(self, step: int, abstract: Any, data: Any) -> Any:
    """Returns the state after `step` steps; `data` is set to where it was then.

    Raises:
      UserError: if the files are damaged or cannot be read, or are of another model or
        another number of processes.
    """
    where = f"the checkpoint of step {step} in {self.folder}"
    if reason := damage.find(self.folder / str(step)):
      raise UserError(f"{where} is damaged: {reason}")
    self.check_shapes(step, abstract)
    processes = len(list((self.folder / str(step) / "data").glob("process_*")))
    if processes != jax.process_count():
      raise UserError(
        f"{where} is of {processes} processes; there are {jax.process_count()}"
      )
    try:
      with _quiet():
        found = ocp.load_checkpointables(
          str(self.folder.absolute() / str(step)),
          {"state": flatten(abstract), "data": data},
        )
    except Exception as error:  # whatever Orbax meets
      raise UserError(
        f"{where} cannot be read: {_first_line(error)}. It stays; try again, or move"
        " it away"
      ) from error
    return unflatten(abstract, found["state"])

  def check_shapes(self, step: int, abstract: Any) -> None:
    """Raises UserError if a checkpoint has other arrays than `abstract`."""
    try:
      with _quiet():
        held = ocp.checkpointables_metadata(str(self.folder.absolute() / str(step)))
      saved = {name: leaf.shape for name, leaf in held.metadata["state"].items()}
    except Exception:  # then loading says why
      return
    wanted = {name: leaf.shape for name, leaf in flatten(abstract).items()}
    lacks = any(name.startswith("stats/") for name in wanted.keys() - saved.keys())
    hint = ", and running statistics of batch norm are missing" if lacks else ""
    for name in sorted(saved.keys() | wanted.keys()):
      a, b = saved.get(name, "none"), wanted.get(name, "none")
      if a != b:
        raise UserError(
          f"the checkpoint of step {step} in {self.folder} is of another model than"
          f" the config: {name} has the shape {a}, not {b}{hint}"
        )

  def steps(self) -> list[int]:
    """Returns the steps with a checkpoint, ascending, by their folders."""
    paths = self.folder.iterdir() if self.folder.exists() else []
    names = [path.name for path in paths if path.is_dir()]
    return sorted(
      int(name) for name in names if name.isdecimal() and name == str(int(name))
    )

  def best(self) -> int:
    """Returns the step with the best metric; the latest if none was measured."""
    scored = {c.step: c.metrics for c in self._manager.checkpoints}
    values = {step: self._value(m) for step, m in scored.items() if m}
    return max(values, key=values.__getitem__, default=self.steps()[-1])

  def close(self):
    """Ends Orbax's threads."""
    # Closing raises a failed save's error once more.
    with _quiet(), contextlib.suppress(Exception):
      if manager := self.__dict__.pop("_manager", None):
        manager.close()

  def _value(self, metrics: Any) -> float:
    """Returns the metric with its sign, so that the best checkpoint has the highest."""
    return metrics[self.metric] * measures.sign(self.metric)

  def _set_aside(self, step):
    if jax.process_index():
      return
    aside = self.folder.parent / "unreadable"
    aside.mkdir(exist_ok=True)
    target = aside / str(step)
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(self.folder / str(step), target)

  def _clear_unfinished(self):
    if not self.folder.exists() or jax.process_index():
      return
    for path in self.folder.iterdir():
      if path.is_dir() and not path.name.isdigit() and "tmp" in path.name:
        self.say(f"removing a checkpoint that was cut off while written: {path.name}")
        shutil.rmtree(path)


def flatten(tree: Any) -> dict[str, Any]:
  """Flattens a tree to {path: leaf}, which does not depend on the tree's classes."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {sharding.path_name(path): leaf for path, leaf in leaves}


def unflatten(like: Any, leaves: dict[str, Any]) -> Any:
  """Rebuilds the tree `like` from the leaves of `flatten`."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: leaves[sharding.path_name(path)], like
  )


def _is_disk(error: BaseException | None) -> bool:
  """Returns whether an error, or its cause, comes from the disk."""
  words = (
    "No space left",
    "RESOURCE_EXHAUSTED",
    "Disk quota",
    "ENOSPC",
    "File too large",
  )
  while error is not None:
    if isinstance(error, OSError) or any(word in str(error) for word in words):
      return True
    error = error.__cause__ or error.__context__
  return False


@contextlib.contextmanager
def _quiet():
  """Keeps Orbax from logging the traceback of an error that is handled here."""
  threads = python_logging.getLogger("asyncio")
  before, before_threads = logging.get_verbosity(), threads.level
  logging.set_verbosity(logging.FATAL)
  threads.setLevel(python_logging.CRITICAL)
  try:
    yield
  finally:
    logging.set_verbosity(before)
    threads.setLevel(before_threads)


def _first_line(error: BaseException) -> str:
  if "No space left" in str(error):
    return "No space left on device"
  lines = str(error).strip().splitlines()
  return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
