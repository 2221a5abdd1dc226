"""Superlinear attention against the reference search and spans of the authors."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.variants.sparse import superlinear

# What the authors' code writes as the score of an anchor that is not there.
_NEVER = -1e9


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  hyper = meta["hyper"]
  power = 1 / hyper["inv"] if hyper["inv"] else hyper["search_power"]
  geometry = superlinear.Geometry(
    hyper["topk"], hyper["sw"], hyper["bf"], hyper["ff"], power, hyper["span_power"]
  )
  names = ("Q1", "Q2", "K", "V")
  heads = [jnp.asarray(arrays[f"in.{name}"]).swapaxes(1, 2) for name in names]
  B, T = heads[0].shape[:2]
  ids = jnp.zeros((B, T), jnp.int32)
  if "in.mask" in arrays:
    ids = jnp.where(jnp.asarray(arrays["in.mask"]), 0, -1)

  def total(heads):
    options = geometry._asdict() | {"segment_ids": ids}
    out = superlinear.attend(*heads, **options).swapaxes(1, 2)
    return (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum(), out

  run = jax.jit(jax.value_and_grad(total, has_aux=True))
  (_, out), gradients = run(heads)
  found = {"out.o": out, "out.window_len": geometry.window}
  found |= {f"grad.{n}": g.swapaxes(1, 2) for n, g in zip(names, gradients)}

  where = superlinear.rows(ids, T, 0)
  spans, score = superlinear.span_search(heads[0], heads[2], where, geometry, 0)
  some = spans.anchor >= 0
  # Theirs shifts the -1 of a missing anchor as if it were one.
  start = jnp.where(some, spans.start, -1 - spans.back[:, :, None, None])
  results = {
    "qstart": start,
    "qanchor": spans.anchor,
    "qend": spans.end,
    "values": jnp.where(some, score, _NEVER),
  }
  found |= {f"out.{name}": value.swapaxes(1, 2) for name, value in results.items()}
  for key in arrays:
    if key.startswith(("out.", "grad.")):
      yield key, found[key], arrays[key]
