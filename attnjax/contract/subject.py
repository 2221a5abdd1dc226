"""A system in one of its forms, and what checks of layers compile for it, once."""

import dataclasses
import functools
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

# Tokens of a document, of all of a row, and documents: more than any window of the
# tiny layers, and no multiple of a chunk.
LENGTH, DOCUMENTS = 21, 3
ROW = LENGTH * DOCUMENTS
# Where the documents of three padded rows begin.
STARTS = (0, 9, ROW - LENGTH)
# Tokens from this one on differ in the last of the three documents from the first.
CHANGED = 13


@dataclasses.dataclass(frozen=True)
class Subject:
  """What a check is given: a system's module, and the name of a form.

  Its properties serve the forms of layers: a tiny layer, an input, and the results
  that several checks look at.
  """

  module: ModuleType
  form: str

  @property
  def dim(self) -> int:
    """The width D of the tiny layer."""
    return self.module.LAYER["dim"]

  @functools.cached_property
  def layer(self) -> Any:
    """The tiny layer."""
    return self.module.Layer(**self.module.LAYER, form=self.form, rngs=nnx.Rngs(0))

  @property
  def refused(self) -> tuple[str, ...]:
    """The names of the context that the layer says that it refuses."""
    return tuple(getattr(self.layer, "refuses", {}))

  @functools.cached_property
  def x(self) -> jax.Array:
    """Inputs: (3, LENGTH, D), or two images (2, 9, 10, D).

    The third document differs from the first one from the token CHANGED on.
    """
    draw = np.random.default_rng(1).standard_normal
    if self.form == "image":
      return jnp.asarray(draw((2, 9, 10, self.dim)), jnp.float32)
    x = draw((DOCUMENTS, LENGTH, self.dim))
    x[2] = x[0]
    x[2, CHANGED:] += 1
    return jnp.asarray(x, jnp.float32)

  @functools.cached_property
  def plain(self) -> dict[str, Any]:
    """The results y for x without a context, and the gradients of a loss of them."""
    grads, y = jax.jit(jax.grad(self.loss, (0, 1), has_aux=True))(self.layer, self.x)
    return {"y": y, "grads": grads}

  def loss(self, layer, x):
    """Returns (a loss of all results, the results)."""
    y = layer(x)
    return jnp.sum(jnp.sin(y)), y

  @functools.cached_property
  def real(self) -> jax.Array:
    """The real tokens of three padded rows (3, ROW), with a document in each."""
    places, starts = jnp.arange(ROW), jnp.array(STARTS)[:, None]
    return (places >= starts) & (places < starts + LENGTH)

  def padded(self, values) -> jax.Array:
    """Returns x (3, ROW, D): a document a row, `values` of each row at the padding."""
    x = jnp.broadcast_to(jnp.asarray(values)[:, None, None], (DOCUMENTS, ROW, self.dim))
    for row, start in enumerate(STARTS):
      x = x.at[row, start : start + LENGTH].set(self.x[row])
    return x

  def unpadded(self, y) -> jax.Array:
    """Returns the documents (3, LENGTH, ...) of padded rows."""
    cut = [y[row, start : start + LENGTH] for row, start in enumerate(STARTS)]
    return jnp.stack(cut)


def close(got, want, message: str = "") -> None:
  """Raises AssertionError if two trees differ by more than float32's rounding."""

  def one(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5, err_msg=message)

  jax.tree.map(one, got, want)


def equal(got, want, message: str = "") -> None:
  """Raises AssertionError if two trees differ."""

  def one(got, want):
    np.testing.assert_array_equal(got, want, err_msg=message)

  jax.tree.map(one, got, want)


def require(condition, message: str) -> None:
  """Raises AssertionError with the message if the condition is false."""
  if not condition:
    raise AssertionError(message)
