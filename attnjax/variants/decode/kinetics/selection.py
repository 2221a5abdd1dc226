"""Block top-k attention of one new token: scores of pooled keys, the best blocks."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import Case, check_known
from attnjax.ops import chosen_keys

IMPLEMENTATIONS = ("reference", "xla")
attend_places = chosen_keys.attend


def block_scores(
  q: Float[Array, "B N H"], pooled: Float[Array, "B P K H"]
) -> Float[Array, "B K P"]:
  """Computes scores of blocks, the mean over a group's heads of q . (a mean key).

  Equal to the mean of the logits of a block's tokens, since products are linear.

  Args:
    q: queries.
    pooled: mean keys of the blocks.
  """
  B, N, H = q.shape
  own = q.astype(jnp.float32).reshape(B, pooled.shape[2], -1, H).mean(axis=2)
  return jnp.einsum("bkh,bpkh->bkp", own, pooled.astype(jnp.float32))


def pooled_logits(
  logits: Float[Array, "B N S"], kv_heads: int, *, block: int, sink: int
) -> Float[Array, "B K P"]:
  """Computes scores of blocks, the mean logit of a group's heads and a block's tokens.

  Args:
    logits: of all tokens.
    kv_heads: K, which divides N.
    block: tokens of a block.
    sink: first tokens, before the first block.
  """
  B, N, S = logits.shape
  P = max((S - sink) // block, 0)
  some = logits[:, :, sink : sink + P * block]
  return some.reshape(B, kv_heads, N // kv_heads, P, block).mean(axis=(2, 4))


def select_blocks(
  scores: Float[Array, "B K P"],
  lengths: Int[Array, "B"],
  *,
  blocks: int = 64,
  block: int = 16,
  local: int = 256,
  sink: int = 4,
) -> tuple[Int[Array, "B K M"], Bool[Array, "B K M"]]:
  """Chooses the tokens that each key head's group reads: (places, real).

  The first `sink` tokens, `blocks` blocks, and the last `local` tokens with those
  before them that fill no block; M = sink + blocks block + local + block - 1. All
  tokens of a row that has no more than sink + local + blocks block of them, rounded up
  to a multiple of `block`. With `block` = 1 it is top-k of tokens.

  Args:
    scores: of the blocks, from the token `sink` on.
    lengths: tokens of each row.
    blocks: k.
    block: s, tokens of a block.
    local: w, last tokens.
    sink: first tokens.
  """
  B, K, P = scores.shape
  lengths, k = lengths[:, None, None], min(blocks, P)
  count = jnp.maximum(lengths - local - sink, 0) // block
  number = jnp.arange(P, dtype=jnp.int32)
  found = jnp.where(number < count, jax.lax.stop_gradient(scores), -jnp.inf)
  best, ids = jax.lax.top_k(found, k)
  inside = jnp.arange(block, dtype=jnp.int32)
  chosen = (sink + ids[..., None] * block + inside).reshape(B, K, -1)
  real = jnp.repeat(best > -jnp.inf, block, axis=-1)
  first = jnp.arange(sink, dtype=jnp.int32)
  last = sink + count * block + jnp.arange(local + block - 1, dtype=jnp.int32)
  parts = first, chosen, last
  wide = [jnp.broadcast_to(x, (B, K, x.shape[-1])) for x in parts]
  places = jnp.concatenate(wide, axis=-1).astype(jnp.int32)
  real = jnp.concatenate([wide[0] < lengths, real, wide[2] < lengths], axis=-1)
  sparse = lengths > applies_above(blocks, block, local, sink)
  every = jnp.broadcast_to(jnp.arange(places.shape[-1], dtype=jnp.int32), places.shape)
  return jnp.where(sparse, places, every), jnp.where(sparse, real, every < lengths)


def applies_above(blocks: int, block: int, local: int, sink: int) -> int:
  """Returns the length up to which a row is read whole."""
  return -(-(sink + local + blocks * block) // block) * block


def attend(
  q: Float[Array, "B N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  *,
  lengths: Int[Array, "B"],
  blocks: int = 64,
  block: int = 16,
  local: int = 256,
  sink: int = 4,
  impl: str = "auto",
) -> Float[Array, "B N V"]:
  """Computes attention of one new token a row to its best blocks.

  Args:
    q: queries.
    k: keys, those of the new token included; K divides N.
    v: values.
    lengths: tokens of each row; later ones are not seen.
    blocks: as in `select_blocks`, and so are the next three.
    block: s.
    local: w.
    sink: first tokens.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  given = {"blocks": blocks, "block": block, "local": local, "sink": sink}
  if impl == "reference":
    return reference(q, k, v, lengths=lengths, **given)
  B, S, K, H = k.shape
  P = max((S - sink) // block, 0)
  pooled = k[:, sink : sink + P * block].reshape(B, P, block, K, H)
  scores = block_scores(q, pooled.astype(jnp.float32).mean(axis=2))
  chosen = select_blocks(scores, lengths, **given)
  return attend_places(q, k, v, *chosen, impl="xla")


def reference(q, k, v, *, lengths, blocks=64, block=16, local=256, sink=4):
  """Computes the definition: all logits, and a mask of the tokens that are read."""
  (B, S, K, H), N = k.shape, q.shape[1]
  wide = jnp.promote_types(q.dtype, jnp.float32)
  own = jnp.repeat(k.astype(wide), N // K, axis=2)
  logits = jnp.einsum("bnh,bsnh->bns", q.astype(wide), own)
  token, ids = jnp.arange(S), jnp.arange(S)
  n = lengths[:, None]
  count = jnp.maximum(n - local - sink, 0) // block
  number = jnp.where(token >= sink, (token - sink) // block, -1)
  member = (number[None] == ids[:, None]).astype(wide) / block  # (blocks, S)
  mean = jnp.einsum("bkgs,ps->bkp", logits.reshape(B, K, -1, S), member) / (N // K)
  mean = jnp.where((ids < count)[:, None], jax.lax.stop_gradient(mean), -1e30)
  above = (mean[..., None, :] > mean[..., None]) | (
    (mean[..., None, :] == mean[..., None]) & (ids < ids[:, None])
  )
  kept = (above.sum(-1) < blocks) & (ids < count)[:, None]  # (B, K, blocks)
  dynamic = jnp.take_along_axis(
    kept, jnp.broadcast_to(jnp.maximum(number, 0), (B, K, S)), axis=2
  )
  border = (token < sink) | (token >= sink + count * block)
  enough = -(-(sink + local + blocks * block) // block) * block
  seen = (dynamic | border[:, None] | (n <= enough)[:, None]) & (token < n)[:, None]
  seen = jnp.repeat(seen, N // K, axis=1)
  score = jnp.where(seen, logits / math.sqrt(H), -1e30)
  weight = jnp.exp(score - score.max(-1, keepdims=True)) * seen
  total = weight.sum(-1, keepdims=True)
  weight = weight / jnp.where(total, total, 1)
  values = jnp.repeat(v.astype(wide), N // K, axis=2)
  return jnp.einsum("bns,bsnv->bnv", weight, values).astype(q.dtype)


def _case(name, B, S, N, K, H, V, lengths, **options):
  shapes = {"q": (B, N, H), "k": (B, S, K, H), "v": (B, S, K, V)}
  given = {"lengths": lambda key: jnp.array(lengths, jnp.int32)}
  return Case(name, shapes, given | options)


_TINY = {"blocks": 2, "block": 4, "local": 5, "sink": 3}
CASES = (
  _case("grouped", 2, 63, 4, 2, 8, 8, [63, 41], **_TINY),
  _case("one_token", 1, 1, 1, 1, 4, 4, [1]),
  _case("one_head", 3, 65, 1, 1, 8, 5, [65, 20, 21], **_TINY),
  _case("tokens", 2, 33, 2, 1, 8, 8, [33, 0], blocks=5, block=1, local=2, sink=1),
  _case("window", 1, 33, 2, 2, 4, 4, [33], blocks=0, block=4, local=6, sink=0),
  _case("covered", 1, 7, 2, 1, 4, 4, [7], **_TINY),
)
