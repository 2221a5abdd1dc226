"""X-Pool against the authors' code: pooling, similarities, loss, baselines, slopes."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.variants.cross import xpool

_LINEAR = {
  "query": "cross_attn.q_proj",
  "key": "cross_attn.k_proj",
  "value": "cross_attn.v_proj",
  "out": "cross_attn.out_proj",
  "linear": "linear_proj",
}


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  hyper, own = meta["hyper"], weights(arrays)
  text, frames = (jnp.asarray(arrays[f"in.{n}"]) for n in ("text", "video"))
  given = {"heads": hyper["heads"]}
  scale = jnp.asarray(arrays["in.logit_scale"])

  @jax.jit
  def run(text, frames):
    def sums(text, frames):
      pooled = xpool.pool(text, frames, own, **given)
      return jnp.vdot(pooled, jnp.cos(jnp.arange(pooled.size, dtype=jnp.float32)))

    def loss(text, frames):
      similarity = xpool.similarity(text, frames, own, tile=2, **given)
      return xpool.clip_loss(similarity, scale)

    temperature = hyper["attention_temperature"]
    slopes = (jax.grad(f, (0, 1))(text, frames) for f in (sums, loss))
    grads = {
      f"grad.{kind}{name}": slope
      for kind, pair in zip(("", "loss."), slopes)
      for name, slope in zip(("text", "video"), pair)
    }
    return grads | {
      "out.pooled": xpool.pool(text, frames, own, **given),
      "out.sims": xpool.similarity(text, frames, own, **given),
      "out.loss": loss(text, frames),
      "out.topk": xpool.top_k_pool(text, frames, hyper["k"]),
      "out.attention": xpool.attention_pool(text, frames, temperature=temperature),
    }

  for key, value in run(text, frames).items():
    yield key, value, arrays[key]


def weights(arrays: Mapping[str, np.ndarray]) -> xpool.Weights:
  """Returns the parameters; the authors' matrices are (outputs, inputs)."""
  found = {}
  for name, theirs in _LINEAR.items():
    found[name] = jnp.asarray(arrays[f"param.{theirs}.weight"].T)
    found[f"{name}_bias"] = jnp.asarray(arrays[f"param.{theirs}.bias"])
  for name, theirs in (("norm_scale", "weight"), ("norm_bias", "bias")):
    rows = [arrays[f"param.layer_norm{i}.{theirs}"] for i in (1, 2, 3)]
    found[name] = jnp.asarray(np.stack(rows))
  return xpool.Weights(**found)
