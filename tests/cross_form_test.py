"""The form "cross": a layer is added as a file, and what breaks the form is found."""

import contextlib
from typing import Any

import jax.numpy as jnp
from absl.testing import absltest, parameterized

from attnjax import contract
from attnjax.contract.forms import cross
from attnjax.contract.subject import Subject
from attnjax.core.streams import Stream, cleared
from tests import adding

_TOY = '''
"""Text attends to sound: softmax over its tokens; the place in the text sharpens it."""

import jax.numpy as jnp
from flax import nnx
from attnjax.contract import Case
from attnjax.core import streams

IMPLEMENTATIONS = ("reference", "xla")
FORMS = ("cross",)
STREAMS = ("text", "sound")
LAYER = {"dims": {"text": 6, "sound": 4}, "slope": 0.3}
GROWTH = 2.0
CASES = (Case("plain", {"x": (2, 3), "y": (2, 3)}, function="dot"),)


def dot(x, y, *, impl="auto"):
  if impl not in ("auto", *IMPLEMENTATIONS):
    raise ValueError(f"impl {impl!r} is none of {IMPLEMENTATIONS}")
  return jnp.einsum("bd,bd->b", x, y)


def reference_dot(x, y):
  return (x * y).sum(axis=1)


class Layer(nnx.Module):
  refuses = {"sound.positions": "the sound has no order"}

  def __init__(self, dims, *, form: str = "cross", slope: float = 0.5, rngs):
    self.query = nnx.Linear(dims["text"], dims["sound"], rngs=rngs)
    self.out = nnx.Linear(dims["sound"], dims["text"], rngs=rngs)
    self.slope = slope

  def __call__(self, given, *, index=0):
    text, sound = given["text"], given["sound"]
    if sound.positions is not None:
      raise NotImplementedError("sound.positions: " + self.refuses["sound.positions"])
    x, y = text.cleared(), sound.cleared()
    score = jnp.einsum("btd,bsd->bts", self.query(x), y)
    score = score * (1 + self.slope * jnp.sin(text.places))[..., :, None]
    real = sound.real[:, None]
    score = jnp.where(real, score, -1e30)
    weight = jnp.where(real, jnp.exp(score - score.max(-1, keepdims=True)), 0)
    total = weight.sum(-1, keepdims=True)
    weight = weight / jnp.where(total > 0, total, 1)
    out = self.out(jnp.einsum("bts,bsd->btd", weight, y))
    return {"text": streams.cleared(x + out, text.valid)}
'''

_ALIGNED = '''
"""Text and sound, token by token; a learned one where the sound is absent."""

import jax.numpy as jnp
from flax import nnx

IMPLEMENTATIONS = ("reference", "xla")
FORMS = ("cross",)
STREAMS = ("text", "sound")
ALIGNED = True
LAYER = {"dims": {"text": 6, "sound": 4}}
GROWTH = 1.0
CASES = ()


class Layer(nnx.Module):
  refuses = {"positions": "no token knows of another, before or after it"}

  def __init__(self, dims, *, form: str = "cross", rngs):
    self.map = nnx.Linear(dims["sound"], dims["text"], rngs=rngs)
    self.absent = nnx.Param(jnp.ones(dims["text"]))

  def __call__(self, given, *, index=0):
    text, sound = given["text"], given["sound"]
    if sound.positions is not None or text.positions is not None:
      raise NotImplementedError(self.refuses["positions"])
    if text.x.shape[1] != sound.x.shape[1]:
      raise ValueError(f"{text.x.shape} and {sound.x.shape} do not belong together")
    heard = jnp.where(
      sound.real[..., None], self.map(sound.cleared()), self.absent[...]
    )
    return {"text": text.cleared() + jnp.tanh(heard)}
'''


class CrossFormTest(parameterized.TestCase):
  def test_a_layer_is_added(self):
    with adding.system(_TOY, "hearing") as slug:
      adding.keeps_its_contract(self, slug)
      self.assertEqual(contract.defaults(slug), {"slope": 0.5})
      build: Any = contract.constructor(slug, {"slope": 1.0}, ("cross",))
      made = build({"text": 5, "sound": 3}, layers=2, rngs=0)
      x = {"text": Stream(jnp.ones((1, 2, 5))), "sound": Stream(jnp.ones((1, 4, 3)))}
      self.assertEqual(made(x)["text"].shape, (1, 2, 5))

  @parameterized.parameters(
    ("real = sound.real[:, None]", "real = True", "ignores_padding"),
    ("sound.cleared()", "sound.x", "ignores_padding"),
    ("jnp.where(total > 0, total, 1)", "total", "takes_examples_of_no_tokens"),
    ('{"text": streams', '{"text": y.mean() + streams', "permutes_examples"),
    ("self.out(jnp", "0 * self.out(jnp", "maps_streams_by_name"),
    ("x + out, text.valid", "x, None", "maps_streams_by_name"),
    ("btd,bsd->bts", "btd,bsd->bst", "maps_streams_by_name"),
    ("text.places", "jnp.arange(x.shape[1])", "honours_positions"),
    ("sound.positions is not None", "False", "honours_positions"),
  )
  def test_a_broken_layer_is_found(self, right, wrong, check):
    self.assertIn(right, _TOY)
    with adding.system(_TOY.replace(right, wrong), "hearing") as slug:
      subject = Subject(contract.load(slug), "cross")
      with self.assertRaises((AssertionError, TypeError, ValueError)):
        getattr(cross, check)(subject)

  @parameterized.parameters(
    ("self.absent[...]", "0 * self.absent[...]", "maps_streams_by_name"),
    ("text.cleared()", "text.x", "takes_examples_of_no_tokens"),
    ("raise ValueError", "print", "takes_streams_of_one_token"),
  )
  def test_streams_that_belong_together(self, right, wrong, check):
    self.assertIn(right, _ALIGNED)
    for text, raises in ((_ALIGNED, False), (_ALIGNED.replace(right, wrong), True)):
      with adding.system(text, "hearing") as slug:
        subject = Subject(contract.load(slug), "cross")
        with self.assertRaises(AssertionError) if raises else contextlib.nullcontext():
          getattr(cross, check)(subject)

  def test_aligned_streams_keep_the_form(self):
    with adding.system(_ALIGNED, "hearing") as slug:
      subject = Subject(contract.load(slug), "cross")
      for check in cross.CHECKS:
        check(subject)

  def test_a_stream_knows_its_padding(self):
    x = jnp.array([[[1.0], [jnp.nan], [3.0]]])
    valid = jnp.array([[True, False, True]])
    stream = Stream(x, valid)
    self.assertEqual(stream.cleared().tolist(), [[[1.0], [0.0], [3.0]]])
    self.assertIs(cleared(x, None), x)
    self.assertTrue(Stream(x).real.all())
    self.assertEqual(stream.real.tolist(), [[True, False, True]])
    self.assertEqual(stream.places.tolist(), [0, 1, 2])
    self.assertEqual(Stream(x, None, jnp.array([4, 6, 9])).places.tolist(), [4, 6, 9])


if __name__ == "__main__":
  absltest.main()
