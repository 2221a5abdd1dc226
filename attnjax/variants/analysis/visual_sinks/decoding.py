"""A vision-language host whose own passes, decoding too, are redirected."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from attnjax.contract.context import Heads
from attnjax.core import masks
from attnjax.nn import running
from attnjax.variants.analysis.visual_sinks import attention, values

OPTIONS = {"tau": 20.0, "rho": 0.8, "summ": 0.2, "p": 0.4}


def installed(
  model: Any,
  image: tuple[int, int],
  dims: Sequence[int],
  *,
  first_layer: int = 2,
  except_last: bool = True,
  **options: float,
) -> Any:
  """Returns a model like a host's, whose calls and steps are redirected.

  In decoding sinks are those of the first step, the prompt with its image; they are
  kept with the keys. The model that is given stays as it is.

  Args:
    model: of the host "fusion", around dot products.
    image: (first, end) of the image's tokens in the row, as `model.span` says.
    dims: the sink dimensions.
    first_layer: the first layer that is redirected.
    except_last: leave the last layer as it is.
    **options: `tau` of `sinks`, and `rho`, `summ` and `p` of `attend`.

  Raises:
    TypeError: for another option.
  """
  unknown = sorted(set(options) - set(OPTIONS))
  if unknown:
    raise TypeError(f"{unknown[0]!r} is no option; there are {', '.join(OPTIONS)}")
  model = jax.tree.map(lambda leaf: leaf, model)
  last = model.stack.depth - except_last
  how = _How(tuple(image), tuple(dims), first_layer, last, **OPTIONS | options)
  for block in model.stack.blocks:
    block.__class__ = _redirected(type(block), how)
  return model


@dataclasses.dataclass(frozen=True)
class _How:
  """Holds the options of `installed`, and the layers from `first` to before `last`."""

  image: tuple[int, int]
  dims: tuple[int, ...]
  first: int
  last: int
  tau: float
  rho: float
  summ: float
  p: float

  def mix(self, mixer: Any, heads: Heads, index: Any, sinks: Array) -> Array:
    """Returns the layer's mix of heads, redirected if it is one of the layers."""
    seen = dict(heads.seen)
    if heads.more:
      raise NotImplementedError("dot-product attention alone is redirected")
    B, S = heads.k.shape[:2]
    place = jnp.broadcast_to(jnp.arange(S), (B, S))
    queries = seen.get("offset", 0) + jnp.arange(heads.q.shape[1])
    first, end = self.image
    out = attention.attend(
      heads.q,
      heads.k,
      heads.v,
      sink_mask=sinks,
      vis_mask=(place >= first) & (place < end),
      query_mask=jnp.broadcast_to(queries >= end, heads.q.shape[:2]),
      rho=self.rho,
      summ=self.summ,
      p=self.p,
      causal=True,
      **seen,
    )
    within = (index >= self.first) & (index < self.last)
    plain = mixer.mix(heads)
    return jnp.where(within, out.reshape(plain.shape), plain)

  def sinks(self, x: Array, ids: Array | None) -> Array:
    """Returns which tokens are sinks, from what enters the block."""
    real = None if ids is None else ids >= 0
    return values.sinks(x, self.dims, tau=self.tau, valid=real)


@functools.cache
def _redirected(kind: type, how: _How) -> type:
  """Returns a class of blocks like `kind`, which redirect."""

  def call(self, x, *, index=0, key=None, stats=None, train=False, **context):
    if key is not None or context.get("memory") is not None:
      raise NotImplementedError("a redirected model takes no key and no memory")
    carry = running.Carry(self, stats, train)
    given = {n: v for n, v in context.items() if n not in ("memory", "stream")}
    heads = self.mixer.project(self.mixed(x, given), index=index, **given)
    mixed = how.mix(self.mixer, heads, index, how.sinks(x, heads.tokens.ids))
    y = self.mixer.merge(mixed, heads)
    return carry.result(self._feed(self._sum(0, x, y), None))

  def trace(self, x, **context):
    raise NotImplementedError("trace a plain model with the edit of `redirected`")

  def init_cache(self, batch, length, dtype, stream=None):
    own = kind.init_cache(self, batch, length, dtype, stream)
    return *own, jnp.zeros((batch, length), bool)

  def step(self, x, cache, *, index=0, shared=None, stream=None, **context):
    kept, conv, sinks = cache
    y, start = self.norm(x), kept.length
    if self.conv is not None:
      given = context.get("segment_ids"), context.get("valid")
      y, conv = self.conv.step(y, conv, masks.segments(*given, y.shape[:2]))
    heads = self.mixer.project(y, start=start, index=index, **context)
    ids = heads.tokens.ids
    ids = jnp.zeros(x.shape[:2], jnp.int32) if ids is None else ids
    kept = kept.append(heads.k, heads.v, ids)
    found = how.sinks(x, ids) & (start == 0)
    sinks = jax.lax.dynamic_update_slice(sinks, found, (0, start))
    seen = {"segment_ids": ids, "kv_segment_ids": kept.segment_ids, "offset": start}
    heads = dataclasses.replace(heads, k=kept.k, v=kept.v, seen=seen)
    y = self.mixer.merge(how.mix(self.mixer, heads, index, sinks), heads)
    return self._feed(self._sum(0, x, y), None), (kept, conv, sinks), shared

  members = {"__call__": call, "trace": trace, "init_cache": init_cache, "step": step}
  return type(f"Redirected{kind.__name__}", (kind,), members)
