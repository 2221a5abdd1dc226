"""The layer: seven kinds, each without a principle of softmax attention."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.nn import projections
from attnjax.variants.softmax import dot_product
from attnjax.variants.softmax.deconstructed import decode, streams
from attnjax.variants.softmax.deconstructed.attention import (
  IMPLEMENTATIONS,
  NORMALISE,
  fixed_qk_attention,
  gated_mean_attention,
  taylor_attention,
)

FORMS = ("causal",)
# What queries and keys are made of, besides the layer's input.
READS = {"rndemb": "fixed", "fixedseq": "fixed", "staticemb": "embeddings"}
KINDS = ("standard", "mlp", "approximate", "nonapprox", *READS)
_NO_PLACES = {
  "mlp": "kind 'mlp' mixes no tokens",
  "nonapprox": "kind 'nonapprox': a rotation cancels in q[s] . k[s]",
} | dict.fromkeys(
  ("rndemb", "fixedseq"), "the places of the fixed sequence are counted"
)
_INIT = nnx.initializers.normal(0.02)


class Layer(nnx.Module):
  """Causal attention with a principle taken out; x (B, T, D).

  Args:
    dim: D.
    form: "causal".
    heads: N.
    head_dim: H; dim / heads if 0.
    kind: one of KINDS, see the page of the system.
    rope_theta: of the rotary positions; 0 for none.
    normalise: of "approximate", see `taylor_attention`.
    chunk: of "approximate"; -1 takes chunks of `taylor.CHUNK` where they cost less.
    fixed_seed: of what "rndemb" and "fixedseq" draw.
    fixed_scale: standard deviation of the inputs of "rndemb".
    fixed_tokens: the sequence of "fixedseq"; () draws one.
    stop_gradient: whether no gradient goes into the hidden states of the stream.
    impl: as in the functions.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "causal",
    heads: int = 4,
    head_dim: int = 0,
    kind: str = "approximate",
    rope_theta: float = 10000.0,
    normalise: str = "common",
    chunk: int = -1,
    fixed_seed: int = 0,
    fixed_scale: float = 0.02,
    fixed_tokens: tuple[int, ...] = (),
    stop_gradient: bool = False,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS),
      kind=(kind, KINDS),
      normalise=(normalise, NORMALISE),
      impl=(impl, ("auto", *IMPLEMENTATIONS)),
    )
    size = projections.head_size(dim, heads, head_dim)
    if kind == "mlp":
      # 3 D inner weights, as many as the 4 D N H of the other kinds.
      inner = round(4 * heads * size / 3)
      self.gate, self.up = (_linear(dim, inner, rngs) for _ in range(2))
      self.down = _linear(inner, dim, rngs)
    else:
      self.qkv = projections.QueryKeyValue(
        dim, heads, heads, size, rope_theta=rope_theta, rngs=rngs
      )
      self.out = projections.output(heads, size, dim, rngs=rngs)
    self.dim, self.shape, self.kind = dim, (heads, size), kind
    self.normalise, self.chunk, self.impl = normalise, chunk, impl
    self.fixed = fixed_seed, fixed_scale, tuple(fixed_tokens)
    self.rope_theta, self.stop_gradient = rope_theta, stop_gradient

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    if self.kind in _NO_PLACES:
      return {"positions": _NO_PLACES[self.kind]}
    return {} if self.rope_theta else contexts.NO_PLACES

  @property
  def reads(self) -> str:
    """Returns which stream a host gives: "fixed", "embeddings" or "", for none."""
    return READS.get(self.kind, "")

  @property
  def fixed_source(self) -> tuple:
    """Returns what tells one fixed sequence from another."""
    return self.kind, *self.fixed

  def fixed_stream(
    self, length: int, embedding: Float[Array, "V D"]
  ) -> Float[Array, "1 L D"]:
    """Returns the embeddings of the fixed sequence, with which its stream begins.

    Args:
      length: L.
      embedding: the model's table of tokens, which "fixedseq" reads.
    """
    seed, scale, given = self.fixed
    if self.kind == "rndemb":
      found = streams.noise(length, embedding.shape[1], seed, scale)
      return found.astype(embedding.dtype)
    return embedding[streams.tokens(length, len(embedding), seed, given)][None]

  def project(
    self,
    x: Float[Array, "B T D"],
    *,
    stream: Float[Array, "..."] | None = None,
    **context: Unpack[Context],
  ) -> Heads:
    """Returns the queries, keys and values of every token.

    Args:
      x: the tokens.
      stream: what queries and keys are made of: (1, L, D), L >= T, the fixed sequence's
        hidden states; (B, T, D), the tokens' embeddings; None in the other kinds.
      **context: see `attnjax.contract.forms.causal`.

    Raises:
      ValueError: if the kind needs a stream and has none, or has one and needs none.
    """
    tokens = contexts.accept(x, context, form="causal", refuses=self.refuses)
    if self.kind == "mlp":
      inner = jax.nn.silu(self.gate(tokens.x)) * self.up(tokens.x)
      return Heads(None, None, inner[:, :, None], tokens)
    source = self.source(tokens.x, stream, tokens.ids)
    fixed = self.reads == "fixed"
    places = jnp.arange(source.shape[1]) if fixed else tokens.places
    q, k = self.queries_and_keys(source, places)
    v = self.qkv.value(tokens.x)
    return Heads(q, k, v, tokens, {"segment_ids": tokens.ids})

  def mix(self, heads: Heads) -> Float[Array, "B T N H"]:
    """Returns the kind's function of the heads."""
    arrays, given = (heads.q, heads.k, heads.v), heads.seen | {"impl": self.impl}
    if self.kind == "mlp":
      return heads.v
    if "kv_segment_ids" in heads.seen or self.kind in ("standard", "staticemb"):
      return dot_product.attend(*arrays, causal=True, **given)
    if self.kind == "approximate":
      return taylor_attention(*arrays, **self.taylor(), **given)
    if self.kind == "nonapprox":
      return gated_mean_attention(*arrays, **given)
    return fixed_qk_attention(*arrays, **given)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B T D"]:
    """Returns the projection of all heads' results."""
    out = out.astype(heads.tokens.x.dtype)
    return self.down(out[:, :, 0]) if self.kind == "mlp" else self.out(out)

  def __call__(
    self,
    x: Float[Array, "B T D"],
    *,
    stream: Float[Array, "..."] | None = None,
    **context: Unpack[Context],
  ) -> Float[Array, "B T D"]:
    """Returns the layer's output; see `project`."""
    if 0 in x.shape:
      return self._nothing(x)
    heads = self.project(x, stream=stream, **context)
    return self.merge(self.mix(heads), heads)

  def init_cache(
    self, batch: int, length: int, dtype: Any = jnp.float32, *, stream: Any = None
  ) -> Any:
    """Returns the cache of no tokens, with room for `length`; `stream` as in a call."""
    return decode.empty(self, batch, length, dtype, stream)

  def step(
    self,
    x: Float[Array, "B T D"],
    cache: Any,
    *,
    stream: Float[Array, "B T D"] | None = None,
    **context: Unpack[Context],
  ) -> tuple[Float[Array, "B T D"], Any]:
    """Returns the outputs of the next T tokens, and the cache after them.

    `stream` holds their embeddings in "staticemb", and is None in the other kinds: a
    cache has the fixed sequence.
    """
    if 0 in x.shape:
      return self._nothing(x), cache
    return decode.step(self, x, cache, {**context, "stream": stream})

  def queries_and_keys(self, source: Array, places: Array) -> tuple[Array, Array]:
    """Returns q and k (B, T, N, H) of what they are made of, at its places."""
    q, k = self.qkv.query(source), self.qkv.key(source)
    if self.kind == "nonapprox":
      return jax.nn.silu(q), k
    return self.qkv.rotate(q, k, places)

  def source(self, x: Array, stream: Any, ids: Any = None) -> Array:
    """Returns what queries and keys of x are made of; see `project`."""
    if (stream is None) != (not self.reads):
      needs = "takes no stream" if stream is not None else "needs a stream of its host"
      raise ValueError(f"kind {self.kind!r} {needs}")
    if stream is None:
      return x
    B, T = x.shape[:2]
    if self.reads == "fixed" and (len(stream) != 1 or stream.shape[1] < T):
      raise ValueError(f"stream {stream.shape} for {T} tokens: it is (1, L, D), L >= T")
    if self.reads == "embeddings" and stream.shape[:2] != (B, T):
      raise ValueError(f"stream {stream.shape} for x {x.shape}: one for each token")
    stream = jax.lax.stop_gradient(stream) if self.stop_gradient else stream
    if self.reads == "fixed" or ids is None:
      return stream
    return jnp.where((ids >= 0)[..., None], stream, 0)

  def taylor(self) -> dict[str, Any]:
    """Returns the layer's options of `taylor_attention`."""
    chunk = None if self.chunk < 0 else self.chunk
    return {"causal": True, "normalise": self.normalise, "chunk": chunk}

  def _nothing(self, x):
    return jnp.zeros(x.shape, jnp.result_type(x, jax.tree.leaves(self)[0]))


def _linear(size, other, rngs):
  return nnx.Linear(size, other, use_bias=False, kernel_init=_INIT, rngs=rngs)
