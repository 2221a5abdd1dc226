"""Interventions in a vision-language host: redistribution, and tokens nobody sees."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from attnjax.contract.context import Heads
from attnjax.contract.trace import Edits
from attnjax.variants.analysis.visual_sinks import attention, values


def redirected(
  image: tuple[int, int],
  dims: Sequence[int],
  *,
  layers: int,
  tau: float = 20.0,
  first_layer: int = 2,
  except_last: bool = True,
  prompt: int | None = None,
  bias: Array | None = None,
  **options: Any,
) -> Edits:
  """Returns the intervention VAR, for `model.trace(..., edit=)` around dot products.

  Each layer's sinks are those of the hidden states that enter it; the words after the
  image are redirected. An Edits is of one trace: it holds hidden states of it.

  Args:
    image: (first, end) of the image's tokens in the row, as `model.span` says.
    dims: the sink dimensions.
    layers: of the model.
    tau: see `sinks`.
    first_layer: the first layer that is redirected, 1 or more.
    except_last: leave the last layer as it is, as the authors' option of that name
      says; their released code does not do so.
    prompt: tokens of the prompt, in which sinks are looked for; all if None.
    bias: added to the scores of all layers, (B|1, N|1, T|1, S|1).
    **options: `rho`, `summ` and `p` of `attend`.

  Raises:
    ValueError: for a layer before which nothing is known.
  """
  if first_layer < 1:
    raise ValueError(f"first_layer = {first_layer}; it must be at least 1")
  entering: dict[int, Array] = {}

  def hidden(index: int, x: Array) -> Array:
    entering[index + 1] = x
    return x

  def mixed(index: int, found: Array, heads: Heads) -> Array:
    last = layers - 1 if except_last else layers
    if not first_layer <= index < last:
      return found if bias is None else _plain(heads, bias=bias).reshape(found.shape)
    known = _known(found.shape[:2], heads.tokens.ids, prompt)
    own = values.sinks(entering[index], dims, tau=tau, valid=known)
    return _redirected(heads, own, image, bias=bias, **options).reshape(found.shape)

  return Edits(hidden=hidden, mixed=mixed)


def silenced(tokens: Bool[Array, "B T"], *, bias: Array | None = None) -> Edits:
  """Returns the intervention in which no layer sees some tokens.

  Args:
    tokens: True at the tokens that nobody sees.
    bias: added to the scores of all layers, (B|1, N|1, T|1, S|1).
  """

  def mixed(index: int, found: Array, heads: Heads) -> Array:
    del index
    return _plain(heads, hidden=tokens, bias=bias).reshape(found.shape)

  return Edits(mixed=mixed)


def random_like(
  chosen: Bool[np.ndarray, "B T"], among: Bool[np.ndarray, "B T"], seed: int = 0
) -> Bool[np.ndarray, "B T"]:
  """Draws as many tokens as are chosen in each row, from others of a set.

  Raises:
    ValueError: if there are not so many.
  """
  rng, found = np.random.default_rng(seed), np.zeros_like(chosen)
  for row, (one, others) in enumerate(zip(chosen, among & ~chosen)):
    places, count = np.flatnonzero(others), int(one.sum())
    if count > places.size:
      raise ValueError(f"row {row}: {count} of {places.size} other tokens")
    found[row, rng.permutation(places)[:count]] = True
  return found


def _redirected(heads: Heads, own: Array, image: tuple[int, int], **options) -> Array:
  """Returns redirected attention; `own` says which tokens are sinks."""
  place = jnp.broadcast_to(jnp.arange(own.shape[1]), own.shape)
  return attention.attend(
    heads.q,
    heads.k,
    heads.v,
    sink_mask=own,
    vis_mask=(place >= image[0]) & (place < image[1]),
    query_mask=place >= image[1],
    **_seen(heads),
    **options,
  )


def _known(shape, ids, prompt) -> Array:
  """Returns where sinks are looked for: real tokens of the prompt, (B, T)."""
  place = jnp.broadcast_to(jnp.arange(shape[1]), shape)
  known = place < (shape[1] if prompt is None else prompt)
  return known if ids is None else known & (ids >= 0)


def _seen(heads: Heads) -> dict[str, Any]:
  """Returns who sees whom in a causal layer of dot products.

  Raises:
    NotImplementedError: for another mechanism, which these functions would replace.
  """
  if heads.q is None or heads.more:
    raise NotImplementedError(
      f"heads with {sorted(heads.more)}: dot-product attention alone is redirected"
    )
  return {"causal": True, **heads.seen}


def _plain(heads: Heads, *, hidden: Any = None, bias: Any = None) -> Array:
  """Returns the causal attention of heads, without the hidden tokens."""
  (B, T), seen = heads.q.shape[:2], _seen(heads)
  own = seen.pop("segment_ids")
  own = jnp.zeros((B, T), jnp.int32) if own is None else own
  others = own if hidden is None else jnp.where(hidden, -1, own)
  nothing = jnp.zeros((B, T), bool)
  return attention.attend(
    heads.q,
    heads.k,
    heads.v,
    sink_mask=nothing,
    vis_mask=nothing,
    segment_ids=own,
    kv_segment_ids=others,
    bias=bias,
    **seen,
  )
