"""Reports of runs that have ended, made without writing anything."""

import json
from pathlib import Path

from experiments.build import Assembly
from experiments.pages.report import FILE
from experiments.training import damage
from experiments.training.checkpoints import Checkpoints


def report(assembly: Assembly, workdir: Path) -> str:
  """Returns the last lines of a finished run; "" if it has not completely ended.

  Raises:
    UserError: if the last checkpoint is of another model.
  """
  config = assembly.config
  checkpoints = Checkpoints(workdir, keep=config.keep, metric=assembly.task.metric)
  if checkpoints.steps()[-1:] != [config.steps] or not (workdir / FILE).exists():
    return ""
  if damage.find(checkpoints.folder / str(config.steps)):
    return ""
  checkpoints.check_shapes(config.steps, assembly.state)
  try:
    summary = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))
    if summary["steps"] != config.steps:
      return ""
    final = summary["final"]["validation"]
    numbers = "  ".join(f"{name} {value:.4f}" for name, value in final.items())
  except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
    return ""  # the run writes it again
  return (
    f"finished at step {config.steps}\nvalidation {numbers}\nreport: {workdir / FILE}"
  )
