"""Gated Attention for Large Language Models: Non-linearity, Sparsity, Sink-Free.

Zihan Qiu et al. 2025. arXiv:2505.06708. Code: github.com/qiuzh20/gated_attention.

  A = softmax(scale q k^T)                          masked, causal by default
  out[t, n] = (A v)[t, n] * act(gate[t, n])         or + act(gate) for combine "add"

with the gate a projection of the layer's input. That is position "sdpa" (G1), the
paper's choice: it depends on the query and lies between the projections of the values
and of the output, which are one linear map without it. The layer also has the other
positions of the study: "value" (G2) and "key" (G3), gated at the key's token, "query"
(G4), and "output" (G5), after the output projection. A headwise gate is one number a
head, an elementwise gate has one for each feature of the head.

No bias, weights normal(0.02): at the start a sigmoid gate is 1/2 everywhere.

Cost: as dot-product attention, plus D N weights and as many multiplications a token
for a headwise gate, D N H for an elementwise one. Decoding keeps 2 K H elements a
token; with G2 and G3 the cache holds gated values and keys.

Axes: B batch, T query tokens, S key tokens, N query heads, K key/value heads, H head
size, V value size, D model width.
"""

from typing import Any, Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import Case, check_known, check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core import definition
from attnjax.core.cache import KeyValueCache
from attnjax.nn import gate as gates
from attnjax.nn import projections
from attnjax.nn.gate import Gate
from attnjax.ops import self_attention
from attnjax.variants.softmax import dot_product

IMPLEMENTATIONS = dot_product.IMPLEMENTATIONS
FORMS = ("causal", "sequence", "image")
GATES = ("elementwise", "headwise", "none")
POSITIONS = ("sdpa", "value", "key", "query", "output")


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  gate: Float[Array, "B T #N #V"],
  *,
  causal: bool = False,
  offset: Int[Array, ""] | int | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  kv_segment_ids: Int[Array, "B S"] | None = None,
  mask: Bool[Array, "#B #N #T #S"] | None = None,
  bias: Float[Array, "#B #N #T #S"] | None = None,
  act: str = "sigmoid",
  combine: str = "mul",
  scale: float | None = None,
  return_lse: bool = False,
  impl: str = "auto",
) -> Any:
  """Computes softmax attention with a gate at its output (G1), (B, T, N, V).

  Args:
    q: queries.
    k: keys; K divides N, query head n reads key head n K // N.
    v: values.
    gate: before its activation; shared by the heads if N is 1, headwise if V is 1.
    causal: token t sees the keys s <= t + offset.
    offset: S - T if None, which aligns the last query with the last key.
    segment_ids: tokens see their own segment; negative ids see nothing.
    kv_segment_ids: the keys' segments; `segment_ids` if None (needs T = S).
    mask: True = may attend, in conjunction with the rest.
    bias: added to the scaled scores.
    act: "sigmoid", "silu" or "ns_sigmoid" (1/2 + sigmoid / 2), in float32.
    combine: "mul" or "add".
    scale: H^-0.5 if None.
    return_lse: also return the log of the softmax's denominator, (B, T, N) float32.
    impl: one of IMPLEMENTATIONS, or "auto", see `attnjax.attention`.

  Raises:
    ValueError: if shapes do not fit, or `act`, `combine` or `impl` is unknown.
  """
  gates.check(act, combine)
  given: dict[str, Any] = {"causal": causal, "offset": offset, "scale": scale}
  given |= {"segment_ids": segment_ids, "kv_segment_ids": kv_segment_ids}
  given |= {"mask": mask, "bias": bias}
  if impl == "reference":
    return reference(q, k, v, gate, act, combine, return_lse, **given)
  out, lse = dot_product.attend(q, k, v, **given, return_lse=True, impl=impl)
  if segment_ids is not None:
    gate = jnp.where((segment_ids >= 0)[..., None, None], gate, 0)
  out = gates.apply(out, gate, act=act, combine=combine)
  return (out, lse) if return_lse else out


