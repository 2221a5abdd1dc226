"""The definition of visual attention redistribution: an edit of all weights."""

import jax.numpy as jnp

from attnjax.core import definition


def reference(
  q,
  k,
  v,
  *,
  sink_mask,
  vis_mask,
  query_mask=None,
  rho=0.8,
  summ=0.2,
  p=0.4,
  bias=None,
  scale=None,
  return_selected=False,
  **mask,
):
  """Computes the definition: the weights of all pairs, edited, times the values."""
  B, T, N, H = q.shape
  S = k.shape[1]
  seen = definition.visible(T, S, **mask)
  key, value = (jnp.repeat(definition.wide(x), N // x.shape[2], axis=2) for x in (k, v))
  score = jnp.einsum("btnh,bsnh->bnts", definition.wide(q), key)
  score = score * (H**-0.5 if scale is None else scale)
  score = score if bias is None else score + bias
  a, _ = definition.weights(score, jnp.broadcast_to(seen, score.shape))
  sink, image = sink_mask[:, None, None], vis_mask[:, None, None]
  both, rest = sink & image, image & ~sink
  total = jnp.sum(a * image, axis=-1)
  on_sinks = jnp.sum(a * both, axis=-1) / jnp.sum((a + 1e-6) * image, axis=-1)
  on_rest = jnp.sum(a * rest, axis=-1)
  selected = (on_sinks <= 1 - rho) & (total >= summ) & (on_rest > 0)
  selected &= jnp.any(both, axis=-1)
  if query_mask is not None:
    selected &= query_mask[:, None]
  moved = p * jnp.sum(a * sink, axis=-1)
  share = a * rest / jnp.where(selected, on_rest, 1.0)[..., None]
  edited = jnp.where(sink, (1 - p) * a, a) + moved[..., None] * share
  a = jnp.where(selected[..., None], edited, a)
  out = jnp.einsum("bnts,bsnv->btnv", a, value).astype(v.dtype)
  return (out, selected) if return_selected else out
