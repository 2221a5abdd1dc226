"""Predictions on images, and attention maps."""

from typing import Any

import jax
import numpy as np

from experiments.pages import shows

_SHOWN = 24


def show(trainer: Any) -> dict[str, Any]:
  """Returns predictions on validation images, and the maps of the first one."""
  source, state = trainer.task.source("validation"), trainer.state
  examples = [source[i] for i in range(min(_SHOWN, len(source)))]
  batch = {n: np.stack([e[n] for e in examples]) for n in examples[0]}
  predict = jax.jit(lambda *given: trainer.assembly.objective.predict(*given)[0])
  classes = np.argmax(predict(state["model"], state["stats"], batch), axis=-1)
  predictions = [
    {"image": e["image"], "true": int(e["label"]), "predicted": int(p)}
    for e, p in zip(examples, classes)
  ]
  return {"predictions": predictions, "maps": shows.maps(state, batch["image"][:1])}
