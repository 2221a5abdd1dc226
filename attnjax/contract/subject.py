"""A system in one of its forms, with the results that several checks read."""

import dataclasses
import functools
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

# Tokens of a document, documents, and tokens of a row: a document is longer than any
# window of the tiny layers, and no multiple of a chunk.
LENGTH, DOCUMENTS = 21, 3
ROW = LENGTH * DOCUMENTS
# The first tokens of the documents in three padded rows.
STARTS = (0, 9, ROW - LENGTH)
# From this token on the last of the three documents differs from the first.
CHANGED = 13


@dataclasses.dataclass(frozen=True)
class Subject:
  """The subject of a check: a system's module, and the name of a form.

  Its properties serve the forms of layers: a tiny layer, an input, and results that are
  computed once for all checks.
  """

  module: ModuleType
  form: str

  @property
  def dim(self) -> int:
    """Returns the width D of the tiny layer."""
    return self.module.LAYER["dim"]

  @functools.cached_property
  def layer(self) -> Any:
    """Returns the tiny layer."""
    return self.module.Layer(**self.module.LAYER, form=self.form, rngs=nnx.Rngs(0))

  @property
  def refused(self) -> tuple[str, ...]:
    """Returns the names of the context that the layer refuses."""
    return tuple(getattr(self.layer, "refuses", {}))

  @functools.cached_property
  def x(self) -> jax.Array:
    """Returns inputs (3, LENGTH, D), or two images (2, 9, 10, D).

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
    """Returns y for x without a context, and the gradients of a loss of y."""
    grads, y = jax.jit(jax.grad(self.loss, (0, 1), has_aux=True))(self.layer, self.x)
    return {"y": y, "grads": grads}

  def loss(self, layer, x):
    """Returns (a loss of all results, the results)."""
    y = layer(x)
    return jnp.sum(jnp.sin(y)), y

  @functools.cached_property
  def real(self) -> jax.Array:
    """Returns where three padded rows (3, ROW) have tokens, a document in each."""
    places, starts = jnp.arange(ROW), jnp.array(STARTS)[:, None]
    return (places >= starts) & (places < starts + LENGTH)

  def padded(self, values) -> jax.Array:
    """Returns x (3, ROW, D), a document a row, with `values` of each row as padding."""
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
