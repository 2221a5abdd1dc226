"""Questions about pictures with true and predicted answers, and attention maps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pages import shows

_SHOWN = 24


def show(trainer: Any) -> dict[str, Any]:
  """Returns a question of each validation row, and the maps of the first row."""
  task, state = trainer.task, trainer.state
  source = task.source("validation")
  examples = [source[i] for i in range(min(_SHOWN, len(source)))]
  batch = {n: np.stack([e[n] for e in examples]) for n in examples[0]}
  words = answered(trainer.assembly.objective, state, batch)
  predictions = []
  for number, (example, said) in enumerate(zip(examples, words)):
    asked = questions(example["labels"])
    begin, first, end = asked[number % len(asked)]
    predictions.append(
      {
        "image": example["image"],
        # The mark that ends the answer before stands at the beginning.
        "question": task.decode(example["tokens"][begin : first + 1]).lstrip(". "),
        "true": task.decode(example["labels"][first:end]),
        "predicted": task.decode(said[first:end]),
      }
    )
  row = jnp.asarray(batch["image"][:1]), jnp.asarray(batch["tokens"][:1])
  return {"predictions": predictions, "maps": shows.maps(state, *row)}


def questions(labels: np.ndarray) -> list[tuple[int, int, int]]:
  """Returns (begin of the question, begin and end of the answer) from labels (T,)."""
  asked = np.concatenate([[False], labels >= 0, [False]])
  firsts = (asked[1:] & ~asked[:-1]).nonzero()[0]
  ends = (asked[:-1] & ~asked[1:]).nonzero()[0]
  # The last word of an answer stands one place after its label.
  begins = [0, *(ends[:-1] + 1)]
  return [(int(a), int(b), int(c)) for a, b, c in zip(begins, firsts, ends)]


def answered(objective: Any, state: dict, batch: dict) -> np.ndarray:
  """Writes the likeliest words (B, T), each after those written before it.

  Args:
    objective: of the run.
    state: with the model and its statistics.
    batch: rows; words whose labels are -1 are given, and all others are written.
  """
  arrays = jax.tree.map(jnp.asarray, batch)

  @jax.jit
  def said(tokens):
    row = {**arrays, "tokens": tokens}
    return objective.predict(state["model"], state["stats"], row)[0].argmax(axis=-1)

  asked = batch["labels"] >= 0
  tokens = jnp.asarray(batch["tokens"])
  for _ in range(int(asked.sum(axis=1).max())):
    words = said(tokens)
    # A word stands one place after the place that predicts it.
    tokens = tokens.at[:, 1:].set(
      jnp.where(asked[:, :-1], words[:, :-1], tokens[:, 1:])
    )
  return np.asarray(said(tokens))
