"""The layer: projections with biases, rotations, the operator, and the softmax."""

import dataclasses
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core import positions
from attnjax.nn import projections, unseen
from attnjax.ops import self_attention
from attnjax.variants.softmax import dot_product
from attnjax.variants.softmax.power_law_graph.attention import IMPLEMENTATIONS, attend
from attnjax.variants.softmax.power_law_graph.metric import INIT, Metric
from attnjax.variants.softmax.power_law_graph.operator import (
  DENSITIES,
  Cache,
  Operator,
  places,
)

FORMS = ("causal", "sequence")
# U(-D^-0.5, D^-0.5), PyTorch's default, which the authors' values keep.
_VALUE_INIT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_PROMPT = (
  "density 'full' decodes with the operator of the row's first step, which is of one"
  " document; 'prefix' and 'constant' decode packed rows"
)


class Layer(nnx.Module):
  """Power law graph attention with rotary positions; x (B, T, D).

  Args:
    dim: D.
    form: "causal" or "sequence".
    heads: N.
    head_dim: H, even; dim / heads if 0.
    density: tokens whose queries make a token's operator. "full": all of its row, also
      later ones, as the authors do, so that scores tell the future in training;
      "prefix": those up to it; "constant": none, the operator is a parameter that
      starts as the identity; "auto": "prefix" if causal, else "full".
    metric_hidden: width of the metric learner's gated units; 8/3 H, rounded down, if 0.
    residual_units: residual units of the metric learner.
    gated_units: gated units of each residual unit.
    rope_theta: of the rotary positions, in interleaved pairs; none if 0.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str,
    heads: int = 4,
    head_dim: int = 0,
    density: str = "auto",
    metric_hidden: int = 0,
    residual_units: int = 2,
    gated_units: int = 2,
    rope_theta: float = 10000.0,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS),
      density=(density, DENSITIES),
      impl=(impl, ("auto", *IMPLEMENTATIONS)),
    )
    if density == "auto":
      density = "prefix" if form == "causal" else "full"
    if density == "prefix" and form != "causal":
      raise ValueError(f"density 'prefix' is of form 'causal', not of {form!r}")
    size = projections.head_size(dim, heads, head_dim)
    self.qkv = projections.QueryKeyValue(
      dim, heads, heads, size, bias=True, init=INIT, rngs=rngs
    )
    start: dict[str, Any] = {"kernel_init": _VALUE_INIT, "bias_init": _uniform(dim)}
    self.qkv.value = nnx.LinearGeneral(dim, (heads, size), **start, rngs=rngs)
    self.out = projections.output(heads, size, dim, bias=True, init=INIT, rngs=rngs)
    self.operator = Operator(
      size,
      heads,
      density=density,
      hidden=metric_hidden,
      residual_units=residual_units,
      gated_units=gated_units,
      rngs=rngs,
    )
    self.form, self.density, self.impl = form, density, impl
    self.shape, self.rope_theta = (heads, size), rope_theta

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    return {} if self.rope_theta else contexts.NO_PLACES

  def project(
    self,
    x: Float[Array, "B T D"],
    *,
    curvature: Float[Array, "#B N H H"] | None = None,
    **context: Unpack[Context],
  ) -> Heads:
    """Returns the rotated heads, and the operator of each row in `more`.

    Where each token has an operator of its own, the queries are multiplied by it.

    Args:
      x: the layer's input.
      curvature: G, in place of what the metric learner makes.
      **context: see `attnjax.contract.forms.causal`.
    """
    heads = self._rotated(x, context)
    packed = context.get("segment_ids") is not None
    q = heads.q
    if curvature is None:
      q, curvature = self.operator(q, heads.tokens.ids, packed)
    return _with(heads, q, curvature)

  def mix(self, heads: Heads) -> Float[Array, "B T N H"]:
    """Returns `attend` of the heads."""
    given: dict[str, Any] = {"causal": self.form == "causal", "impl": self.impl}
    run = attend if heads.more else dot_product.attend
    return run(heads.q, heads.k, heads.v, **heads.more, **given, **heads.seen)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B T D"]:
    """Returns the projection of all heads' outputs."""
    return self.out(out.astype(heads.tokens.x.dtype))

  def __call__(
    self,
    x: Float[Array, "B T D"],
    *,
    curvature: Float[Array, "#B N H H"] | None = None,
    **context: Unpack[Context],
  ) -> Float[Array, "B T D"]:
    """Returns the layer's output; see `attnjax.contract.forms` and `project`."""
    given: Any = {} if curvature is None else {"curvature": curvature}
    return contexts.run(self, x, given | context)

  def deduce(self, x: Float[Array, "B T D"], **context: Unpack[Context]) -> Metric:
    """Returns the tensors of all tokens of each row; documents are not told apart.

    Raises:
      NotImplementedError: with segment_ids, or if the operator is constant.
    """
    if context.get("segment_ids") is not None:
      raise NotImplementedError("segment_ids: tensors are of whole rows")
    heads = self._rotated(x, context)
    return self.operator.deduce(heads.q, heads.tokens.ids)

  def init_cache(self, batch: int, length: int, dtype: Any = jnp.float32) -> Cache:
    """Returns an empty cache with room for `length` tokens."""
    attention = self_attention.empty_cache(self.form, batch, length, *self.shape, dtype)
    own = self.operator
    return Cache(attention, own.init_document(batch), own.init_deduced(batch))

  def step(
    self,
    x: Float[Array, "B T D"],
    cache: Cache,
    *,
    curvature: Float[Array, "#B N H H"] | None = None,
    **context: Unpack[Context],
  ) -> tuple[Float[Array, "B T D"], Cache]:
    """Returns the outputs of the next T tokens, and the cache after them.

    With density "full" the first step, the prompt, makes the operator of all others;
    they do not run the metric learner.

    Args:
      x: the next tokens.
      cache: of `init_cache`, or of the step before.
      curvature: as in `project`; what makes the cache's operator then stands still.
      **context: see `attnjax.contract.forms.causal`.

    Raises:
      NotImplementedError: for segment_ids with density "full".
    """
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    if self.density == "full" and context.get("segment_ids") is not None:
      raise NotImplementedError(f"segment_ids: {_PROMPT}")
    start, old = cache.attention.length, cache.document
    tokens = contexts.accept(
      x, {**context, "start": start}, form=self.form, refuses=self.refuses
    )
    ids = tokens.ids
    nothing = self.operator.init_document(x.shape[0]).state
    state: Any = old.resumed(ids, nothing)
    counted, begun = places(ids, x.shape[1], start, state["begun"])
    heads = self._heads(tokens, counted)
    q, deduced = heads.q, cache.deduced
    state = {**state, "begun": begun}
    if curvature is None:
      q, curvature, state, deduced = self.operator.step(q, ids, state, cache)
    document = old.advanced(state, ids)
    ids = jnp.zeros(x.shape[:2], jnp.int32) if ids is None else ids
    attention = cache.attention.append(heads.k, heads.v, ids)
    seen = {"segment_ids": ids, "kv_segment_ids": attention.segment_ids}
    heads = dataclasses.replace(
      _with(heads, q, curvature),
      k=attention.k,
      v=attention.v,
      seen=seen | {"offset": start},
    )
    return self.merge(self.mix(heads), heads), Cache(attention, document, deduced)

  def _rotated(self, x, context) -> Heads:
    """Returns the heads of whole rows; each document counts its own places."""
    tokens = contexts.accept(x, context, form=self.form, refuses=self.refuses)
    if tokens.ids is None:
      return self._heads(tokens, tokens.places)
    begun = jnp.full(x.shape[:1], -1)
    return self._heads(tokens, places(tokens.ids, x.shape[1], 0, begun)[0])

  def _heads(self, tokens, counted) -> Heads:
    """Returns the heads, rotated by the given positions or else the counted ones."""
    q, k, v = self.qkv.heads(tokens.x)
    where = counted if tokens.positions is None else tokens.positions
    if self.rope_theta:
      given: dict[str, Any] = {"theta": self.rope_theta, "interleaved": True}
      q, k = (positions.rotate(y, where, **given) for y in (q, k))
    return Heads(q, k, v, tokens, {"segment_ids": tokens.ids})


def _with(heads: Heads, q, curvature) -> Heads:
  """Returns the heads with these queries, and with an operator if there is one."""
  more = {} if curvature is None else {"curvature": curvature}
  return dataclasses.replace(heads, q=q, more=more)


def _uniform(dim: int):
  """Returns an initializer by U(-D^-0.5, D^-0.5)."""
  bound = dim**-0.5
  return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)
