"""Saved runs, opened again."""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnjax import contract
from experiments import checks, data
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


def with_data(saved: Saved, given: Sequence[str]) -> Saved:
  """Returns the run with other options of its data set, such as longer examples.

  Args:
    saved: the run.
    given: NAME=VALUE each, as `--config.data.NAME=VALUE` has it.

  Raises:
    UserError: for an unknown option or a wrong value, and if tokens become others.
  """
  if not given:
    return saved
  assembly = saved.assembly
  name = assembly.config.data.name
  known, changed = data.defaults(name), {}
  for text in given:
    option, equals, value = text.partition("=")
    if not equals:
      raise UserError(f"--option {text!r}; it must be NAME=VALUE")
    if option not in known:
      raise UserError(
        f"--option: {contract.unknown(f'option of {name}', option, known)}"
      )
    changed[option] = _read(option, value, known[option])
  config = copy.deepcopy(assembly.config)
  config.data.update(changed)
  options = {n: v for n, v in config.data.items() if n not in ("name", "batch")}
  try:
    task = data.load(name, options)
  except ValueError as error:
    raise UserError(f"--option: {error}") from None
  old = assembly.task
  for size in ("vocab", "classes"):
    if getattr(task, size) != getattr(old, size):
      raise UserError(
        f"--option: {', '.join(given)} makes {size} = {getattr(task, size)}; the run"
        f" has {getattr(old, size)}"
      )
  made = dataclasses.replace(assembly, config=config, task=task)
  return dataclasses.replace(saved, assembly=made)


def _read(option: str, text: str, default: Any) -> Any:
  """Returns the value of a text, of the type of an option's default."""
  try:
    if isinstance(default, bool):
      return {"true": True, "false": False}[text.lower()]
    return type(default)(text)
  except (ValueError, KeyError):
    rule = checks.rule(default)
    raise UserError(f"--option {option} = {text!r}; it must be {rule}") from None


def _choose(checkpoint, kept, checkpoints):
  if checkpoint in ("latest", "best"):
    return kept[-1] if checkpoint == "latest" else checkpoints.best()
  if checkpoint not in map(str, kept):
    raise UserError(
      f"checkpoint {checkpoint!r}: there are latest, best, {', '.join(map(str, kept))}"
    )
  return int(checkpoint)
