"""The layer: projections around attention in windows or between channels."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from attnjax.contract import check_known
from attnjax.core.partition import Partition
from attnjax.nn import projections, unseen, windowed
from attnjax.variants.local.davit.attention import IMPLEMENTATIONS, SCALES, attend

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
    scale: of channel attention, as in `attend`.
    mask_padding: tokens that fill the last windows are not seen.
    bias: of the projections to queries, keys and values.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "image",
    heads: int = 4,
    kind: str = "alternate",
    window: int = 7,
    scale: str = "channels",
    mask_padding: bool = False,
    bias: bool = True,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    for name, value, known in (
      ("form", form, FORMS),
      ("kind", kind, KINDS),
      ("scale", scale, SCALES),
      ("impl", impl, ("auto", *IMPLEMENTATIONS)),
    ):
      check_known(name, value, known)
    if window < 1:
      raise ValueError(f"window = {window}: it must be at least 1")
    size = projections.head_size(dim, heads)
    self.project = projections.QueryKeyValue(
      dim, heads, heads, size, bias=bias, init=_INIT, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=True, init=_INIT, rngs=rngs)
    self.form, self.kind, self.window, self.scale = form, kind, window, scale
    self.mask_padding, self.impl = mask_padding, impl

  @property
  def refuses(self) -> dict[str, str]:
    """What of a context the layer cannot honour, and why."""
    return {
      "segment_ids": "channels are of a whole sequence",
      "padding": "windows have no padding",
    }

  def __call__(
    self,
    x: Float[Array, "B *S D"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    positions: Num[Array, "..."] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> Float[Array, "B *S D"]:
    """The same shape as x.

    Raises:
      NotImplementedError: for segments, since channels are of a whole sequence; for
        padding, except of channel attention on sequences.
    """
    del positions
    if 0 in x.shape:
      return unseen.nothing(self, x)
    self._check(x, segment_ids, padding)
    if self.kind == "window" or (self.kind == "alternate" and _is(index, 0)):
      return self._windows(x)
    if self.kind == "channel" or _is(index, 1):
      return self._channels(x, padding)
    return jax.lax.cond(index % 2 == 0, self._windows, self._channels, x)

  def weights(self, x, *, segment_ids=None, padding=None, positions=None, index=0):
    """The weights of window attention, (B, N, T, T) float32.

    Raises:
      NotImplementedError: for channel attention: its tokens are not mixed.
    """
    del positions
    self._check(x, segment_ids, padding)
    if self.kind == "channel" or (self.kind == "alternate" and not _is(index, 0)):
      raise NotImplementedError("channel attention has no weights of tokens")
    grid = x.shape[1:-1]
    eye = windowed.identity(grid, x.shape[0], self.project.value.out_features[0])
    out = self._mix(x, eye)
    return out.reshape(x.shape[0], -1, *out.shape[-2:]).swapaxes(1, 2)

  def _windows(self, x):
    return self.out(self._mix(x).astype(x.dtype))

  def _mix(self, x, values=None):
    axes, grid = x.ndim - 2, x.shape[1:-1]
    extra = 0 if self.mask_padding else self.window
    around = [(0, -n % extra if extra else 0) for n in grid]
    y = jnp.pad(x, [(0, 0), *around, (0, 0)])
    q, k, v = self._heads(y)
    if values is not None:
      v = jnp.pad(values, [(0, 0), *around, (0, 0), (0, 0)])
    out = windowed.attend(
      q, k, v, Partition(y.shape[1:-1], self.window), impl=self.impl
    )
    return out[(slice(None), *(slice(0, n) for n in grid[:axes]))]

  def _channels(self, x, padding=None):
    x, _ = unseen.blank(x, padding=padding)
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    q, k, v = self.project.heads(flat)
    out = attend(q, k, v, scale=self.scale, padding=padding, impl=self.impl)
    return self.out(out.astype(x.dtype)).reshape(x.shape)

  def _heads(self, x):
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    heads = self.project.heads(flat)
    return tuple(y.reshape(*x.shape[:-1], *y.shape[2:]) for y in heads)

  def _check(self, x, segment_ids, padding):
    if x.ndim != 3 + (self.form == "image"):
      raise ValueError(f"x has the shape {x.shape}; form {self.form!r} does not fit")
    if segment_ids is not None:
      raise NotImplementedError("segment_ids: channels are of a whole sequence")
    if padding is not None and (self.form == "image" or self.kind != "channel"):
      raise NotImplementedError(f"padding in form {self.form!r}, kind {self.kind!r}")


def _is(index, remainder) -> bool:
  """Whether the index is known, and even (0) or odd (1)."""
  return isinstance(index, int) and index % 2 == remainder
