"""`attend` under the hierarchical mask, and its definition."""

import math

from jaxtyping import Array, Float

from attnjax import attention
from attnjax.contract import Case, check_known
from attnjax.core import definition
from attnjax.core.scores import Scores
from attnjax.variants.local.scale_dit.layout import Layout
from attnjax.variants.local.scale_dit.mask import dense, hierarchical_local_mask

IMPLEMENTATIONS = attention.IMPLEMENTATIONS


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  *,
  layout: Layout,
  scale: float | None = None,
  impl: str = "auto",
) -> Float[Array, "B T N V"]:
  """Computes the attention of [text; image; low-resolution image] to one another.

  Args:
    q: queries of all tokens, or of text and image alone.
    k: keys of all tokens; K divides N.
    v: values.
    layout: the numbers and the order of the tokens.
    scale: H^-0.5 if None.
    impl: one of IMPLEMENTATIONS, or "auto", see `attnjax.attention`.

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  _check(q, k, layout)
  if impl == "reference":
    return reference(q, k, v, layout=layout, scale=scale)
  mask = hierarchical_local_mask(layout, q.shape[1])
  return attention.attend(q, k, v, Scores(mask), scale=scale, impl=impl)[0]


def reference(q, k, v, *, layout, scale=None):
  """Computes the definition: softmax with the dense mask."""
  seen = dense(layout)[: q.shape[1]]
  return definition.attention(q, k, v, seen, scale=scale)[0]


def proportional_scale(visible: int, trained: int, head_dim: int) -> float:
  """Computes sqrt(log_trained(visible) / H), greater if more keys are seen.

  It equals H^-0.5 if as many keys are seen as in training.

  Args:
    visible: keys that a query sees.
    trained: keys that a query saw in training.
    head_dim: H.
  """
  if min(visible, trained) < 2:
    raise ValueError(f"visible = {visible}, trained = {trained}: at least 2 keys")
  return math.sqrt(math.log(visible, trained) / head_dim)


def _check(q, k, layout) -> None:
  if k.shape[1] != layout.tokens:
    raise ValueError(f"k has {k.shape[1]} tokens; the layout has {layout.tokens}")
  if q.shape[1] not in (layout.tokens, layout.tokens - layout.low):
    raise ValueError(
      f"q has {q.shape[1]} tokens; all are {layout.tokens},"
      f" without low resolution {layout.tokens - layout.low}"
    )


def _shapes(T, S, N, K, H, V):
  return {"q": (1, T, N, H), "k": (1, S, K, H), "v": (1, S, K, V)}


_SMALL = Layout((4, 4), (2, 2), 3, (2, 2))
_WINDOW = Layout((5, 7), (2, 2), 1, (2, 3), "window", "all", "hilbert")
_PARTS = Layout((8, 4), (4, 2), 2, (2, 2), order="released", dense=4)
_ALONE = Layout((1, 1), window=(1, 1), order="raster")
CASES = (
  Case("sliding", _shapes(23, 23, 2, 1, 4, 4), {"layout": _SMALL}),
  Case("without_low", _shapes(19, 23, 1, 1, 4, 3), {"layout": _SMALL, "scale": 0.3}),
  Case("windows", _shapes(40, 40, 2, 2, 4, 5), {"layout": _WINDOW}),
  Case("parts", _shapes(42, 42, 1, 1, 4, 4), {"layout": _PARTS}),
  Case("one_token", _shapes(1, 1, 1, 1, 4, 4), {"layout": _ALONE}),
)
