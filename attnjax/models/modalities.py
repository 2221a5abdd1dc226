"""A classifier of several views of an example, some of which may be absent.

After ITCFN (Xiangyang Hu et al. 2025. arXiv:2501.11276): an encoder of each view,
layers of the form "cross" between their tokens, and a head that reads the tokens of all
of them. Here a view is a row of numbers and an encoder an MLP, in place of the authors'
3-D ResNet-50, and the head is an MLP, in place of their 1-D DenseNet; it reads all
tokens at once, so that their order does not matter. An absent view is

  "generated"  made of the others by `attnjax.nn.generator`, which is trained beside the
               classifier, on views that are there
  "token"      a stream without valid tokens, as the layers have it
  "zeros"      zeros, as if they were there
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from attnjax.contract import check_known
from attnjax.core.streams import Stream
from attnjax.nn import linear
from attnjax.nn.dropout import drop
from attnjax.nn.generator import Generator, completed

FORMS = ("cross",)
TAKES = "views"  # what its data sets hold
SIZES = ("width", "classes")  # what Model is told of them
ABSENT = ("generated", "token", "zeros")


def inputs(batch: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
  """Returns the arguments and options of Model's call for a batch."""
  return (batch["views"],), {"present": batch["present"]}


class Encoder(nnx.Module):
  """Maps a view (B, W) to tokens (B, T, D) by an MLP with one hidden layer."""

  def __init__(self, width: int, tokens: int, dim: int, hidden: int, rngs: nnx.Rngs):
    self.up = linear.linear(width, hidden, rngs=rngs)
    self.down = linear.linear(hidden, (tokens, dim), rngs=rngs)

  def __call__(self, view: Float[Array, "B W"]) -> Float[Array, "B T D"]:
    """Returns the tokens."""
    return self.down(jax.nn.relu(self.up(view)))


class Model(nnx.Module):
  """views (B, M, W) -> {"logits" (B, classes), "features" (B, M, T D), "present"}.

  The features are those of the encoders. "generated" (B, M, W), where there is a
  generator, are all views as the others tell them. The streams are those of the layers'
  module, in the order of its STREAMS.
  """

  def __init__(
    self,
    builds: Sequence[Callable],
    *,
    width: int,
    classes: int,
    tokens: int = 16,  # T, of each stream
    dim: int = 8,  # D
    depth: int = 1,  # layers between the streams
    hidden: int = 64,  # of the encoders, the generator and the head
    absent: str = "generated",  # what stands for an absent view, one of ABSENT
    dropout: float = 0.5,  # before the last map of the head, with a key
    sigmoid_scores: bool = False,  # whether logits are shares, as the authors' are
    rngs: nnx.Rngs,
  ):
    check_known("absent", absent, ABSENT)
    found: Any = builds
    self.names = tuple(found[0].module.STREAMS)
    views = len(self.names)
    self.encoders = nnx.List(
      Encoder(width, tokens, dim, hidden, rngs) for _ in self.names
    )
    dims = dict.fromkeys(self.names, dim)
    self.layers = nnx.List(
      builds[i % len(builds)](dims, layers=depth, rngs=rngs) for i in range(depth)
    )
    made = absent == "generated"
    self.generator = Generator(views, width, hidden, rngs=rngs) if made else None
    self.hidden = linear.linear(views * tokens * dim, hidden, rngs=rngs)
    self.head = linear.linear(hidden, classes, rngs=rngs)
    self.absent, self.dropout = absent, dropout
    self.sigmoid_scores = sigmoid_scores

  def __call__(
    self,
    views: Float[Array, "B M W"],
    *,
    present: Bool[Array, "B M"] | None = None,
    key: Key[Array, ""] | None = None,
  ) -> dict[str, Array]:
    """Returns the logits, and what the losses read.

    Args:
      views: in the order of the streams; absent ones are not read.
      present: False where a view is absent; all are there if None.
      key: turns dropout on.

    Raises:
      ValueError: if there are more or fewer views than streams.
    """
    if views.shape[1] != len(self.names):
      raise ValueError(f"{views.shape[1]} views; the streams are {self.names}")
    if present is None:
      present = jnp.ones(views.shape[:2], bool)
    found: dict[str, Array] = {"present": present}
    views = jnp.where(present[..., None], views, 0)
    if self.generator is not None:
      found["generated"] = self.generator(views, present)
      views = completed(views, found["generated"], present)
      found["present"] = jnp.ones_like(present)
    tokens = [encode(views[:, m]) for m, encode in enumerate(self.encoders)]
    B = len(views)
    found["features"] = jnp.stack([x.reshape(B, -1) for x in tokens], axis=1)
    tokens = self._mixed(tokens, present, key)
    y = jnp.stack(tokens, axis=1).reshape(B, -1)
    y = drop(jax.nn.relu(self.hidden(y)), self.dropout, key)
    logits = self.head(y).astype(jnp.float32)
    found["logits"] = jax.nn.sigmoid(logits) if self.sigmoid_scores else logits
    return found

  def _mixed(self, tokens, present, key):
    """Returns the tokens of the streams after all layers."""
    masked = self.absent == "token"
    for index, layer in enumerate(self.layers):
      given = {}
      for m, name in enumerate(self.names):
        real = jnp.broadcast_to(present[:, m, None], tokens[m].shape[:2])
        given[name] = Stream(tokens[m], real if masked else None)
      own = {}
      if key is not None and "key" in inspect.signature(layer.__call__).parameters:
        own["key"] = jax.random.fold_in(key, index)
      new = layer(given, index=index, **own)
      tokens = [new.get(name, x) for name, x in zip(self.names, tokens)]
    return tokens
