"""The layer: projections around attention in windows or between channels."""

import dataclasses
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.nn import projections
from attnjax.ops import window_attention
from attnjax.variants.local.davit.attention import IMPLEMENTATIONS, SCALES, attend
from attnjax.variants.local.davit.windows import attend_windows
from pallas_kernels.calling import BACKENDS

FORMS = ("sequence", "image")
KINDS = ("alternate", "window", "channel")
_INIT = nnx.initializers.truncated_normal(0.02)


class Layer(nnx.Module):
  """One of the two attentions; x (B, T, D) or (B, H, W, D).

  Both have the same parameters, so that layers of both kinds can be stacked.

  Args:
    dim: D.
    form: "sequence" or "image".
    heads: N, also the number of channel groups.
    kind: "window", "channel", or "alternate": windows in layers of even index.
    window: side of the windows.
    scale_by: of channel attention, as in `attend`.
    mask_padding: tokens that fill the last windows are not seen.
    qkv_bias: of the projections to queries, keys and values.
    impl: of windows as in `attend_windows`. Between channels there are only matrix
      products, which "pallas" and "triton" leave to "xla".
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str,
    heads: int = 4,
    kind: str = "alternate",
    window: int = 7,
    scale_by: str = "channels",
    mask_padding: bool = False,
    qkv_bias: bool = True,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS),
      kind=(kind, KINDS),
      scale_by=(scale_by, SCALES),
      impl=(impl, ("auto", *IMPLEMENTATIONS)),
    )
    if window < 1:
      raise ValueError(f"window = {window}: it must be at least 1")
    size = projections.head_size(dim, heads)
    self.qkv = projections.QueryKeyValue(
      dim, heads, heads, size, bias=qkv_bias, init=_INIT, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=True, init=_INIT, rngs=rngs)
    self.form, self.kind, self.window, self.scale_by = form, kind, window, scale_by
    self.mask_padding, self.impl = mask_padding, impl

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context that the layer refuses, by name, with the reasons."""
    found = {
      "segment_ids": "channels are of a whole sequence",
      "positions": "windows are counted in the row, and channels know no places",
    }
    return found if self.kind == "channel" else found | {"valid": "windows have none"}

  def project(self, x: Float[Array, "B *S D"], **context: Unpack[Context]) -> Heads:
    """Returns the heads of every token, and those of the zeros around a map."""
    tokens = contexts.accept(x, context, form=self.form, refuses=self.refuses)
    _, k, v = self.qkv.heads(jnp.zeros((1,) * (x.ndim - 1) + x.shape[-1:], x.dtype))
    return Heads(*self.qkv.heads(tokens.x), tokens, more={"k": k, "v": v})

  def mix(self, heads: Heads) -> Float[Array, "B *S N E"]:
    """Returns the attention of the kind that the layer's index chooses."""
    index = heads.tokens.index
    if self.kind == "window" or (self.kind == "alternate" and _is(index, 0)):
      return self._windows(heads)
    if self.kind == "channel" or _is(index, 1):
      return self._channels(heads)
    return jax.lax.cond(index % 2 == 0, self._windows, self._channels, heads)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B *S D"]:
    """Returns the projection of all heads' results."""
    return self.out(out.astype(heads.tokens.x.dtype))

  def __call__(
    self, x: Float[Array, "B *S D"], **context: Unpack[Context]
  ) -> Float[Array, "B *S D"]:
    """Returns the layer's result for x, in its shape; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def weights(self, x, **context: Unpack[Context]) -> Float[Array, "B N T T"]:
    """Returns the weights of windows; the share of zeros around a map is no token's.

    Raises:
      NotImplementedError: for channel attention: its tokens are not mixed.
    """
    heads = self.project(x, **context)
    index = heads.tokens.index
    if self.kind == "channel" or (self.kind == "alternate" and not _is(index, 0)):
      raise NotImplementedError("channel attention has no weights of tokens")
    eye = window_attention.identity(x.shape[1:-1], x.shape[0], heads.v.shape[-2])
    more = heads.more | {"v": jnp.zeros(eye.shape[-2:], eye.dtype)}
    out = self.mix(dataclasses.replace(heads, v=eye, more=more))
    return out.reshape(x.shape[0], -1, *out.shape[-2:]).swapaxes(1, 2)

  def _windows(self, heads):
    padding = None, None
    if not self.mask_padding:
      padding = (y.reshape(y.shape[-2:]) for y in (heads.more["k"], heads.more["v"]))
    given = {"window": self.window, "impl": self.impl}
    return attend_windows(heads.q, heads.k, heads.v, *padding, **given)

  def _channels(self, heads):
    ids = heads.tokens.ids
    q, k, v = (
      y.reshape(y.shape[0], -1, *y.shape[-2:]) for y in (heads.q, heads.k, heads.v)
    )
    valid = None if ids is None else ids >= 0
    impl = "xla" if self.impl in BACKENDS else self.impl
    out = attend(q, k, v, scale_by=self.scale_by, valid=valid, impl=impl)
    return out.reshape(*heads.q.shape[:-1], -1)


def _is(index, remainder) -> bool:
  """Returns whether the index is static, and even (remainder 0) or odd (1)."""
  return isinstance(index, int) and index % 2 == remainder
