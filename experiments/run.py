r"""Trains, evaluates and saves a model, and ends with a report.

  python -m experiments.run --config configs/lm.py --workdir runs/lm
  python -m experiments.run --config configs/lm.py:lightning2 --workdir runs/l2 \
      --config.optimizer.rate=2e-3

The word after the colon is a mechanism of the catalogue; several with commas between
are the pattern in which the layers repeat. Every value of the config can be overridden.
The same command goes on after an interruption. SIGTERM saves and ends with status 0.
One run at a time may have a workdir: WORKDIR/lock is its mark.

  --config FILE[:MECHANISM]   the config; --config.NAME=VALUE overrides a value;
                              --config.data.name=NAME takes another data set, whose
                              options are then those of config.data
  --workdir DIR               checkpoints, metrics.jsonl, report.html, summary.json
  --resume=force              go on although the workdir holds another config; of
                              other shapes of arrays it is refused
  --distributed=HOW           several processes: auto on a pod, or
                              ADDRESS:PORT,COUNT,INDEX
"""

import signal
import sys


def _too_early(*_):
  print("stopped by SIGTERM before the first step. The same command goes on.")
  sys.exit(0)


if __name__ == "__main__":
  signal.signal(signal.SIGTERM, _too_early)  # the imports below take seconds

import contextlib
import json
import os
import platform
import statistics
from pathlib import Path

import jax
from absl import flags

from experiments import configuration, errors, finished, locking, malloc
from experiments import (
  workdir as workdirs,
)
from experiments.build import assemble
from experiments.pages import report, shows
from experiments.training import loop, measures, metrics
from experiments.training.stopping import Sigterm


def main() -> int:
  """Runs what the command line says; returns the exit status."""
  if {"--help", "-help", "-h"} & set(sys.argv):
    print(__doc__)
    return 0
  malloc.keep()
  values = configuration.parse(_define)
  config = configuration.read_config(values)
  if not values.workdir:
    raise errors.UserError("--workdir is missing; for example --workdir runs/lm")
  _distribute(values.distributed)
  run(config, Path(values.workdir), force=values.resume == "force")
  return 0


def _define(values: flags.FlagValues):
  def string(name, what):
    flags.DEFINE_string(name, "", what, flag_values=values)

  string("workdir", "The folder of the run.")
  string("distributed", "'auto' on a pod, or 'ADDRESS:PORT,COUNT,INDEX'.")
  how = ["auto", "force"]
  flags.DEFINE_enum("resume", "auto", how, "Go on or not.", flag_values=values)


def run(config, workdir: Path, *, force: bool = False) -> str:
  """Trains to the end of the config's steps; returns "finished" or "stopped"."""
  workdir, held = Path(workdir), configuration.to_json(config)
  with Sigterm() as stop, contextlib.ExitStack() as stack:
    assembly = assemble(config)
    say = print if jax.process_index() == 0 else lambda text: None
    changes = workdirs.changes(workdir, held, force=force)
    if not changes and (words := finished.report(assembly, workdir)):
      say(words)
      return "finished"
    may_save = stack.enter_context(locking.held(workdir, say))
    workdirs.changes(workdir, held, force=force)  # another run may have come before
    trainer = loop.Trainer(assembly, workdir, say, may_save)
    stack.callback(trainer.close)
    workdirs.claim(workdir, held)
    outcome = trainer.run(stop)
    if outcome == "finished":
      _finish(trainer, say)
    else:
      say(
        f"stopped by SIGTERM after step {trainer.step} of {config.steps}; saved."
        " The same command goes on."
      )
    return outcome


def _finish(trainer, say):
  """Writes the last evaluation, the summary, the sample and the report."""
  final = trainer.validation or trainer.evaluate("validation")
  if jax.process_index():
    return
  summary = _summary(trainer, metrics.read(trainer.workdir), final)
  path = trainer.workdir / "summary.json"
  path.write_text(json.dumps(summary, indent=2) + "\n")
  if jax.process_count() > 1:
    say("no pictures or samples from several processes: the model is not on one host")
    report.write(trainer.workdir, summary=summary)
    return
  parts = shows.parts(trainer)
  report.write(trainer.workdir, summary=summary, **parts)
  if parts.get("sample"):
    say(f"\n{parts['sample']}\n")
  numbers = "  ".join(f"{name} {value:.4f}" for name, value in final.items())
  say(f"validation {numbers}\nreport: {trainer.workdir / 'report.html'}")


def _summary(trainer, lines, final):
  config, task = trainer.config, trainer.task
  past = [line for line in lines if line["split"] == "validation"]
  sign = measures.sign(task.metric)
  best = max(past, key=lambda line: sign * line[task.metric], default=None)
  train = [line for line in lines if line["split"] == "train"]
  # The numbers are those of the whole run, also if it was interrupted.
  spans = zip([0, *(line["step"] for line in train)], train)
  return {
    "mechanism": config.mechanism,
    "host": config.host,
    "data": config.data.name,
    "metric": task.metric,
    "steps": trainer.step,
    **trainer.cost,
    "step_seconds": statistics.median(line["step_seconds"] for line in train),
    "train_seconds": sum(x["step_seconds"] * (x["step"] - a) for a, x in spans),
    "final": {"validation": final},
    "best": best or {},
    "versions": {"python": platform.python_version(), "jax": jax.__version__},
    "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}, "
    f"{os.cpu_count()} host cores",
  }


def _distribute(how: str):
  if not how:
    return
  try:
    if how == "auto":
      jax.distributed.initialize()
      return
    address, count, index = how.split(",")
    where = {"num_processes": int(count), "process_id": int(index)}
  except ValueError:
    raise errors.UserError(
      f"--distributed={how}: it must be ADDRESS:PORT,COUNT,INDEX, or auto on a pod"
    ) from None
  jax.distributed.initialize(address, **where)


if __name__ == "__main__":
  sys.exit(errors.guard(main))
