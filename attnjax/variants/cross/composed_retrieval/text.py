"""Modification texts from templates and captions, and the prompts of queries."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from attnjax.core.compaction import Compaction

PADDING, IMAGE = -1, -2  # in rows of tokens
# The first three are the paper's examples, all others are invented here.
TEMPLATES = (
  "instead of {near} show {own}",
  "change from {near} to {own}",
  "same as before but {own}",
  "but {own}",
  "but {some}",
  "show {own} not {near}",
  "make it {some}",
  "with {some} in place of {near}",
)
# Instruction, the part of the image and the part of the text; the bare one beside it.
PROMPT = (
  "instruct find the image that matches the query query",
  "image {image}",
  "text",
)
BARE_PROMPT = ("", "{image}", "")
_SLOTS = {"{own}": -1, "{near}": -2, "{some}": -3}
_NOTHING = -4
WORDS = tuple(
  sorted({w for text in (*TEMPLATES, *PROMPT) for w in text.split() if w[0] != "{"})
)

Encode = Callable[[str], Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Templates:
  """Holds templates as tokens and slots.

  Attributes:
    pieces: of each template; tokens from 0 on, -1 the image's own caption, -2 its
      neighbour's, -3 some words of its own.
  """

  pieces: tuple[tuple[int, ...], ...]

  def length(self, words: int) -> int:
    """Returns the tokens of the longest text from captions of so many words."""
    sizes = [sum(words if x < 0 else 1 for x in row) for row in self.pieces]
    return max(*sizes, words)


@dataclasses.dataclass(frozen=True)
class Prompt:
  """Holds the tokens of a prompt's parts, the image's place among them.

  Attributes:
    instruction: before all else.
    image: left out of queries without an image.
    text: before the text; left out of queries without one.
  """

  instruction: tuple[int, ...]
  image: tuple[int, ...]
  text: tuple[int, ...]


def encode_templates(encode: Encode, texts: Sequence[str] = TEMPLATES) -> Templates:
  """Encodes templates whose slots are {own}, {near} and {some}.

  Args:
    encode: words to their tokens.
    texts: the templates.

  Raises:
    ValueError: if there is none.
  """
  if not texts:
    raise ValueError("templates: at least one is needed")
  rows = []
  for text in texts:
    row: list[int] = []
    for word in text.split():
      row += [_SLOTS[word]] if word in _SLOTS else [int(x) for x in encode(word)]
    rows.append(tuple(row))
  return Templates(tuple(rows))


def encode_prompt(encode: Encode, parts: Sequence[str] = PROMPT) -> Prompt:
  """Encodes a prompt's instruction, its part of the image and its part of the text.

  Args:
    encode: words to their tokens.
    parts: three texts; the second has {image}.

  Raises:
    ValueError: if {image} does not stand in the second part alone, once.
  """
  if [part.split().count("{image}") for part in parts] != [0, 1, 0]:
    raise ValueError(
      f"prompt {tuple(parts)}: {{image}} stands once, in the second part"
    )
  found = []
  for part in parts:
    own: list[int] = []
    for word in part.split():
      own += [IMAGE] if word == "{image}" else [int(x) for x in encode(word)]
    found.append(tuple(own))
  return Prompt(*found)


def choose_templates(
  key: Key[Array, ""], count: int, templates: Templates, text_rate: float = 0.75
) -> Int[Array, "B"]:
  """Draws a template for each sample; the number of templates stands for the caption.

  Args:
    key: of the draw.
    count: B.
    templates: to choose among, all equally often.
    text_rate: share of the samples that get a template.

  Raises:
    ValueError: if `text_rate` is out of its range.
  """
  if not 0 <= text_rate <= 1:
    raise ValueError(f"text_rate = {text_rate}; it must be from 0 to 1")
  one, two = jax.random.split(key)
  number = len(templates.pieces)
  drawn = jax.random.randint(one, (count,), 0, number)
  return jnp.where(jax.random.uniform(two, (count,)) < text_rate, drawn, number)


def some_words(
  key: Key[Array, ""], caption: Int[Array, "B L"], share: float = 0.6
) -> Int[Array, "B L"]:
  """Takes words out of captions at random; at least one stays.

  Args:
    key: of the draw.
    caption: tokens, -1 at padding.
    share: expected share of the words that stay.
  """
  draw = jax.random.uniform(key, caption.shape)
  draw = jnp.where(caption >= 0, draw, 2.0)
  keep = (draw < share) | (draw == draw.min(axis=1, keepdims=True))
  return jnp.where(keep, caption, PADDING)


def modify(
  own: Int[Array, "B L"],
  near: Int[Array, "B L"],
  some: Int[Array, "B L"],
  choice: Int[Array, "B"],
  templates: Templates,
) -> Int[Array, "B M"]:
  """Fills each sample's template; tokens stand left, -1 at the padding behind them.

  Args:
    own: the captions of the images, -1 at padding.
    near: those of their neighbours.
    some: words of their own captions.
    choice: of `choose_templates`.
    templates: the templates.
  """
  B, L = own.shape
  rows = (*templates.pieces, (_SLOTS["{own}"],))
  most = max(map(len, rows))
  table = np.array([(*row, *[_NOTHING] * (most - len(row))) for row in rows])
  pieces = jnp.asarray(table)[choice][:, :, None]  # (B, P, 1)
  first = jnp.arange(L) == 0
  tokens = jnp.where((pieces >= 0) & first, pieces, PADDING)
  for slot, caption in zip(_SLOTS.values(), (own, near, some)):
    tokens = jnp.where(pieces == slot, caption[:, None], tokens)
  tokens = tokens.reshape(B, -1)
  packed = Compaction.of(tokens >= 0)
  found = jnp.where(packed.real, packed.pack(tokens), PADDING)
  return found[:, : templates.length(L)]


def compose(
  prompt: Prompt, text: Int[Array, "B L"] | None, count: int, *, image: bool = True
) -> Int[Array, "B T"]:
  """Composes the tokens of queries; a part that has nothing is left out.

  Args:
    prompt: its parts.
    text: tokens, -1 at padding; None in queries without a text.
    count: B.
    image: whether the queries have an image, whose place has the token -2.

  Raises:
    ValueError: if a query would have neither.
  """
  if text is None and not image:
    raise ValueError("a query has an image, a text or both")
  before = prompt.instruction + (prompt.image if image else ())
  before += prompt.text if text is not None else ()
  tokens = jnp.broadcast_to(jnp.asarray(before, jnp.int32), (count, len(before)))
  return tokens if text is None else jnp.concatenate([tokens, text], axis=1)
