"""The layer for every class of model."""

import dataclasses
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax import attention
from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core import masks
from attnjax.core.cache import KeyValueCache, RecurrentCache
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.exported import serializable
from attnjax.core.scores import Scores
from attnjax.nn import unseen
from attnjax.ops import self_attention
from attnjax.variants.recurrent.dynamical_systems import attentions, gated, mamba
from attnjax.variants.recurrent.dynamical_systems.builders import BUILDERS, ETAS
from attnjax.variants.recurrent.dynamical_systems.system import (
  IMPLEMENTATIONS,
  System,
  attend,
)

FORMS = ("causal",)
KINDS = tuple(BUILDERS)
_ATTENTIONS = ("softmax", "linear", "normalised")
_HEADED = (*_ATTENTIONS, "ssd")  # all channels of a head decay alike


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """The decoding state; its size does not depend on the number of tokens.

  Attributes:
    hidden: (B, N, H, E), float32 (float64 for float64).
    conv: the convolution's cache, () if there is no convolution.
  """

  hidden: Any
  conv: Any


class Layer(nnx.Module):
  """A mixer of one of KINDS around `attend`; x (B, T, D).

  Softmax attention, whose state is infinite, keeps keys and values instead.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "causal",
    kind: str = "normalised",  # one of KINDS
    heads: int = 4,  # of the attentions and SSD
    state_size: int = 0,  # of all heads, or a channel; 0: 64, s6, selru: 16
    expand: float = 2.0,  # channels of s6, ssd, rglru and qlstm for each of dim
    conv: int = 4,  # width of the convolution of s6, ssd, rglru and selru
    eta: str = "exp",  # normaliser of normalised attention, one of ETAS
    coupled: bool = False,  # qlstm: forget as much as is written
    bare: bool = False,  # ssd: no convolution, gate and norm, as the paper compares it
    impl: str = "auto",  # as in `attend`
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS),
      kind=(kind, KINDS),
      eta=(eta, ETAS),
      impl=(impl, ("auto", *IMPLEMENTATIONS)),
    )
    if bare and kind != "ssd":
      raise ValueError(f"bare = {bare} is of kind 'ssd', not of {kind!r}")
    self.mixer: Any = _mixer(
      dim,
      kind,
      heads=heads,
      state=state_size or (16 if kind in ("s6", "selru") else 64),
      expand=expand,
      conv=conv,
      eta=eta,
      coupled=coupled,
      bare=bare,
      rngs=rngs,
    )
    self.kind, self.impl = kind, impl

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    return {"positions": "content decides, and the order of the tokens in the row"}

  def project(self, x: Float[Array, "B T D"], **context: Unpack[Context]) -> Heads:
    """Returns the values and the system that they drive; q, k and v for softmax."""
    tokens = contexts.accept(x, context, form="causal", refuses=self.refuses)
    if self.kind == "softmax":
      q, k, v = self.mixer.project(tokens.x)
      return Heads(q, k, v, tokens, {"segment_ids": tokens.ids})
    return self._driven(tokens, self.mixer.init_cache(x.shape[0], x.dtype))

  def mix(self, heads: Heads, **options) -> Any:
    """Returns the system's output for the values; `options` as in `attend`.

    States skip padding inside a row; a short convolution, if the kind has one, reads it
    as zeros in its place.
    """
    if self.kind == "softmax":
      (B, T, N, _), S = heads.q.shape, heads.k.shape[1]
      mask = masks.conjunction((B, N, T, S), causal=True, **heads.seen)
      scores = Scores(mask, **options)
      return attention.attend(heads.q, heads.k, heads.v, scores, impl=self.impl)[0]
    system = heads.more["system"]
    arrays = system.log_decay, system.write, system.read, system.skip
    given: dict[str, Any] = {"impl": self.impl} | heads.seen | options
    if self.kind != "linear":
      return attend(heads.v, *arrays, **given)
    if not options.get("return_state"):
      return attentions.mean(attend(attentions.counted(heads.v), *arrays, **given))
    out, state = attend(attentions.counted(heads.v), *arrays, **given)
    return attentions.mean(out), state

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B T D"]:
    """Returns the gated projection; 0 at padding, but the bias for softmax."""
    ids = heads.tokens.ids
    y = self.mixer.finish(out, heads.more.get("rest")).astype(heads.tokens.x.dtype)
    if ids is None or self.kind == "softmax":
      return y
    return jnp.where((ids >= 0)[..., None], y, 0)

  def __call__(
    self, x: Float[Array, "B T D"], **context: Unpack[Context]
  ) -> Float[Array, "B T D"]:
    """Returns the layer's output; see `attnjax.contract.forms.causal`."""
    return contexts.run(self, x, context)

  def system(self, x: Float[Array, "B T D"], **options) -> tuple[System, Array]:
    """Returns (system, v): the layer in the common form; v (B, T, N, E) drives it.

    Args:
      x: one document without padding.
      **options: `ratio` of the attentions, `degree` of softmax, as in `builders`.
    """
    if self.kind in _ATTENTIONS:
      return self.mixer.system(x, **options)
    if options:
      raise ValueError(f"kind {self.kind!r} takes no {', '.join(options)}")
    return self.mixer.drive(x, self.mixer.init_cache(x.shape[0], x.dtype), None)[:2]

  def weights(self, x, **context: Unpack[Context]) -> Float[Array, "B M T T"]:
    """Returns Phi, float32, of each head, or of each channel of a state with channels.

    With a decay for each channel no head has a single matrix.
    """
    heads = self.project(x, **context)
    if self.kind in _HEADED:
      return contexts.shares(self, heads)
    phi = heads.more["system"].matrix(heads.tokens.ids)
    return jnp.moveaxis(phi, 4, 2).reshape(phi.shape[0], -1, *phi.shape[2:4])

  def init_cache(
    self, batch: int, length: int, dtype=jnp.float32
  ) -> RecurrentCache | KeyValueCache:
    """Returns the zero state; for softmax an empty cache for `length` tokens."""
    if self.kind == "softmax":
      N, (H, E) = self.mixer.heads, self.mixer.sizes
      return KeyValueCache.empty(batch, length, (N, H), (N, E), dtype)
    hidden = jnp.zeros(
      (batch, *self.mixer.state_shape), accumulator_dtype(jnp.zeros((), dtype))
    )
    return RecurrentCache.empty(State(hidden, self.mixer.init_cache(batch, dtype)))

  def step(
    self,
    x: Float[Array, "B T D"],
    cache: RecurrentCache | KeyValueCache,
    **context: Unpack[Context],
  ) -> tuple[Float[Array, "B T D"], RecurrentCache | KeyValueCache]:
    """Returns the outputs of the next T tokens, and the cache after them."""
    if isinstance(cache, KeyValueCache):
      return self_attention.step(self, x, cache, context)
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    tokens = contexts.accept(x, context, form="causal", refuses=self.refuses)
    old, ids = cache.state, tokens.ids
    # A convolution compares the ids with the earlier tokens' ids itself.
    nothing = State(jnp.zeros_like(old.hidden), old.conv)
    hidden = cache.resumed(ids, nothing).hidden
    heads = self._driven(tokens, old.conv)
    out, hidden = self.mix(heads, initial_state=hidden, return_state=True)
    state = State(hidden, heads.more["conv"])
    return self.merge(out, heads), cache.advanced(state, ids)

  def _driven(self, tokens, conv) -> Heads:
    """Returns the heads of a system whose convolution continues from `conv`."""
    system, v, rest, conv = self.mixer.drive(tokens.x, conv, tokens.ids)
    more = {"system": system, "rest": rest, "conv": conv}
    return Heads(None, None, v, tokens, {"segment_ids": tokens.ids}, more)


def _mixer(dim, kind, *, heads, state, expand, conv, eta, coupled, bare, rngs):
  """Returns the kind's module, built with the options that it takes."""
  match kind:
    case "s6":
      return mamba.S6(dim, expand=expand, state=state, conv=conv, rngs=rngs)
    case "ssd":
      sizes = {"heads": heads, "expand": expand, "state": state, "conv": conv}
      return mamba.SSD(dim, **sizes, bare=bare, rngs=rngs)
    case "rglru":
      return gated.RGLRU(dim, expand=expand, conv=conv, rngs=rngs)
    case "selru":
      return gated.SELRU(dim, state=state, conv=conv, rngs=rngs)
    case "qlstm":
      return gated.QLSTM(dim, expand=expand, coupled=coupled, rngs=rngs)
  sizes = {"heads": heads, "state": state, "eta": eta}
  return attentions.Attention(dim, kind=kind, **sizes, rngs=rngs)
