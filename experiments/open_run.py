"""Saved runs, opened again."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments import workdir as workdirs
from experiments.build import Assembly, assemble
from experiments.data import pipeline
from experiments.errors import UserError
from experiments.training.checkpoints import Checkpoints


@dataclasses.dataclass(frozen=True)
class Saved:
  """A run at one of its checkpoints.

  Attributes:
    assembly: what the run's config names.
    step: the checkpoint's step.
    state: {"step", "model", "stats", "memory", "optimizer"}.
  """

  assembly: Assembly
  step: int
  state: Any

  @property
  def model(self) -> Any:
    """Returns the parameters alone."""
    return self.state["model"]


def open_run(workdir: str, checkpoint: str = "latest") -> Saved:
  """Opens a run at one of its checkpoints.

  Args:
    workdir: the folder of the run.
    checkpoint: "latest", "best", or a step that is kept.

  Raises:
    UserError: if there is no such run or checkpoint.
  """
  config = workdirs.load(Path(workdir))
  assembly = assemble(config)
  checkpoints = Checkpoints(
    Path(workdir), keep=config.keep, metric=assembly.task.metric
  )
  try:
    kept = checkpoints.steps()
    if not kept:
      raise UserError(f"{workdir} has no checkpoint yet")
    step = _choose(checkpoint, kept, checkpoints)
    source = assembly.task.source("train")
    data = pipeline.training(
      source,
      seed=config.seed,
      batch=config.data.batch,
      consecutive=config.memory > 0,
    )
    try:
      state = checkpoints.load(step, assembly.state, data)
    except UserError as error:
      others = ", ".join(str(other) for other in kept if other != step)
      more = f"; other checkpoints: {others}" if others else ""
      raise UserError(f"{error}{more}") from error
    return Saved(assembly, step, state)
  finally:
    checkpoints.close()


def _choose(checkpoint, kept, checkpoints):
  if checkpoint in ("latest", "best"):
    return kept[-1] if checkpoint == "latest" else checkpoints.best()
  if checkpoint not in map(str, kept):
    raise UserError(
      f"checkpoint {checkpoint!r}: there are latest, best, {', '.join(map(str, kept))}"
    )
  return int(checkpoint)
