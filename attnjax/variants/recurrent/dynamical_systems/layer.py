"""One layer for every class of model."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from attnjax import attention
from attnjax.contract import check_known
from attnjax.core import linear, masks
from attnjax.core.cache import KeyValueCache
from attnjax.core.exported import serializable
from attnjax.core.scores import Scores
from attnjax.core.softmax import wide
from attnjax.nn import self_attention, unseen
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


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """What decoding keeps; its size does not depend on the number of tokens.

  Attributes:
    state: (B, N, H, E), float32 (float64 for float64).
    conv: the cache of the convolution, () if there is none.
    segment_ids: int32, (B,), of the last real token; -1 before the first one.
  """

  state: Any
  conv: Any
  segment_ids: Any


class Layer(nnx.Module):
  """A mixer of one of KINDS around `attend`; x (B, T, D).

  Softmax attention, whose state is infinite, keeps keys and values instead.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "causal",
    kind: str = "normalised",
    heads: int = 4,  # of the attentions and SSD
    state: int = 0,  # keys of all heads, or numbers a channel; 0: 64, s6, selru: 16
    expand: float = 2.0,  # channels of s6, ssd, rglru and qlstm for each of dim
    conv: int = 4,  # width of the convolution of s6, ssd, rglru and selru
    eta: str = "exp",  # the normaliser of normalised attention
    coupled: bool = False,  # qlstm: forget as much as is written
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    for name, value, known in (
      ("form", form, FORMS),
      ("kind", kind, KINDS),
      ("eta", eta, ETAS),
      ("impl", impl, ("auto", *IMPLEMENTATIONS)),
    ):
      check_known(name, value, known)
    self.mixer: Any = _mixer(
      dim,
      kind,
      heads=heads,
      state=state or (16 if kind in ("s6", "selru") else 64),
      expand=expand,
      conv=conv,
      eta=eta,
      coupled=coupled,
      rngs=rngs,
    )
    self.kind, self.impl = kind, impl

  def __call__(
    self,
    x: Float[Array, "B T D"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    positions: Num[Array, "..."] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> Float[Array, "B T D"]:
    """(B, T, D); 0 at the padding, but softmax attention gives its bias there.

    `positions` are not used: the order of the tokens is all that a recurrence knows.

    States pass padding inside a row by; short convolutions of the kinds that have one
    take it as zeros, in its place.
    """
    if 0 in x.shape:
      return unseen.nothing(self, x)
    seen = {"segment_ids": segment_ids, "padding": padding}
    if self.kind == "softmax":
      project = self.mixer.project
      seen |= {"form": "causal", "positions": positions}
      return self_attention.whole(x, project, self._softmax, **seen)
    cache = self.init_cache(x.shape[0], x.shape[1], x.dtype)
    return self.step(x, cache, **seen)[0]

  def system(self, x: Float[Array, "B T D"], **options) -> tuple[System, Array]:
    """(system, v): the layer in the common form; v (B, T, N, E) drives it.

    Args:
      x: one document without padding.
      **options: `ratio` of the attentions, `degree` of softmax, as in `builders`.
    """
    if self.kind in _ATTENTIONS:
      return self.mixer.system(x, **options)
    if options:
      raise ValueError(f"kind {self.kind!r} takes no {', '.join(options)}")
    return self.mixer.drive(x, self.mixer.init_cache(x.shape[0], x.dtype), None)[:2]

  def weights(self, x, *, segment_ids=None, padding=None, positions=None, index=0):
    """Phi, (B, N, T, T) float32: of each head, or of each channel of the state."""
    del index
    if self.kind == "softmax":
      seen = {"segment_ids": segment_ids, "padding": padding, "positions": positions}
      options = {"form": "causal", "impl": self.impl}
      return self_attention.weights(x, self.mixer.project, **seen, **options)
    x, ids = unseen.blank(x, segment_ids, padding)
    conv = self.mixer.init_cache(x.shape[0], x.dtype)
    phi = self.mixer.drive(x, conv, ids)[0].matrix(ids)
    if self.kind == "linear":
      total = phi.sum(axis=3, keepdims=True)
      phi = phi / jnp.where(total == 0, 1, total)
    phi = jnp.moveaxis(phi, 4, 2)
    return phi.reshape(phi.shape[0], -1, *phi.shape[3:])

  def init_cache(
    self, batch: int, length: int, dtype=jnp.float32
  ) -> State | KeyValueCache:
    """The zero state; for softmax attention room for `length` tokens."""
    if self.kind == "softmax":
      N, (H, E) = self.mixer.heads, self.mixer.sizes
      return KeyValueCache.empty(batch, length, (N, H), (N, E), dtype)
    state = jnp.zeros((batch, *self.mixer.state_shape), wide(jnp.zeros((), dtype)))
    conv = self.mixer.init_cache(batch, dtype)
    return State(state, conv, jnp.full((batch,), -1, jnp.int32))

  def step(
    self,
    x: Float[Array, "B T D"],
    cache: State | KeyValueCache,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> tuple[Float[Array, "B T D"], State | KeyValueCache]:
    """The next T tokens, T >= 1, after those of the cache."""
    del index
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    seen = {"segment_ids": segment_ids, "padding": padding}
    if isinstance(cache, KeyValueCache):
      return self_attention.stepped(x, cache, self.mixer.project, self._softmax, **seen)
    x, ids = unseen.blank(x, **seen)
    first = last = jnp.zeros_like(cache.segment_ids)
    if ids is not None:
      filled, _ = linear.spans(ids)
      first, last = filled[:, 0], filled[:, -1]
    goes_on = (first == cache.segment_ids) | (first < 0)
    state = jnp.where(goes_on[:, None, None, None], cache.state, 0)
    system, v, rest, conv = self.mixer.drive(x, cache.conv, ids)
    out, state = attend(
      v,
      system.log_decay,
      system.write,
      system.read,
      system.skip,
      initial_state=state,
      segment_ids=ids,
      return_state=True,
      impl=self.impl,
    )
    y = self.mixer.finish(out, rest).astype(x.dtype)
    if ids is not None:
      y = jnp.where((ids >= 0)[..., None], y, 0)
    last = jnp.where(last < 0, cache.segment_ids, last)
    return y, State(state, conv, last)

  def _softmax(self, x, q, k, v, **seen):
    B, T, N, _ = q.shape
    mask = masks.conjunction((B, N, T, k.shape[1]), **seen)
    out = attention.attend(q, k, v, Scores(mask), impl=self.impl)[0]
    return self.mixer.finish(out, None).astype(x.dtype)


def _mixer(dim, kind, *, heads, state, expand, conv, eta, coupled, rngs):
  """The kind's own module, from the options that it has."""
  match kind:
    case "s6":
      return mamba.S6(dim, expand=expand, state=state, conv=conv, rngs=rngs)
    case "ssd":
      sizes = {"heads": heads, "expand": expand, "state": state, "conv": conv}
      return mamba.SSD(dim, **sizes, rngs=rngs)
    case "rglru":
      return gated.RGLRU(dim, expand=expand, conv=conv, rngs=rngs)
    case "selru":
      return gated.SELRU(dim, state=state, conv=conv, rngs=rngs)
    case "qlstm":
      return gated.QLSTM(dim, expand=expand, coupled=coupled, rngs=rngs)
  sizes = {"heads": heads, "state": state, "eta": eta}
  return attentions.Attention(dim, kind=kind, **sizes, rngs=rngs)
