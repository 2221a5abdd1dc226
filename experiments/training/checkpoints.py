"""Saves of a run with Orbax: the state and the data iterator, together.

The config is `config.json` in the workdir and travels in every checkpoint's metadata.
"""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import logging
from orbax.checkpoint import v1 as ocp

from attnjax import sharding
from experiments.errors import UserError

_policies = ocp.training.preservation_policies


class Checkpoints:
  """The folder `checkpoints` of a workdir: the last `keep` saves and the best one."""

  def __init__(
    self, workdir: Path, *, keep: int, metric: str, say: Callable[[str], None] = print
  ):
    self.folder, self.metric, self.say = Path(workdir) / "checkpoints", metric, say
    best = _policies.BestN(
      get_metric_fn=self._value, n=1, keep_checkpoints_without_metrics=False
    )
    self._keep: Any = _policies.AnyPreservationPolicy([_policies.LatestN(keep), best])
    self._clear_unfinished()
    self._open()

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
    """(step, state) of the newest checkpoint that can be read; (0, None) without one.

    A checkpoint that cannot be read is said, and moved to `unreadable/` beside the
    folder. `data`, a Grain iterator, is set to where it was.
    """
    for step in reversed(self.steps()):
      try:
        return step, self.load(step, abstract, data)
      except Exception as error:  # whatever Orbax meets in a damaged folder
        reason = _first_line(error)
      self.say(f"the checkpoint of step {step} cannot be read ({reason}): falling back")
      self._set_aside(step)
    return 0, None

  def load(self, step: int, abstract: Any, data: Any) -> Any:
    """The state after `step` steps; `data` is set to where it was then."""
    with _quiet():
      found = self._manager.load_checkpointables(
        step, {"state": flatten(abstract), "data": data}
      )
    return unflatten(abstract, found["state"])

  def steps(self) -> list[int]:
    """The steps with a checkpoint, ascending, by their folders."""
    names = [p.name for p in self.folder.iterdir()] if self.folder.exists() else []
    return sorted(int(name) for name in names if name.isdigit())

  def best(self) -> int:
    """The step with the best metric; the latest if none was measured."""
    scored = {c.step: c.metrics for c in self._manager.checkpoints}
    values = {step: self._value(m) for step, m in scored.items() if m}
    return max(values, key=values.__getitem__, default=self.steps()[-1])

  def close(self):
    """Ends Orbax's threads."""
    # It raises a failed save's error once more.
    with _quiet(), contextlib.suppress(Exception):
      self._manager.close()

  def _value(self, metrics: Any) -> float:
    """What is to be high in the best checkpoint."""
    return metrics[self.metric] * (1 if self.metric == "accuracy" else -1)

  def _open(self):
    self._manager = ocp.training.Checkpointer(
      str(self.folder.absolute()), preservation_policy=self._keep
    )

  def _set_aside(self, step):
    self._manager.close()
    aside = self.folder.parent / "unreadable"
    aside.mkdir(exist_ok=True)
    target = aside / str(step)
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(self.folder / str(step), target)
    self._open()

  def _clear_unfinished(self):
    if not self.folder.exists() or jax.process_index():
      return
    for path in self.folder.iterdir():
      if path.is_dir() and not path.name.isdigit() and "tmp" in path.name:
        self.say(f"removing a checkpoint that was cut off while written: {path.name}")
        shutil.rmtree(path)


def flatten(tree: Any) -> dict[str, Any]:
  """Path -> leaf: what a checkpoint holds, whatever the classes of the tree are."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {sharding.path_name(path): leaf for path, leaf in leaves}


def unflatten(like: Any, leaves: dict[str, Any]) -> Any:
  """The tree `like` with the leaves of `flatten`."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: leaves[sharding.path_name(path)], like
  )


def _is_disk(error: BaseException | None) -> bool:
  """Whether an error, or what caused it, is of the disk."""
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
  before = logging.get_verbosity()
  logging.set_verbosity(logging.FATAL)
  try:
    yield
  finally:
    logging.set_verbosity(before)


def _first_line(error: BaseException) -> str:
  if "No space left" in str(error):
    return "No space left on device"
  lines = str(error).strip().splitlines()
  return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
