"""The layer: routed projections, attention of one head, and the shared expander."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core.cache import KeyValueCache
from attnjax.nn import projections
from attnjax.ops import self_attention
from attnjax.variants.heads.specialized_heads import routing
from attnjax.variants.heads.specialized_heads.attention import (
  IMPLEMENTATIONS,
  attend,
  taken,
)
from attnjax.variants.sparse.sparsifiner.connectivity import also_minimise

FORMS = ("causal", "sequence")
GRANULARITIES = ("auto", "sequence", "token")
COUNTS = ("auto", "token", "example", "batch")
_INIT = nnx.initializers.normal(0.02)


class SharedExpander(nnx.Module):
  """The feed-forward network of all heads: H -> F, GELU, F -> D, with biases."""

  def __init__(self, size: int, hidden: int, dim: int, *, rngs: nnx.Rngs):
    self.up = nnx.Linear(size, hidden, rngs=rngs)  # fan-in: lecun_normal
    self.down = nnx.Linear(hidden, dim, rngs=rngs)

  def __call__(self, h: Float[Array, "B T H"]) -> Float[Array, "B T D"]:
    """Returns the network's output."""
    return self.down(jax.nn.gelu(self.up(h), approximate=False))


class Layer(nnx.Module):
  """Expert Attention and the shared expander; x (B, T, D).

  The balance loss exists in the backward pass only, so that every trainer adds it;
  `learn` also returns it.

  Args:
    dim: D.
    form: "causal" or "sequence".
    layers: number of the model's layers, over which the loss is averaged.
    heads: N; with 1 there is no router, as after pruning.
    head_dim: H; dim / heads if 0.
    granularity: whether a "sequence" takes one head for all its tokens, or each
      "token" one; "auto": a token in form "causal", where a sequence's mean would tell
      of later tokens, else a sequence.
    hidden: F of the expander; 16 H if 0.
    balance: weight of the balance loss in the gradient; none if 0.
    counted: how often a batch's loss counts: as often as it has real tokens ("token"),
      rows with one ("example"), or once ("batch"); "auto": "token" if causal, else
      "example".
    rope_theta: of the rotary positions; none if 0.
    qkv_bias: of the projections to queries, keys and values.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  chosen_keys = "masked"  # by a cache policy

  def __init__(
    self,
    dim: int,
    *,
    form: str,
    layers: int = 1,
    heads: int = 8,
    head_dim: int = 0,
    granularity: str = "auto",
    hidden: int = 0,
    balance: float = 0.01,
    counted: str = "auto",
    rope_theta: float = 10000.0,
    qkv_bias: bool = False,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS),
      granularity=(granularity, GRANULARITIES),
      counted=(counted, COUNTS),
      impl=(impl, ("auto", *IMPLEMENTATIONS)),
    )
    causal = form == "causal"
    if causal and granularity == "sequence":
      raise ValueError(
        "granularity 'sequence' in form 'causal': the head would tell of later tokens"
      )
    auto = ("token", "token") if causal else ("sequence", "example")
    self.granularity = auto[0] if granularity == "auto" else granularity
    self.counted = auto[1] if counted == "auto" else counted
    size = projections.head_size(dim, heads, head_dim)
    self.qkv = projections.QueryKeyValue(
      dim, heads, heads, size, bias=qkv_bias, rope_theta=rope_theta, rngs=rngs
    )
    self.router = _router(dim, heads, rngs) if heads > 1 else None
    self.expander = SharedExpander(size, hidden or 16 * size, dim, rngs=rngs)
    self.form, self.heads, self.size, self.impl = form, heads, size, impl
    self.balance = balance / layers

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    return {} if self.qkv.rope_theta else contexts.NO_PLACES

  def project(self, x: Float[Array, "B T D"], **context: Unpack[Context]) -> Heads:
    """Returns the heads; those of a row's one head alone, where a row takes one."""
    tokens = contexts.accept(x, context, form=self.form, refuses=self.refuses)
    seen, more = {"segment_ids": tokens.ids}, {}
    if self.router is None:
      return Heads(*self.qkv(tokens.x, tokens.places), tokens, seen, more)
    packed = context.get("segment_ids") is not None
    if self.granularity == "token":
      real = jnp.ones(x.shape[:2], bool) if tokens.ids is None else tokens.ids >= 0
      read, weight = tokens.x, real.astype(x.dtype)
    else:
      read, weight = routing.documents(tokens.x, tokens.ids, packed)
    more = {"logits": self.router(read), "weight": weight}
    if self.granularity == "token" or packed:
      q, k, v = self.qkv(tokens.x, tokens.places)
    else:
      _, head = taken(more["logits"])
      parts = self.qkv.query, self.qkv.key, self.qkv.value
      q, k, v = (_projected(part, tokens.x, head[:, 0]) for part in parts)
      q, k = self.qkv.rotate(q, k, tokens.places)
    return Heads(q, k, v, tokens, seen, more)

  def mix(self, heads: Heads) -> Float[Array, "B T 1 H"]:
    """Returns `attend` of the heads, one output for a token."""
    given: dict[str, Any] = {"causal": self.form == "causal", "impl": self.impl}
    logits = heads.more.get("logits")
    if logits is None:  # the only head: its gate is 1
      logits = jnp.zeros((heads.q.shape[0], 1, 1), heads.q.dtype)
    return attend(heads.q, heads.k, heads.v, logits, **given, **heads.seen)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B T D"]:
    """Returns the expander's output; the backward pass adds the balance loss."""
    if self.balance and heads.more:
      loss = routing.balance_loss(heads.more["logits"], heads.more["weight"])
      out = also_minimise(out, self.balance * self._number(heads) * loss)
    return self.expander(out[:, :, 0].astype(heads.tokens.x.dtype))

  def __call__(
    self, x: Float[Array, "B T D"], **context: Unpack[Context]
  ) -> Float[Array, "B T D"]:
    """Returns the layer's output; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def learn(
    self, x: Float[Array, "B T D"], **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T D"], Float[Array, ""]]:
    """Returns (y, the balance loss), for a trainer that adds the loss itself.

    The loss has no weight yet. The layer should have `balance` = 0, or it counts twice.
    """
    heads = self.project(x, **context)
    loss = jnp.zeros(())
    if heads.more:
      loss = routing.balance_loss(heads.more["logits"], heads.more["weight"])
    return self.merge(self.mix(heads), heads), loss

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> KeyValueCache:
    """Returns an empty cache with room for `length` tokens.

    Raises:
      NotImplementedError: if the form does not decode.
    """
    return self_attention.empty_cache(
      self.form, batch, length, self.heads, self.size, dtype, self.heads
    )

  def step(
    self, x: Float[Array, "B T D"], cache: KeyValueCache, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T D"], KeyValueCache]:
    """Returns the outputs of the next T tokens, and the cache with them appended."""
    return self_attention.step(self, x, cache, context)

  def _number(self, heads):
    """Returns how often the loss of this batch counts."""
    ids, x = heads.tokens.ids, heads.tokens.x
    real = jnp.ones(x.shape[:2], bool) if ids is None else ids >= 0
    if self.counted == "batch":
      return 1.0
    return (real if self.counted == "token" else real.any(axis=1)).sum()


def _router(dim, heads, rngs):
  return nnx.Linear(dim, heads, use_bias=False, kernel_init=_INIT, rngs=rngs)


def _projected(part, x, head):
  """Returns the projection of each row of x by its own head, (B, T, 1, H)."""
  kernel = part.kernel[...].astype(x.dtype)[:, head]  # (D, B, H)
  y = jnp.einsum("btd,dbh->bth", x, kernel)
  if part.bias is not None:
    y = y + part.bias[...].astype(x.dtype)[head][:, None]
  return y[:, :, None]
