"""Scores of rows that a model decodes under a policy, its answers given."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import decoding
from experiments.data.task import Task
from experiments.errors import UserError
from experiments.training import step

BATCH = 16  # rows that are decoded together
Rows = dict[str, np.ndarray]


def rows(task: Task, split: str, count: int) -> Rows:
  """Returns tokens and labels (R, T) of the first `count` examples of a split.

  Raises:
    UserError: if the task is not of tokens, or its rows have several documents.
  """
  if task.kind != "tokens":
    raise UserError(f"data set {task.name!r} holds {task.kind}; it must hold tokens")
  source = task.source(split)
  examples = [source[i] for i in range(min(count, len(source)))]
  others = sorted(set(examples[0]) - {"tokens", "labels"})
  if others:
    raise UserError(
      f"examples of {task.name!r} have {', '.join(others)}; rows are decoded as one"
      " document each"
    )
  if len(examples) < 2:
    raise UserError(f"split {split} of {task.name!r} has 1 example; it needs 2")
  return {n: np.stack([e[n] for e in examples]) for n in ("tokens", "labels")}


def prompt_of(found: Rows, given: int) -> int:
  """Returns the tokens of the prompt: up to the first label, or half of a text.

  Args:
    found: `rows`.
    given: by the user; 0 for this rule.

  Raises:
    UserError: if no label is behind the prompt.
  """
  labelled = np.flatnonzero((found["labels"] >= 0).any(axis=0))
  length = found["tokens"].shape[1]
  prompt = given or (int(labelled[0]) if labelled.size else 0) or length // 2
  if not 0 < prompt < length or not labelled.size or labelled[-1] < prompt:
    last = labelled[-1] if labelled.size else -1
    raise UserError(
      f"prompt = {prompt} of rows of {length} tokens; at least one of the answers, the"
      f" last of which is at {last}, must be behind it"
    )
  return prompt


def of(
  model: Any, found: Rows, *, prompt: int, policy: Any, dtype: str
) -> dict[str, list[float]]:
  """Returns scores of each row: of the labels behind the prompt, with none without one.

  `right` is the share of right answers, `exact` whether all are, `bits` the mean cross
  entropy in bits.

  Args:
    model: a language model with `init_cache` and `step`.
    found: `rows`.
    prompt: tokens whose queries see everything, if the policy does not say otherwise.
    policy: for the queries behind it; None for the whole cache.
    dtype: of the computation and the caches.
  """
  count = len(found["tokens"])
  batch = min(BATCH, count)
  run = functools.partial(_scored, prompt=prompt, policy=policy, dtype=dtype)
  parts: list[Any] = []
  for first in range(0, count, batch):
    # The last batch goes back, so that all have one shape.
    first = min(first, count - batch)
    chosen = {name: x[first : first + batch] for name, x in found.items()}
    parts.append((first, jax.device_get(run(model, **chosen))))
  scores: dict[str, list[float]] = {}
  for name in ("right", "exact", "bits"):
    values = np.zeros(count)
    for first, part in parts:
      values[first : first + batch] = part[name]
    scores[name] = [round(float(value), 7) for value in values]
  return scores


@functools.partial(jax.jit, static_argnames=("prompt", "policy", "dtype"))
def _scored(model, tokens, labels, *, prompt, policy, dtype):
  model = step.cast(model, dtype)
  logits = decoding.logits(
    model, tokens, prompt=prompt, policy=policy, dtype=jnp.dtype(dtype)
  )
  logits, labels = logits[:, prompt:].astype(jnp.float32), labels[:, prompt:]
  counted = labels >= 0
  wanted = jnp.where(counted, labels, 0)[..., None]
  chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), wanted, axis=-1)[..., 0]
  right = (logits.argmax(axis=-1) == labels) & counted
  number = jnp.maximum(counted.sum(axis=1), 1)
  return {
    "right": right.sum(axis=1) / number,
    "exact": (right.sum(axis=1) == counted.sum(axis=1)).astype(jnp.float32),
    "bits": -(chosen * counted).sum(axis=1) / number / math.log(2),
  }


def losses(full: Sequence[float], other: Sequence[float], better: int) -> list[float]:
  """Returns what each row loses; `better` is 1 if more is better, -1 if less is."""
  return [better * (a - b) for a, b in zip(full, other, strict=True)]
