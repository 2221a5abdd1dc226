"""The layer: projections, convolutions of heads, and `attend`, in four kinds."""

import dataclasses
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core.cache import KeyValueCache
from attnjax.core.exported import serializable
from attnjax.nn import projections, unseen
from attnjax.nn.convolution import ConvolutionCache
from attnjax.nn.segment_memory import SegmentMemory
from attnjax.variants.softmax.rcmha.attention import IMPLEMENTATIONS, attend
from attnjax.variants.softmax.rcmha.convolution import ConvolvedHeads
from attnjax.variants.softmax.rcmha.distances import Distances

FORMS = ("causal",)
KINDS = ("rcmha", "mdha", "rmha", "mha")
_TERMS = {"rcmha": "learned", "rmha": "sinusoids", "mdha": "none", "mha": "none"}
FILTERS = ("auto", "shared", "apart")
BIASES = ("auto", "all", "none")


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """The decoding cache: convolved keys and values, and what the next ones read.

  Attributes:
    attention: keys and values of all tokens so far.
    inputs: the layer's last conv_width - 1 inputs.
  """

  attention: KeyValueCache
  inputs: ConvolutionCache


class Layer(nnx.Module):
  """Causal attention with relative distances and convolved heads; x (B, T, D).

  Args:
    dim: D.
    form: "causal".
    heads: N.
    head_dim: H; dim / heads if 0.
    kind: "rcmha": convolutions, and learned vectors and biases of distances; "mdha":
      convolutions; "rmha": projected sinusoids of distances; "mha": neither.
    conv_width: tokens that a convolution reads.
    filters: "shared" or "apart", see `HeadConvolution`; "auto": shared in "rcmha".
    linear_bias: the projections that have a bias: "all", "none", or by "auto" those of
      values and results in "rcmha", and else none.
    shared_qk: queries are projected from the convolved keys, as an option of Primer's.
    conv_halo: queries' convolutions read a segment memory, as those of keys do.
    own_biases: False: the vectors added to queries are an argument of `project`.
    max_distance: distances above it count as it.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "causal",
    heads: int = 4,
    head_dim: int = 0,
    kind: str = "rcmha",
    conv_width: int = 3,
    filters: str = "auto",
    linear_bias: str = "auto",
    shared_qk: bool = False,
    conv_halo: bool = False,
    own_biases: bool = True,
    max_distance: int = 4096,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS),
      kind=(kind, KINDS),
      filters=(filters, FILTERS),
      linear_bias=(linear_bias, BIASES),
      impl=(impl, ("auto", *IMPLEMENTATIONS)),
    )
    if conv_width < 1 or max_distance < 0:
      raise ValueError(
        f"conv_width = {conv_width}, max_distance = {max_distance}: at least 1 and 0"
      )
    size = projections.head_size(dim, heads, head_dim)
    own = kind == "rcmha"
    some = {"all": ("query", "key", "value"), "none": ()}
    biases = some.get(linear_bias, ("value",) if own else ())
    self.heads = ConvolvedHeads(
      dim,
      heads,
      size,
      conv_width if kind in ("rcmha", "mdha") else 0,
      shared=own if filters == "auto" else filters == "shared",
      biases=biases,
      shared_qk=shared_qk,
      rngs=rngs,
    )
    self.distances = Distances(
      dim, heads, size, kind=_TERMS[kind], most=max_distance, own=own_biases, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=bool(biases), rngs=rngs)
    self.dim, self.shape, self.conv_halo = dim, (heads, size), conv_halo
    self.kind, self.impl = kind, impl

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    if _TERMS[self.kind] != "none":
      return {}
    return {"positions": f"kind {self.kind!r} reads no distances"}

  def project(
    self,
    x: Float[Array, "B T D"],
    *,
    memory: SegmentMemory | None = None,
    biases: tuple[Any, Any] | None = None,
    **context: Unpack[Context],
  ) -> Heads:
    """Returns the convolved heads of x, with keys and values of a memory before it.

    Args:
      x: the segment.
      memory: earlier inputs; their queries are not asked, and by default (`conv_halo`)
        the first queries' convolutions do not reach into them.
      biases: u and w of `attend`, in place of the layer's own.
      **context: see `attnjax.contract.forms.causal`; no positions with a memory.
    """
    tokens = contexts.accept(x, context, form="causal", refuses=self.refuses)
    seen: dict[str, Any] = {"segment_ids": tokens.ids}
    row, ids = tokens.x, tokens.ids
    if memory is not None:
      if tokens.positions is not None:
        raise NotImplementedError(
          "positions: a memory keeps none; distances are counted"
        )
      row, ids = memory.before(tokens.x, tokens.ids)
      seen = {"segment_ids": ids[:, memory.length :], "kv_segment_ids": ids}
    elif tokens.positions is not None:
      seen["positions"] = tokens.positions.reshape(-1, x.shape[1])
    q, k, v = self.heads(row, ids, x.shape[1], self.conv_halo)
    return Heads(q, k, v, tokens, seen, {"biases": biases})

  def mix(
    self, heads: Heads, *, dropout_rate: float = 0.0, key: Key[Array, ""] | None = None
  ) -> Float[Array, "B T N H"]:
    """Returns `attend` of the heads, with dropout of the weights if a key is given."""
    drop = {} if key is None else {"dropout_rate": dropout_rate, "dropout_key": key}
    counted = "positions" not in heads.seen
    terms = self.distances(
      heads.k.shape[1] if counted else None, heads.more.get("biases")
    )
    given: dict[str, Any] = {"impl": self.impl} | terms | drop | heads.seen
    return attend(heads.q, heads.k, heads.v, **given)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B T D"]:
    """Returns the projection of all heads' results."""
    return self.out(out.astype(heads.tokens.x.dtype))

  def __call__(
    self,
    x: Float[Array, "B T D"],
    *,
    memory: SegmentMemory | None = None,
    **context: Unpack[Context],
  ) -> Float[Array, "B T D"]:
    """Returns the layer's output; see `attnjax.contract.forms.causal` and `project`."""
    given: Any = context if memory is None else {"memory": memory} | context
    return contexts.run(self, x, given)

  def init_cache(self, batch: int, length: int, dtype: Any = jnp.float32) -> Cache:
    """Returns an empty cache with room for `length` tokens."""
    past = batch, self.heads.past
    inputs = jnp.zeros((*past, self.dim), dtype)
    return Cache(
      KeyValueCache.empty(batch, length, self.shape, self.shape, dtype),
      ConvolutionCache(inputs, jnp.full(past, -1, jnp.int32)),
    )

  def step(
    self,
    x: Float[Array, "B T D"],
    cache: Cache,
    *,
    biases: tuple[Any, Any] | None = None,
    **context: Unpack[Context],
  ) -> tuple[Float[Array, "B T D"], Cache]:
    """Returns the outputs of the next T tokens, and the cache after them."""
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    if context.get("positions") is not None:
      raise NotImplementedError("positions: a cache keeps none; distances are counted")
    tokens = contexts.accept(x, context, form="causal", refuses=self.refuses)
    T, start, past = x.shape[1], cache.attention.length, cache.inputs
    row, ids = SegmentMemory(past.x, past.segment_ids).before(tokens.x, tokens.ids)
    q, k, v = self.heads(row, ids, T, True)
    after = cache.attention.append(k[:, -T:], v[:, -T:], ids[:, -T:])
    seen = {"segment_ids": ids[:, -T:], "kv_segment_ids": after.segment_ids}
    heads = Heads(
      q, after.k, after.v, tokens, seen | {"offset": start}, {"biases": biases}
    )
    inputs = ConvolutionCache(row[:, T:].astype(past.x.dtype), ids[:, T:])
    return self.merge(self.mix(heads), heads), Cache(after, inputs)
