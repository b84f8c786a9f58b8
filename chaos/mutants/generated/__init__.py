"""Mutants that nobody designed: seeded, generic changes to the sources of the product.

``python_operators`` and ``sql_operators`` propose changes, ``generator`` draws from them, and
``probes`` says which lines must run before a change can matter.

libcst does the mechanics. It knows the exact span of every token, also inside an f-string, where
the positions of ``ast`` are wrong before Python 3.12; a change is then a replacement of bytes, so
the rest of the file stays as it was. mutmut and cosmic-ray, which build on such parsers, did not
fit: each runs one test command over all mutants of Python code, has no operators for SQL, and
offers no supported way to get a single mutant out to run it under a simulation.
"""

from __future__ import annotations

from chaos.mutants.generated.generator import FOLDERS, GeneratedMutant, draw, product_files

__all__ = ["FOLDERS", "GeneratedMutant", "draw", "product_files"]
