"""The report of a trace: which heads copy, and how they attend."""

from typing import Any

import jax
import numpy as np

import attnjax.statistics as engine
from attnjax.contract import Report
from attnjax.contract.trace import Trace
from attnjax.ops import traced_attention
from attnjax.variants.analysis.head_influence import retrieval

HOSTS = ("language",)
# B rows, L layers, N heads.
AXES = {
  "copying": "LN",
  "copying_of_rows": "BLN",
  "important": "LN",
  "first_token": "LN",
  "distance": "LN",
  "entropy": "LN",
}
MEANINGS = {
  "copying": "share of queries whose greatest weight is on the next token",
  "copying_of_rows": "that share, of the queries of one row",
  "important": "whether the head is among those that copy most",
  "first_token": "share of queries whose greatest weight is on the first token",
  "distance": "mean distance, in tokens, to the greatest weight",
  "entropy": "mean entropy of the weights, in nats",
}


def analyse(trace: Trace, *, share: float = 0.05, first: int = 1) -> Report:
  """Reports how often each head's greatest weight is on the token that comes next.

  It is the retrieval score where all tokens before are the needle, as a share of the
  queries: the emitted token is the model's likeliest. MEANINGS says what entries are.

  Args:
    trace: of a causal language model around softmax attention.
    share: of all heads, how many are `important`.
    first: queries from this place of a row on count.

  Raises:
    ValueError: for a share that is not in (0, 1], or a negative place.
    NotImplementedError: for a layer that is no causal softmax attention.
  """
  if not 0 < share <= 1 or first < 0:
    raise ValueError(f"share = {share}, first = {first}; (0, 1] and 0 or more")
  tokens, emitted = np.asarray(trace.tokens), trace.output.argmax(axis=-1)
  B, T = tokens.shape
  ids = np.zeros((B, T), int) if trace.ids is None else np.asarray(trace.ids)
  counted = (ids >= 0) & (np.arange(T) >= first)
  found: dict[str, list[Any]] = {name: [] for name in AXES if name != "important"}
  for index, (heads, mixed) in enumerate(zip(trace.heads, trace.mixed)):
    lse = traced_attention.lse(heads, mixed, index=index)
    seen = {n: x for n, x in heads.seen.items() if x is not None}
    argmax, entropy = map(np.asarray, _rows(heads.q, heads.k, lse, seen))
    rows = np.arange(B)[:, None, None]
    copied = tokens[rows, np.maximum(argmax, 0)] == emitted[..., None]
    number = np.maximum(counted.sum(axis=1), 1)[:, None]
    found["copying_of_rows"].append((copied & counted[..., None]).sum(1) / number)
    starts = (ids == ids[:, :1]) if trace.ids is None else ids >= 0
    begin = starts.argmax(axis=1)[:, None, None]
    distance = np.arange(T)[None, :, None] - argmax
    each = {"copying": copied, "first_token": argmax == begin}
    each |= {"distance": distance, "entropy": entropy}
    for name, values in each.items():
      found[name].append(values[counted].mean(axis=0))
  arrays = {name: np.stack(x) for name, x in found.items()}
  arrays["copying_of_rows"] = np.moveaxis(arrays["copying_of_rows"], 0, 1)
  arrays["important"] = retrieval.greatest(arrays["copying"], share)
  return Report(arrays, AXES)


@jax.jit
def _rows(q, k, lse, seen):
  return engine.attention_rows(q, k, lse, is_causal=True, **seen)
