"""The routing transformer against the third party's clustered attention."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.variants.sparse import routing_transformer as routing


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  found = {}
  cases = {k.split(".")[1] for k in arrays if k.startswith("in.")}
  for case in sorted(cases):
    found |= _case(arrays, case, meta["hyper"]["wsz"])
  for key in arrays:
    if key.startswith(("out.", "grad.")):
      yield key, found[key], arrays[key]


def _case(arrays, case, cluster_size):
  """The results of one case; q, k and v are (B, N, T, H) there."""
  inputs = {
    n: jnp.asarray(arrays[f"in.{case}.{n}"]) for n in "qkv" if _has(arrays, case, n)
  }
  means = jnp.asarray(arrays[f"param.{case}.means"])
  mask = arrays.get(f"in.{case}.mask")
  shared = "k" not in inputs
  options = {
    "cluster_size": cluster_size,
    "kind": "all",
    "causal": case.startswith("causal"),
    "share_qk": shared,
    "valid": None if mask is None else jnp.asarray(mask),
    "memory_k": jnp.asarray(arrays[f"param.{case}.mem_key"]),
    "memory_v": jnp.asarray(arrays[f"param.{case}.mem_value"]),
  }

  def total(inputs):
    heads = {n: x.swapaxes(1, 2) for n, x in inputs.items()}
    q, k = heads["q"], heads.get("k", heads["q"])
    out = routing.attend(q, k, heads["v"], means, **options).swapaxes(1, 2)
    routed = q if shared else jnp.concatenate([q, k], axis=1)
    loss = routing.commitment(routed, means)
    found = {"o": out, "commit_loss": loss, "new_means": routing.iterate(means, routed)}
    weighted = (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum()
    return weighted + 1e4 * loss, found

  run = jax.jit(jax.value_and_grad(total, has_aux=True))
  (_, found), gradients = run(inputs)
  results = {f"out.{case}.{name}": value for name, value in found.items()}
  return results | {f"grad.{case}.{name}": value for name, value in gradients.items()}


def _has(arrays, case, name):
  return f"in.{case}.{name}" in arrays