def reference(q, k, v, gate, act="sigmoid", combine="mul", return_lse=False, **options):
  """Computes the definition: a (T, S) matrix of scores for each head, then the gate."""
  out, lse = dot_product.reference(q, k, v, return_lse=True, **options)
  gate, ids = definition.wide(gate), options.get("segment_ids")
  if ids is not None:
    gate = jnp.where((ids >= 0)[..., None, None], gate, 0)
  opened = 1 / (1 + jnp.exp(-gate))
  acts = {"sigmoid": opened, "silu": gate * opened, "ns_sigmoid": (1 + opened) / 2}
  wide, opened = definition.wide(out), acts[act]
  out = (wide * opened if combine == "mul" else wide + opened).astype(out.dtype)
  return (out, lse) if return_lse else out


class Layer(nnx.Module):
  """Projections, rotary positions, `attend` and a gate; x (B, T, D) or (B, H, W, D).

  Queries and keys are gated between their norm, which would undo a headwise gate, and
  their rotation.
  """

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
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    return {} if self.qkv.rope_theta else contexts.NO_PLACES

  def project(self, x: Float[Array, "B *T D"], **context: Unpack[Context]) -> Heads:
    """Returns the heads of every token, gated and rotated."""
    return self_attention.heads(
      x, context, self._heads, form=self.form, refuses=self.refuses
    )

  def mix(self, heads: Heads, *, bias: Array | None = None) -> Float[Array, "B T N H"]:
    """Returns `attend` of the heads, with a bias (B|1, N|1, T|1, S|1) of scores."""
    given = self._given(heads) | {"bias": bias}
    if self.gate is None or self.gate_at != "sdpa":
      return dot_product.attend(heads.q, heads.k, heads.v, **given)
    given |= {"act": self.gate.act, "combine": self.gate.combine}
    gate = self.gate.values(heads.tokens.rows)
    return attend(heads.q, heads.k, heads.v, gate, **given)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B *T D"]:
    """Returns the gated projection of all heads' outputs, in the input's shape."""
    x, rows = heads.tokens.x, heads.tokens.rows
    return self._gated("output", rows, self.out(out.astype(x.dtype))).reshape(x.shape)

  def __call__(
    self, x: Float[Array, "B *T D"], **context: Unpack[Context]
  ) -> Float[Array, "B *T D"]:
    """Returns the layer's output for x, in its shape; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def weights(self, x, **context: Unpack[Context]) -> Float[Array, "B N T T"]:
    """Returns the softmax weights, which a gate of the outputs does not change."""
    heads = self.project(x, **context)
    eye = projections.identity_values(heads.k)
    return dot_product.attend(heads.q, heads.k, eye, **self._given(heads)).swapaxes(
      1, 2
    )

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> KeyValueCache:
    """Returns an empty cache with room for `length` tokens."""
    return self_attention.empty_cache(
      self.form, batch, length, self.kv_heads, self.size, dtype
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


def _shapes(B, T, S, N, K, H, V, G):
  q, k, v = (B, T, N, H), (B, S, K, H), (B, S, K, V)
  return {"q": q, "k": k, "v": v, "gate": (B, T, *G)}


def _packed(_):
  return jnp.repeat(jnp.array([[0, 1, -1], [3, 3, 5]]), 13, axis=1)


def _case(name, shapes, **options):
  return Case(name, _shapes(*shapes), {"causal": True} | options)


_BIASED = _shapes(1, 9, 9, 2, 1, 8, 8, (2, 8)) | {"bias": (1, 2, 9, 9)}
CASES = (
  _case("elementwise", (2, 65, 65, 4, 2, 8, 8, (4, 8))),
  _case("headwise", (2, 63, 63, 4, 2, 8, 6, (4, 1)), return_lse=True),
  _case("shared", (1, 64, 64, 2, 2, 8, 8, (1, 8)), act="ns_sigmoid"),
  _case("one_token", (1, 1, 1, 1, 1, 4, 4, (1, 4))),
  _case("one_head", (1, 7, 7, 1, 1, 8, 5, (1, 1)), causal=False),
  _case("more_keys", (1, 7, 63, 2, 1, 8, 8, (2, 8)), scale=0.3),
  _case("more_queries", (1, 63, 7, 2, 1, 8, 8, (2, 1)), act="silu"),
  _case("segments", (2, 39, 39, 2, 1, 8, 8, (2, 8)), segment_ids=_packed),
  Case("biased", _BIASED, {"causal": True}),
  _case("added", (1, 33, 33, 2, 2, 8, 8, (2, 8)), act="silu", combine="add"),
)
LAYER = {"dim": 32, "heads": 4, "kv_heads": 2}
GROWTH = 2.0
