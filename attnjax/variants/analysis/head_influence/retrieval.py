"""Retrieval heads: those whose greatest weight is on the token that is written next."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

import attnjax.statistics as engine
from attnjax.contract.trace import Trace
from attnjax.ops import traced_attention
from attnjax.variants.analysis.head_influence.proxy import Sample


def retrieval_score(
  attention: Float[np.ndarray, "L N S"],
  emitted: int,
  prompt: Int[np.ndarray, "P"],
  span: tuple[int, int],
  topk: int = 1,
) -> Float[np.ndarray, "L N"]:
  """Returns what one step adds to the score of every head: 0, or 1 / (end - start).

  It is added if one of the head's `topk` greatest weights, the first of equal ones, is
  on a token of the needle that is the emitted token; once a step.

  Args:
    attention: the weights of the step's query on all keys; more keys than the prompt
      has are those of the answer.
    emitted: the token that the model writes in this step.
    prompt: its tokens.
    span: (start, end) of the needle in the prompt.
    topk: weights that count.

  Raises:
    ValueError: for an empty span, one beyond the prompt, or a topk below 1.
  """
  start, end = span
  if not 0 <= start < end <= len(prompt):
    raise ValueError(f"span = {span}; it must be within a prompt of {len(prompt)}")
  if topk < 1:
    raise ValueError(f"topk = {topk}; it must be 1 or more")
  most = np.argsort(-np.asarray(attention), axis=-1, kind="stable")[..., :topk]
  inside = (most >= start) & (most < end)
  same = np.asarray(prompt)[np.minimum(most, len(prompt) - 1)] == emitted
  return (inside & same).any(axis=-1) / np.float32(end - start)


def accumulate(
  attention: Iterable[np.ndarray],
  emitted: Sequence[int] | np.ndarray,
  prompt: Int[np.ndarray, "P"],
  span: tuple[int, int],
  topk: int = 1,
) -> np.ndarray:
  """Returns the retrieval score of a sample (L, N), the sum over its steps.

  The weights of each step are (L, N, S), where S may grow. A token that is copied twice
  counts twice.
  """
  found = [
    retrieval_score(a, int(w), prompt, span, topk)
    for a, w in zip(attention, emitted, strict=True)
  ]
  return np.sum(found, axis=0)


def strongest(trace: Trace) -> list[Int[Array, "B T N"]]:
  """Returns each query's key of the greatest weight, of every layer of a trace.

  Raises:
    NotImplementedError: for a layer that is no causal softmax attention.
  """
  found: list[Any] = []
  for index, (heads, mixed) in enumerate(zip(trace.heads, trace.mixed)):
    lse = traced_attention.lse(heads, mixed, index=index)
    seen = {n: x for n, x in heads.seen.items() if x is not None}
    found.append(_argmax(heads.q, heads.k, lse, seen).argmax)
  return found


@jax.jit
def _argmax(q, k, lse, seen):
  return engine.attention_rows(q, k, lse, is_causal=True, **seen)


def scores(model: Any, sample: Sample) -> tuple[Float[np.ndarray, "L N"], float]:
  """Returns (the retrieval score of a sample, the share of right answer tokens).

  The true answer is given, once for all steps, which is decoding as long as the model
  is right; the emitted token of a step is the model's likeliest.
  """
  trace = jax.device_get(_traced(model, sample.tokens[None]))
  steps = np.arange(sample.start - 1, len(sample.tokens) - 1)
  emitted = trace.output[0, steps].argmax(axis=-1)
  most = np.stack([np.asarray(x)[0, steps] for x in strongest(trace)])  # (L, steps, N)
  start, end = sample.span
  inside = (most >= start) & (most < end)
  copied = inside & (sample.tokens[most] == emitted[:, None])
  right = float((emitted == sample.tokens[steps + 1]).mean())
  return copied.sum(axis=1) / np.float32(end - start), right


@jax.jit
def _traced(model, tokens):
  return model.trace(tokens)


def detect_heads(
  model: Any,
  samples: Iterable[Sample],
  share: float = 0.05,
  *,
  success: float = 0.5,
) -> tuple[Bool[np.ndarray, "L N"], Float[np.ndarray, "L N"]]:
  """Returns (which heads to keep, mean retrieval scores): False at the retrieval heads.

  Args:
    model: a causal language model around softmax attention, with `trace`.
    samples: of `proxy.samples`, or others with a needle.
    share: of all heads, that which retrieves most is masked; one head at least.
    success: samples count if more than this share of the answer is right.

  Raises:
    ValueError: for a share that is not in (0, 1], or if no sample counts.
  """
  if not 0 < share <= 1:
    raise ValueError(f"share = {share}; it must be above 0 and at most 1")
  found = [one for one, right in (scores(model, s) for s in samples) if right > success]
  if not found:
    raise ValueError(f"no sample has more than {success} of its answer right")
  mean = np.mean(found, axis=0)
  return ~greatest(mean, share), mean


def greatest(scores: Float[np.ndarray, "L N"], share: float) -> Bool[np.ndarray, "L N"]:
  """Returns the heads with the greatest scores, of equal ones the first."""
  number = max(1, round(share * scores.size))
  chosen = np.zeros(scores.size, bool)
  chosen[np.argsort(-scores.reshape(-1), kind="stable")[:number]] = True
  return chosen.reshape(scores.shape)


def kept(mask: Any, index: int, N: int) -> Array:
  """Returns which heads of a layer are kept, (N, 1), of a mask (L, N).

  Raises:
    ValueError: if the mask has another number of heads.
  """
  if jnp.ndim(mask) != 2 or jnp.shape(mask)[1] != N:
    raise ValueError(f"the mask has the shape {jnp.shape(mask)}; layers have {N} heads")
  return jnp.asarray(mask)[index][:, None]
