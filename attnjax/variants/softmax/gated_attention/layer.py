"""The layer: projections, rotary positions, attention, and a gate in five places."""

import dataclasses
from typing import Any, Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_known, check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core.cache import KeyValueCache
from attnjax.nn import projections
from attnjax.nn.gate import Gate
from attnjax.ops import self_attention
from attnjax.variants.softmax import dot_product
from attnjax.variants.softmax.gated_attention.attention import attend

FORMS = ("causal", "sequence", "image")
GATES = ("elementwise", "headwise", "none")
POSITIONS = ("sdpa", "value", "key", "query", "output")


class Layer(nnx.Module):
  """Projections, rotary positions, `attend` and a gate; x (B, T, D) or (B, H, W, D).

  Queries and keys are gated between their norm, which would undo a headwise gate, and
  their rotation.
  """

  chosen_keys = "gathered"  # by a cache policy

  def __init__(
    self,
    dim: int,
    *,
    form: str,
    heads: int = 4,
    kv_heads: int = 0,  # 0: as many as heads
    head_dim: int = 0,  # 0: dim / heads
    gate: str = "elementwise",  # "headwise", "elementwise" or "none"
    gate_at: str = "sdpa",  # "sdpa", "value", "key", "query", "output"
    share_heads: bool = False,  # one gate for all heads
    from_input: bool = True,  # False: the gate is a parameter, 0 at the start
    combine: str = "mul",  # as in `attend`
    act: str = "sigmoid",  # as in `attend`
    qk_norm: bool = True,
    rope_theta: float = 10000.0,  # 0: no rotation
    qkv_bias: bool = False,
    out_bias: bool = False,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    kv_heads, size = kv_heads or heads, projections.head_size(dim, heads, head_dim)
    count = kv_heads if gate_at in ("value", "key") else heads
    shape = _gate_shape(gate, gate_at, dim, 1 if share_heads else count, size)
    check_known("form", form, FORMS)
    if share_heads and gate_at == "output":
      raise ValueError("share_heads: gate_at 'output' comes after the heads' sum")
    options = {"qk_norm": qk_norm, "rope_theta": rope_theta, "rngs": rngs}
    self.qkv = projections.QueryKeyValue(
      dim, heads, kv_heads, size, bias=qkv_bias, **options
    )
    self.out = projections.output(heads, size, dim, bias=out_bias, rngs=rngs)
    options = {"act": act, "combine": combine, "from_input": from_input}
    self.gate = (
      None if gate == "none" else Gate(dim, shape, bias=qkv_bias, **options, rngs=rngs)
    )
    self.form, self.gate_at, self.impl = form, gate_at, impl
    self.kv_heads, self.size = kv_heads, size

  @property
  def heads(self) -> int:
    """Returns N, the query heads that the layer has, also after some were pruned."""
    return self.qkv.query.kernel.shape[-2]

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    return {} if self.qkv.rope_theta else contexts.NO_PLACES

  def project(self, x: Float[Array, "B *T D"], **context: Unpack[Context]) -> Heads:
    """Returns the heads of every token, gated and rotated."""
    heads = self_attention.heads(
      x, context, self._heads, form=self.form, refuses=self.refuses
    )
    if self.gate is None or self.gate_at != "sdpa":
      return heads
    gate = self.gate.values(heads.tokens.rows)
    return dataclasses.replace(heads, more={"gate": gate})

  def mix(self, heads: Heads, *, bias: Array | None = None) -> Float[Array, "B T N H"]:
    """Returns `attend` of the heads, with a bias (B|1, N|1, T|1, S|1) of scores."""
    given = self._given(heads) | {"bias": bias}
    if self.gate is None or "gate" not in heads.more:
      return dot_product.attend(heads.q, heads.k, heads.v, **given)
    given |= {"act": self.gate.act, "combine": self.gate.combine}
    return attend(heads.q, heads.k, heads.v, heads.more["gate"], **given)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B *T D"]:
    """Returns the gated projection of all heads' outputs, in the input's shape."""
    x, rows = heads.tokens.x, heads.tokens.rows
    return self._gated("output", rows, self.out(out.astype(x.dtype))).reshape(x.shape)

  def __call__(
    self, x: Float[Array, "B *T D"], **context: Unpack[Context]
  ) -> Float[Array, "B *T D"]:
    """Returns the layer's output for x, in its shape; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> KeyValueCache:
    """Returns an empty cache with room for `length` tokens."""
    return self_attention.empty_cache(
      self.form, batch, length, self.kv_heads, self.size, dtype, self.heads
    )

  def step(
    self, x: Float[Array, "B T D"], cache: KeyValueCache, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T D"], KeyValueCache]:
    """Returns the outputs of the next T tokens, and the cache with them appended."""
    return self_attention.step(self, x, cache, context)

  def _given(self, heads) -> dict[str, Any]:
    return {"causal": self.form == "causal", "impl": self.impl} | heads.seen

  def _gated(self, gate_at, x, y):
    return y if self.gate is None or self.gate_at != gate_at else self.gate(x, y)

  def _heads(self, x, positions):
    q, k, v = self.qkv.heads(x)
    q, k = self._gated("query", x, q), self._gated("key", x, k)
    return *self.qkv.rotate(q, k, positions), self._gated("value", x, v)


def _gate_shape(gate, gate_at, dim, heads, size):
  check_options(gate=(gate, GATES), gate_at=(gate_at, POSITIONS))
  whole = (dim,) if gate_at == "output" else (heads, size)
  return whole if gate == "elementwise" else (*whole[:-1], 1)
