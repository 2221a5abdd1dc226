"""Small scenes of coloured shapes on a grid: pictures, phrases, questions, answers.

A `Scene` is a description, from which all else is made without further draws: its
picture, the box and the mask of each thing, the phrases that name it, and questions
with their answers. Data sets draw scenes and take of them what their task is about.
"""

from experiments.data.scenes.picture import drawn, mask
from experiments.data.scenes.questions import KINDS, Question, ask, longest
from experiments.data.scenes.scene import COLOURS, SHAPES, Scene, Thing, draw
from experiments.data.scenes.words import BEGIN, END, NOTHING, WORDS, decode, encode

__all__ = [
  "BEGIN",
  "COLOURS",
  "END",
  "KINDS",
  "NOTHING",
  "SHAPES",
  "WORDS",
  "Question",
  "Scene",
  "Thing",
  "ask",
  "decode",
  "draw",
  "drawn",
  "encode",
  "longest",
  "mask",
]
