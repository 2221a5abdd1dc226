"""The words of scenes: their numbers, and text to numbers and back."""

from collections.abc import Iterable

from experiments.data.scenes.scene import COLOURS, SHAPES

# Padding, the beginning of a row, the end of an answer.
NOTHING, BEGIN, END = 0, 1, 2
_OTHERS = """
? , describe the picture what colour shape is thing things there a how many at of yes no
left right above below
""".split()
DIGITS = tuple("0123456789")
ROWS = tuple("ABCDEFGHI")  # of the grid, from the top; columns are digits from 1
WORDS = ("", "<begin>", ".", *COLOURS, *SHAPES, *DIGITS, *ROWS, *_OTHERS)
_NUMBERS = {word: number for number, word in enumerate(WORDS)}


def encode(text: str) -> list[int]:
  """Returns the numbers of the words of a text, which blanks separate.

  Raises:
    ValueError: for a word that is none of WORDS.
  """
  unknown = [word for word in text.split() if word not in _NUMBERS]
  if unknown:
    raise ValueError(f"{unknown[0]!r} is none of the {len(WORDS)} words of scenes")
  return [_NUMBERS[word] for word in text.split()]


def decode(numbers: Iterable[int]) -> str:
  """Returns the text of words, without padding and the beginning of the row."""
  return " ".join(WORDS[n] for n in numbers if n not in (NOTHING, BEGIN))
