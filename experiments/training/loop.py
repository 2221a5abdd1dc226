"""The training loop: steps, evaluations, saves, and how it ends."""

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import configuration
from experiments.build import Assembly, assemble
from experiments.data import pipeline
from experiments.errors import UserError
from experiments.open_run import open_run
from experiments.training import cost, evaluation, phases
from experiments.training import part as parts
from experiments.training.checkpoints import Checkpoints
from experiments.training.metrics import Log
from experiments.training.progress import Progress
from experiments.training.stopping import Sigterm


class Trainer:
  """Trains what an Assembly describes in a workdir, from where it stopped.

  Two functions are compiled, once, before the first step, and one when a phase of the
  config begins; other shapes than those of the first batch are an error, not a second
  compilation.

  Args:
    assembly: what is trained.
    workdir: the run's folder.
    say: prints lines for the user.
    may_save: called before each save; it raises a UserError if the folder is not this
      run's any more.
  """

  def __init__(
    self,
    assembly: Assembly,
    workdir: Path,
    say: Callable[[str], None] = print,
    may_save: Callable[[], None] = lambda: None,
  ):
    self.assembly, self.workdir, self.say = assembly, Path(workdir), say
    self._may_save = may_save
    self.config, self.task = assembly.config, assembly.task
    self.metric = self.task.metric
    self.checkpoints = Checkpoints(
      self.workdir, keep=self.config.keep, metric=self.metric, say=say
    )
    self.data = pipeline.training(
      self.task.source("train"),
      seed=self.config.seed,
      batch=self.config.data.batch,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      consecutive=self.config.memory > 0,
    )
    self.step, state = self.checkpoints.restore(assembly.state, self.data)
    self.state = self._first() if state is None else state
    if self.step > self.config.steps:
      raise UserError(
        f"steps = {self.config.steps}; the checkpoint in {self.workdir} is of step"
        f" {self.step} already"
      )
    if self.step:
      say(f"going on from the checkpoint of step {self.step}")
    self.validation: dict[str, float] | None = None
    self._pending: tuple[int, dict, dict] | None = None
    # The phase that is under way: its place, its state's structure, its program.
    self._phase: tuple[int, Any, Any] = -1, None, None
    self._compile()

  def _first(self) -> Any:
    """Returns a fresh state, or that of the run that the config starts from."""
    state, where = self.assembly.init(), self.config.init
    if not where:
      return state
    return parts.start(state, open_run(where).state, where, self.say)

  def _compile(self):
    start = time.monotonic()
    a = self.assembly
    with jax.set_mesh(a.mesh):
      traced = _traced(a)
      self._update = traced.lower().compile()
      evaluate = jax.jit(a.evaluate())
      held = a.state["model"], a.state["stats"], a.state["memory"]
      self._evaluate = evaluate.lower(*held, a.batch).compile()
      flops = cost.flops(traced.jaxpr.jaxpr)
    self.cost = {"flops_per_step": flops, **cost.memory(self._update)}
    self.cost |= {"parameters": a.parameters(), "trained": a.trained()}
    part = f", {a.trained():,} of them trained" if self.config.train.only else ""
    self.say(
      f"{a.parameters():,} parameters{part}, {flops / 1e9:.2f} GFLOPs a step,"
      f" compiled in {time.monotonic() - start:.1f} s"
    )

  def _updated(self, batch: Any) -> tuple[Any, dict]:
    """Returns the state after an update of the phase that the step belongs to."""
    held = phases.read(self.config)
    place = phases.number(held, self.step)
    if place == len(held):
      return self._update(self.state, batch)
    if place != self._phase[0]:
      assembly = assemble(phases.changed(self.config, held[place]))
      self._phase = place, assembly.state, _traced(assembly).lower().compile()
      self.progress.say(str(held[place]))
    _, structure, update = self._phase
    state, totals = update(phases.as_in(structure, self.state), batch)
    return phases.as_in(self.assembly.state, state), totals

  def run(self, stop: Sigterm) -> str:
    """Trains to the last step or until a stop; returns "finished" or "stopped".

    Raises:
      UserError: if the loss or the gradient is not finite, or a save fails.
    """
    unit = self.task.unit
    config = self.config
    with contextlib.ExitStack() as stack:
      self.progress = stack.enter_context(Progress(config.steps, self.step, unit))
      self.log = stack.enter_context(self._open_log())
      self._mark = self.step, time.monotonic()
      while self.step < config.steps and not stop.requested:
        self._one()
        if self._due(config.eval_every):
          self._validate()
        if self._due(config.save_every) or stop.requested:
          self._save()
    return "finished" if self.step == config.steps else "stopped"

  def _open_log(self) -> Any:
    if jax.process_index():
      return contextlib.nullcontext(_Silent())
    return Log(self.workdir, self.step, say=self.progress.say)

  def evaluate(self, split: str) -> dict[str, float]:
    """Returns the mean loss and metric on a split, over the config's `eval_batches`."""
    return evaluation.evaluate(self.assembly, self._evaluate, self.state, split)

  def close(self):
    """Ends the threads of data and checkpoints."""
    self.checkpoints.close()
    with contextlib.suppress(AttributeError):
      self.data.close()

  def _due(self, every: int) -> bool:
    return self.step % every == 0 or self.step == self.config.steps

  def _one(self):
    batch = next(self.data)
    with jax.set_mesh(self.assembly.mesh):
      self.state, totals = self._updated(self.assembly.put(batch))
    # The step before is looked at while this one runs.
    before, self._pending = self._pending, (self.step + 1, totals, batch)
    self.step += 1
    if before is not None:
      self._check(*before)
    if self._due(self.config.log_every):
      self._report(totals)

  def _check(self, step: int, totals: dict, batch: dict):
    """Stops the run at the first number that is not finite, and keeps its batch."""
    values = {name: float(totals[name]) for name in ("loss", "gradient_norm")}
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if not bad:
      return
    path = self.workdir / f"bad_batch_{step}.npz"
    np.savez(path, **batch)
    kept = self.checkpoints.steps()
    last = (
      f"the last good checkpoint is that of step {kept[-1]}"
      if kept
      else ("there is no checkpoint yet")
    )
    raise UserError(
      f"step {step}: {bad[0].replace('_', ' ')} is {values[bad[0]]}; {last};"
      f" the batch is in {path}"
    )

  def _settle(self):
    """Waits for the last step and checks it."""
    if self._pending is not None:
      self._check(*self._pending)
      self._pending = None

  def _report(self, totals: dict):
    self._settle()
    (step, then), now = self._mark, time.monotonic()
    seconds = (now - then) / (self.step - step)
    units = self.config.data.batch * self.task.units
    speed = {f"{self.progress.unit}_per_second": units / seconds}
    numbers = self.assembly.objective.summarize(totals)
    self.log.write(
      self.step,
      "train",
      **numbers,
      gradient_norm=float(totals["gradient_norm"]),
      rate=self.assembly.rate(self.step - 1),
      step_seconds=seconds,
      **speed,
    )
    self.progress.update(self.step, **numbers, **speed)
    self._mark = self.step, time.monotonic()

  def _validate(self):
    self._settle()
    self.validation = self.evaluate("validation")
    self.log.write(self.step, "validation", **self.validation)
    words = "  ".join(f"{n} {v:.4f}" for n, v in self.validation.items())
    self.progress.say(f"step {self.step}: validation {words}")
    self._mark = self.step, time.monotonic()

  def _save(self):
    self._settle()
    self._may_save()
    evaluated = self._due(self.config.eval_every)
    self.checkpoints.save(
      self.step,
      self.state,
      self.data,
      configuration.to_json(self.config),
      self.validation if evaluated else None,
    )
    self._mark = self.step, time.monotonic()


def _traced(a: Assembly) -> Any:
  """Returns the traced update of an assembly."""
  places = jax.tree.map(lambda leaf: leaf.sharding, a.state)
  update = jax.jit(a.update(), donate_argnums=0, out_shardings=(places, None))
  return update.trace(a.state, a.batch)


class _Silent:
  """The log of the processes that are not the first."""

  def write(self, *_, **__):
    """Writes nothing."""
