"""Validation images beside the model's maps and the targets, and attention maps."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from experiments.pages import charts, readable, shows

_SHOWN = 12


def show(trainer: Any) -> dict[str, Any]:
  """Returns rows of pictures of validation examples, and the maps of the first one."""
  source, state = trainer.task.source("validation"), trainer.state
  goal = trainer.assembly.objective

  @jax.jit
  def run(batch):
    outputs = goal.predict(state["model"], state["stats"], batch)[0]
    judged = [outputs]
    if batch["image"].shape == batch["target"].shape:  # to restore: better than that?
      judged = [batch["image"], outputs]
    return outputs, [goal.totals(maps, batch) for maps in judged]

  rows = []
  for number in range(min(_SHOWN, len(source))):
    example = source[number]
    batch = {name: leaf[None] for name, leaf in example.items()}
    outputs, totals = run(batch)
    rows.append(row(example, np.asarray(outputs[0]), map(goal.summarize, totals)))
  first = source[0]["image"][None]
  return {"rows": rows, "maps": shows.maps(state, first)}


def row(
  example: Mapping[str, np.ndarray],
  output: np.ndarray,
  numbers: Iterable[Mapping[str, float]],
) -> dict[str, Any]:
  """Returns the pictures of an example by name, and a caption.

  Args:
    example: with "image" (H, W, C) and "target", (H, W, K) or classes (H, W).
    output: (H, W, K), or logits.
    numbers: loss and metrics of the output, and before them those of the image where
      it can be judged as an output.
  """
  target, judged = example["target"], list(numbers)
  output = output.argmax(axis=-1) if target.ndim == 2 else output
  words = [
    f"{readable.name(name)}: {' → '.join(readable.number(one[name]) for one in judged)}"
    for name in judged[-1]
    if name != "loss"
  ]
  found = {"input": example["image"], "output": output, "target": target}
  pictures = {name: picture(array) for name, array in found.items()}
  return {"pictures": pictures, "caption": ", ".join(words)}


def picture(array: np.ndarray) -> np.ndarray:
  """Returns the picture (H, W, 3) uint8 of an image, of heat maps or of classes.

  One channel is grey and three are red, green and blue, clipped to [0, 1]. Other heat
  maps are each of a colour, as classes are; class 0 is black, -1 is white.
  """
  if array.ndim == 2:
    shown = _COLORS[(array - 1) % len(_COLORS)]
    shown = np.where((array == 0)[..., None], 0, shown)
    shown = np.where((array < 0)[..., None], 1, shown)
  elif array.shape[-1] in (1, 3):
    shown = np.broadcast_to(array, (*array.shape[:2], 3))
  else:
    known = _COLORS[np.arange(array.shape[-1]) % len(_COLORS)]
    shown = np.clip(array, 0, 1).astype(np.float32) @ known
  return (np.clip(shown, 0, 1) * 255).round().astype(np.uint8)


_COLORS = np.array(
  [[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in charts.COLORS]
)
