"""Masked heads, the loss that they cost a document, and the selection by it."""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from attnjax import attention
from attnjax.contract import check_known
from attnjax.contract.trace import Edits
from attnjax.variants.analysis.head_influence.retrieval import kept

IMPLEMENTATIONS = attention.IMPLEMENTATIONS
KINDS = ("uniform", "zero")
RELATIVE = ("base", "ref", "none")


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  *,
  head_mask: Bool[Array, "M"],
  causal: bool = False,
  kind: str = "uniform",
  scale: float | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  impl: str = "auto",
) -> Float[Array, "B T N V"]:
  """Computes softmax attention with masked heads.

  Args:
    q: queries, after norms and positions: the norm of a zero vector is none.
    k: keys; K divides N, and the heads are those of queries.
    v: values.
    head_mask: True for the heads that stay.
    causal: whether tokens see those before alone.
    kind: "uniform", the head's queries are 0, so that it weighs all tokens that it sees
      alike; "zero", its result is 0.
    scale: H^-0.5 if None.
    segment_ids: (B, T), documents; negative ids see nothing.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: for an unknown kind, or a mask of another shape.
  """
  check_known("kind", kind, KINDS)
  if jnp.shape(head_mask) != (q.shape[2],):
    raise ValueError(f"head_mask is {jnp.shape(head_mask)}; q has {q.shape[2]} heads")
  stays = jnp.asarray(head_mask, bool)[:, None]
  q = jnp.where(stays, q, 0) if kind == "uniform" else q
  out = attention.dot_product_attention(
    q, k, v, is_causal=causal, scale=scale, segment_ids=segment_ids, impl=impl
  )
  return out if kind == "uniform" else jnp.where(stays, out, 0)


