"""A text that the model wrote, and attention maps of tokens."""

from typing import Any

import numpy as np

from experiments import errors, generation
from experiments.pages import shows


def show(trainer: Any) -> dict[str, Any]:
  """Returns a sample, and the maps of the first tokens of a validation example."""
  example = trainer.task.source("validation")[0]
  maps = shows.maps(trainer.state, example["tokens"][None, :64])
  return {"sample": _sample(trainer), "maps": maps}


def _sample(trainer) -> str:
  """Generates text after the config's prompt; empty if the tokens are no text."""
  task, config = trainer.task, trainer.config
  if task.decode is None:
    return ""
  prompt = np.frombuffer((config.sample.prompt or "\n").encode(), np.uint8)
  try:
    tokens = generation.sample(
      trainer.state["model"],
      prompt.astype(np.int32),
      config.sample.length,
      temperature=config.sample.temperature,
      seed=config.seed,
      dtype=config.dtype,
    )
  except errors.UserError as error:
    return f"(no sample: {error})"
  return config.sample.prompt + task.decode(tokens)
