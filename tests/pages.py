"""Reads the pages that the programs write, for the tests of what they say."""

import re
from html.parser import HTMLParser

from absl.testing import absltest

_VOID = {"meta", "img", "br", "use", "path"}


class Page(HTMLParser):
  """Reads a page and fails where elements are not nested."""

  def __init__(self, text: str):
    super().__init__(convert_charrefs=True)
    self.open: list[str] = []
    self.elements: list[tuple[str, dict[str, str]]] = []
    self.words: list[str] = []
    self.feed(text)
    self.close()
    if self.open:
      raise AssertionError(f"never closed: {self.open}")

  def handle_startendtag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in _VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    if not self.open or self.open.pop() != tag:
      raise AssertionError(f"</{tag}> closes something else")

  def handle_data(self, data):
    if not self.open or self.open[-1] != "style":
      self.words.append(data)

  @property
  def text(self) -> str:
    return " ".join(" ".join(self.words).split())

  def all(self, tag: str) -> list[dict[str, str]]:
    return [attributes for name, attributes in self.elements if name == tag]


def check_alone(case: absltest.TestCase, text: str) -> Page:
  """The page, after checks that it is whole, needs nothing else, and can be read."""
  read = Page(text)
  case.assertTrue(text.startswith("<!DOCTYPE html>"))
  case.assertEqual(read.all("html")[0]["lang"], "en")
  case.assertLen(read.all("h1"), 1)
  case.assertLen([t for t, _ in read.elements if t == "main"], 1)
  case.assertIn("width=device-width", text)
  case.assertIn("prefers-color-scheme: dark", text)
  case.assertNotRegex(text, r"(?i)https?://|@import|<script|<link")
  for tag, attributes in read.elements:
    for name in ("src", "href"):
      if name in attributes:
        case.assertRegex(attributes[name], r"^(data:image/png;base64,|#)", tag)
    if tag == "img":
      case.assertTrue(attributes["alt"])
    if tag == "svg":
      case.assertTrue(attributes["aria-label"])
  ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
  case.assertLen(set(ids), len(ids))
  for target in re.findall(r'href="#([^"]+)|url\(#([^)]+)\)', text):
    case.assertIn("".join(target), ids)
  return read
