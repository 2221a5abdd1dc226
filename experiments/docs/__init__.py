"""Makes pages from the code and from the records of measurements.

The page of a system, docs/systems/<slug>.md, with a picture of its cost where that has
been measured, is committed: one file a system, readable where the code is read. Of
README.md and docs/*.md, which are written by hand, the parts between marks and what a
program there prints are made. docs/*.html, all pages for a browser with an index that
can be searched, is not committed: no two systems then share a generated list.
"""