def reference(
  q, k, v, *, head_mask, causal=False, kind="uniform", scale=None, segment_ids=None
):
  """Computes masked heads by their definition: the mean of what they see, or 0."""
  (_, T, N, H), (S, K) = q.shape, k.shape[1:3]
  k, v = (jnp.repeat(x.astype(jnp.float32), N // K, axis=2) for x in (k, v))
  score = jnp.einsum("btnh,bsnh->bnts", q.astype(jnp.float32), k)
  score = score * (H**-0.5 if scale is None else scale)
  seen = jnp.ones((len(q), T, S), bool)
  if causal:
    seen &= jnp.arange(S) <= jnp.arange(S - T, S)[:, None]
  if segment_ids is not None:
    seen &= segment_ids[:, :, None] == segment_ids[:, None]
    seen &= (segment_ids >= 0)[:, None]
  seen = seen[:, None]
  score = jnp.where(seen, score, -1e30)
  top = score.max(axis=-1, keepdims=True)
  weight = jnp.where(seen, jnp.exp(score - jax.lax.stop_gradient(top)), 0)
  number = seen.sum(axis=-1, keepdims=True)
  total = weight.sum(axis=-1, keepdims=True)
  weight = weight / jnp.where(total == 0, 1, total)
  flat = seen / jnp.maximum(number, 1) if kind == "uniform" else jnp.zeros(seen.shape)
  weight = jnp.where(head_mask[:, None, None], weight, flat)
  return jnp.einsum("bnts,bsnv->btnv", weight, v).astype(q.dtype)


def mask_heads(head_mask: Any, kind: str = "uniform") -> Edits:
  """Returns the intervention that masks heads, for `model.trace(tokens, edit=...)`.

  A traced mask makes one program of all of them, also under `jax.vmap`. Where a
  mechanism adds biases of positions to its scores (ALiBi), these stay: rows of
  "uniform" heads then follow the bias.

  Args:
    head_mask: (L, N), True for the heads that stay.
    kind: as in `attend`.

  Raises:
    NotImplementedError: for "uniform" and a mechanism without queries, in the trace.
  """
  check_known("kind", kind, KINDS)

  def heads(index, found):
    if found.q is None:
      raise NotImplementedError(
        f"layer {index} has no queries; its heads can be masked by kind = 'zero'"
      )
    stays = kept(head_mask, index, found.q.shape[-2])
    return dataclasses.replace(found, q=jnp.where(stays, found.q, 0))

  def mixed(index, out, found):
    del found
    return jnp.where(kept(head_mask, index, out.shape[-2]), out, 0)

  return Edits(heads=heads) if kind == "uniform" else Edits(mixed=mixed)


def losses(
  model: Any,
  tokens: Int[Array, "B T"],
  valid: Bool[Array, "B T"] | None = None,
  *,
  head_mask: Any = None,
  kind: str = "uniform",
  window: int = 0,
) -> Float[Array, "B"]:
  """Computes the mean cross-entropy of each document's next tokens, in nats.

  Args:
    model: a causal language model with `trace`.
    tokens: the documents.
    valid: False at padding, which is behind the tokens.
    head_mask: as in `mask_heads`; None for the model as it is.
    kind: as in `attend`.
    window: tokens that the model sees at a time: longer documents are cut, and averaged
      by token; 0 does not cut.

  Raises:
    ValueError: for a negative window.
  """
  if window < 0:
    raise ValueError(f"window = {window}; it must be 0 or more")
  B, T = tokens.shape
  valid = jnp.ones((B, T), bool) if valid is None else valid
  size = min(window, T) if window else T
  padded = [jnp.pad(x, ((0, 0), (0, -T % size))) for x in (tokens, valid)]
  tokens, valid = (x.reshape(-1, size) for x in padded)
  edit = None if head_mask is None else mask_heads(head_mask, kind)
  logits = model.trace(tokens, valid=valid, edit=edit).output
  chance = jax.nn.log_softmax(logits[:, :-1].astype(jnp.float32))
  loss = -jnp.take_along_axis(chance, tokens[:, 1:, None], axis=2)[..., 0]
  counted = valid[:, 1:] & valid[:, :-1]
  sums, number = (x.reshape(B, -1).sum(1) for x in (loss * counted, counted))
  return sums / jnp.maximum(number, 1)


def influence_score(
  model: Any,
  tokens: Int[Array, "B T"],
  valid: Bool[Array, "B T"] | None = None,
  *,
  head_mask: Any,
  kind: str = "uniform",
  relative_to: str = "base",
  floor: float = 0.1,
  window: int = 0,
) -> Float[Array, "B"]:
  """Computes how much of its loss each document gains by masked heads.

    score = (L_ref - L_base) / L_base      ref masked, base as the model is

  Args:
    model: as in `losses`.
    tokens: as there.
    valid: as there.
    head_mask: as there, (L, N).
    kind: as there.
    relative_to: "base", "ref", or "none" for the difference alone.
    floor: nats that the divisor has at least.
    window: as there.

  Raises:
    ValueError: for an unknown word.
  """
  check_known("relative_to", relative_to, RELATIVE)
  masks = jnp.stack([jnp.ones(jnp.shape(head_mask), bool), jnp.asarray(head_mask)])
  # One program for both: heads that all stay give 0 exactly.
  how = {"kind": kind, "window": window}
  base, ref = jax.lax.map(
    lambda mask: losses(model, tokens, valid, head_mask=mask, **how), masks
  )
  if relative_to == "none":
    return ref - base
  return (ref - base) / jnp.maximum(base if relative_to == "base" else ref, floor)


def select(
  scores: Float[np.ndarray, "n"], domains: Sequence[Hashable], share: float = 0.2
) -> Bool[np.ndarray, "n"]:
  """Returns which documents are kept: the greatest scores of each domain.

  Args:
    scores: of documents.
    domains: of each document; losses of different domains cannot be compared.
    share: of a domain's documents; one at least.

  Raises:
    ValueError: for a share that is not in (0, 1], or lists of different lengths.
  """
  if not 0 < share <= 1:
    raise ValueError(f"share = {share}; it must be above 0 and at most 1")
  if len(scores) != len(domains):
    raise ValueError(f"{len(scores)} scores and {len(domains)} domains")
  chosen = np.zeros(len(scores), bool)
  for domain in dict.fromkeys(domains):
    own = np.flatnonzero([other == domain for other in domains])
    order = own[np.argsort(-np.asarray(scores)[own], kind="stable")]
    chosen[order[: max(1, round(share * len(own)))]] = True
  return chosen
