"""Validation images beside the pixels that a sentence names, found and true."""

from typing import Any

import jax
import numpy as np

from experiments.pages.shows import image_maps

_SHOWN = 12


def show(trainer: Any) -> dict[str, Any]:
  """Returns rows of pictures of validation examples, with the sentence in words."""
  source, state = trainer.task.source("validation"), trainer.state
  goal = trainer.assembly.objective

  @jax.jit
  def run(batch):
    outputs = goal.predict(state["model"], state["stats"], batch)[0]
    return outputs, goal.totals(outputs, batch)

  rows = []
  for number in range(min(_SHOWN, len(source))):
    example = source[number]
    outputs, totals = run({name: leaf[None] for name, leaf in example.items()})
    shown = {"image": example["image"], "target": example["labels"]}
    row = image_maps.row(shown, np.asarray(outputs[0]), [goal.summarize(totals)])
    words = trainer.task.decode(example["phrase"])
    rows.append(row | {"caption": f"“{words}”: {row['caption']}"})
  return {"rows": rows}
