"""The two softmaxes through a few agents, and the form that needs no training."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnjax import attention
from attnjax.contract import Case
from attnjax.core import definition, masks
from attnjax.core.scores import Scores

IMPLEMENTATIONS = attention.IMPLEMENTATIONS


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  agents: Float[Array, "B A N H"],
  *,
  gather_bias: Float[Array, "#B #N A S"] | None = None,
  spread_bias: Float[Array, "#B #N T A"] | None = None,
  valid: Bool[Array, "B S"] | None = None,
  scale: float | None = None,
  spread_scale: float | None = None,
  impl: str = "auto",
) -> Float[Array, "B T N V"]:
  """Computes agent attention: agents read all keys, queries read all agents.

  Args:
    q: queries.
    k: keys; K divides N, agents and queries of head n read key head n K // N.
    v: values.
    agents: A agents for each head.
    gather_bias: added to the scaled scores of agents and keys.
    spread_bias: added to the scaled scores of queries and agents.
    valid: True at the keys that agents see. A row that has no such key gives 0.
    scale: of agents and keys; H^-0.5 if None.
    spread_scale: of queries and agents; `scale` if None.
    impl: one of IMPLEMENTATIONS, or "auto", see `attnjax.attention`.

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  (B, A, N, _), S = agents.shape, k.shape[1]
  if (B, N) != (q.shape[0], q.shape[2]):
    raise ValueError(f"agents {agents.shape} differ from q {q.shape} in B or heads")
  if impl == "reference":
    given = gather_bias, spread_bias, valid, scale, spread_scale
    return reference(q, k, v, agents, *given)
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  seen = None if valid is None else valid[:, None, None, :]
  mask = masks.conjunction((B, N, A, S), array=seen)
  gathered, _ = attention.attend(
    agents, k, v, Scores(mask, bias=gather_bias), scale=scale, impl=impl
  )
  again = scale if spread_scale is None else spread_scale
  out, _ = attention.attend(
    q, agents, gathered, Scores(bias=spread_bias), scale=again, impl=impl
  )
  return out


def reference(
  q,
  k,
  v,
  agents,
  gather_bias=None,
  spread_bias=None,
  valid=None,
  scale=None,
  spread_scale=None,
):
  """Computes the definition: the weights of both softmaxes."""
  seen = True if valid is None else valid[:, None, None, :]
  if valid is not None:
    k, v = (jnp.where(valid[..., None, None], x, 0) for x in (k, v))
  gathered, _ = definition.attention(agents, k, v, seen, bias=gather_bias, scale=scale)
  again = scale if spread_scale is None else spread_scale
  out, _ = definition.attention(q, agents, gathered, bias=spread_bias, scale=again)
  return out


def training_free(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  v: Float[Array, "B T K V"],
  agents: Float[Array, "B A N H"],
  *,
  sharpness: float = 0.3,
  shortcut: float = 0.075,
  impl: str = "auto",
) -> Float[Array, "B T N V"]:
  """Replaces the softmax attention of a trained model: `attend` + shortcut v.

  The scores of queries and agents, which are averages, have the scale H^(-sharpness /
  2). With half as many agents as tokens, or more, nothing is saved, and softmax
  attention is computed.

  Args:
    q: queries.
    k: keys.
    v: values.
    agents: queries of merged tokens, as in
      `attnjax.variants.linear.agent_attention.merging.DropIn`.
    sharpness: the paper's second scale.
    shortcut: the weight of a token's own value, which is added.
    impl: as in `attend`.
  """
  if 2 * agents.shape[1] >= q.shape[1]:
    return attention.attend(q, k, v, impl=impl)[0]
  spread_scale = q.shape[-1] ** (-0.5 * sharpness)
  out = attend(q, k, v, agents, spread_scale=spread_scale, impl=impl)
  own = jnp.repeat(v, q.shape[2] // v.shape[2], axis=2)
  return out + (shortcut * own).astype(out.dtype)


def _shapes(B, T, S, A, N, K, H, V, biased=False):
  shapes = {
    "q": (B, T, N, H),
    "k": (B, S, K, H),
    "v": (B, S, K, V),
    "agents": (B, A, N, H),
  }
  biases = {"gather_bias": (1, N, A, S), "spread_bias": (1, N, T, A)}
  return shapes | (biases if biased else {})


def _padded(key: jax.Array) -> Any:
  del key
  valid = jnp.array([[0], [9], [65]]) <= jnp.arange(65) % 60
  return valid  # the second on both sides, the third everywhere


CASES = (
  Case("whole", _shapes(2, 64, 64, 9, 2, 2, 8, 8)),
  Case("one_token", _shapes(1, 1, 1, 1, 1, 1, 4, 4)),
  Case("seven", _shapes(1, 7, 7, 16, 3, 1, 8, 5), {"scale": 0.2, "spread_scale": 0.9}),
  Case("biased", _shapes(2, 63, 33, 4, 4, 2, 3, 7, biased=True)),
  Case("valid", _shapes(3, 65, 65, 5, 2, 1, 8, 8), {"valid": _padded}),
)
