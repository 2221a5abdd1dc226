"""The report of visual sinks in the trace of a vision-language model."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from attnjax.contract.trace import Trace
from attnjax.variants.analysis.visual_sinks import attention, values, weights

HOSTS = ("fusion",)
AXES = {
  "dims": "K",
  "values": "BLT",
  "sinks": "BLT",
  "image_share": "L",
  "sink_share": "L",
  "text_sink_share": "L",
  "selected": "L",
  "overlap": "L",
}
MEANINGS = {
  "dims": "sink dimensions of the residual",
  "values": "sink value of each token before a layer",
  "sinks": "whether the token is a sink there",
  "image_share": "weight that words give the image",
  "sink_share": "weight that words give the image's sinks",
  "text_sink_share": "weight that words give the text's sinks",
  "selected": "share of heads and words that are image-centric",
  "overlap": "overlap of the visual sinks of two examples",
}


def analyse(
  trace: Trace,
  *,
  dims: Sequence[int] = (),
  k: int = 2,
  tau: float = 20.0,
  rho: float = 0.8,
  summ: float = 0.2,
) -> Mapping[str, Any]:
  """Reports sinks, and how much words look at them, layer by layer.

  Args:
    trace: of a host whose `trace.tokens` are -1 at the image.
    dims: the sink dimensions; those of `find_sink_dims` if there are none.
    k: how many are looked for.
    tau: the threshold of sink values.
    rho: see `attend`.
    summ: see `attend`.

  Returns:
    dims; values and sinks of all tokens before each layer (B, L, T); means over
    examples, heads and words after the image (L,) of the weight on the image, on its
    sinks and on those of the text, and of whether a head is image-centric; and the
    `overlap` of the examples' visual sinks, which is that over questions where all
    examples have one image.

  Raises:
    ValueError: if the trace has no image, or no dimension stands out.
  """
  vis, real, words = _places(trace)
  dims = tuple(dims) or values.find_sink_dims(trace.hidden, k, tau=tau)
  if not dims:
    raise ValueError(f"no dimension of the first token is above tau = {tau}")
  found: dict[str, list] = {name: [] for name in AXES if name != "dims"}
  for x, heads in zip(trace.hidden, trace.heads):
    value = np.asarray(values.sink_values(jnp.asarray(x), dims))
    sinks = (value > tau) & real
    shares = _shares(heads, sinks, vis, trace.ids)
    own, image = jnp.asarray(sinks), jnp.asarray(vis)
    how = {"rho": rho, "summ": summ}
    chosen = weights.image_centric(shares[0], shares[1], own, image, **how)
    found["values"].append(np.where(real, value, 0))
    found["sinks"].append(sinks)
    sums = shares[0] + shares[1], shares[1], shares[2], chosen
    names = "image_share", "sink_share", "text_sink_share", "selected"
    for name, sum_ in zip(names, sums):
      found[name].append(_mean(np.asarray(sum_), words))
    found["overlap"].append(overlap(sinks & vis))
  rows = {n: np.stack(found.pop(n), axis=1) for n in ("values", "sinks")}
  return {"dims": np.array(dims), **rows, **{n: np.array(x) for n, x in found.items()}}


def _places(trace: Trace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns where the image is, real tokens are, and words after the image, (B, T)."""
  vis = np.asarray(trace.tokens) == -1
  if not vis.any():
    raise ValueError("the trace has no image: no token is -1")
  real = np.ones(vis.shape, bool) if trace.ids is None else np.asarray(trace.ids) >= 0
  last = vis.shape[1] - 1 - np.argmax(vis[:, ::-1], axis=1)
  return vis, real, real & (np.arange(vis.shape[1]) > last[:, None])


def overlap(sinks: Bool[np.ndarray, "B T"]) -> float:
  """Computes the mean over pairs of rows of |both| / |either|; NaN without sinks."""
  count = sinks.astype(np.float64)
  both = count @ count.T
  sizes = count.sum(axis=1)
  either = sizes[:, None] + sizes - both
  pairs = ~np.eye(len(sinks), dtype=bool) & (either > 0)
  return float(np.mean(both[pairs] / either[pairs])) if pairs.any() else float("nan")


def _shares(heads, sinks, vis, ids) -> Float[Array, "4 B N T"]:
  given: dict[str, Any] = {"sink_mask": jnp.asarray(sinks)}
  given["vis_mask"] = jnp.asarray(vis)
  given["segment_ids"] = None if ids is None else jnp.asarray(ids)
  q, k = jnp.asarray(heads.q), jnp.asarray(heads.k)
  return attention.group_shares(q, k, causal=True, impl="xla", **given)


def _mean(x, words) -> float:
  """Returns the mean of x (B, N, T) over heads and the tokens that are words."""
  weight = np.broadcast_to(words[:, None], x.shape)
  return float(np.sum(np.where(weight, x, 0), dtype=np.float64) / weight.sum())
