"""Rectified SpaAttn against the authors' code, its kernel replaced by a softmax."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.variants.sparse import rectified_sparse


def compare(
  arrays: Mapping[str, np.ndarray], meta: dict, *, zero_tail: bool = True
) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  for name, case in meta.items():
    if isinstance(case, dict) and f"in.{name}.q" in arrays:
      prefix = f"out.{name}."
      found = _case(arrays, name, case, zero_tail)
      for key in arrays:
        if key.startswith(prefix):
          yield key, found[key.removeprefix(prefix)], arrays[key]


def _case(arrays, name: str, case: dict, zero_tail: bool) -> dict[str, Any]:
  q, k, v = (jnp.asarray(arrays[f"in.{name}.{x}"]).swapaxes(1, 2) for x in "qkv")
  (B, T), block = q.shape[:2], case["block"]
  # Slots of text; of which the first `written` hold text.
  end = case["visual_blocks"] * block if "visual_blocks" in case else T
  written = case.get("text_tokens", 0)
  n = -(-end // block)
  options: dict[str, Any] = {
    "block": block,
    "mass": case["p"],
    "min_blocks": case["top_k"],
    "first_blocks": case.get("first_frame_blocks", 0),
    "neighbours": jnp.asarray(arrays[f"in.{name}.neighbor"])[:n, :n],
    "text": T - end,
    "zero_tail": zero_tail,
  }
  if T > end + written:
    options["valid"] = jnp.broadcast_to(jnp.arange(T) < end + written, (B, T))
  run = jax.jit(lambda *x: rectified_sparse.attend(*x, return_plan=True, **options))
  out, plan = run(q, k, v)
  # Theirs has a column for each block of text slots, true where there is text.
  columns = jnp.arange(-(-(T - end) // block)) < -(-written // block)
  columns = jnp.broadcast_to(columns, (*plan.critical.shape[:3], columns.size))
  probability = plan.probability
  return {
    "o": out,
    "o_visual": out[:, :end],
    "o_text": out[:, end:],
    "critical": jnp.concatenate([plan.critical, columns], axis=3),
    "pool_probs": probability if T > end else probability[..., :-1],
    "no_rectify": ~plan.gain,
  }
