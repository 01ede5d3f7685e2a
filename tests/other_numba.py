"""Another Numba: the installed one, with parts of its source replaced as it is imported.

A script imports this file first. The environment variable OTHER_NUMBA holds pairs of a regular expression and its
replacement, as JSON. Numba stays whole, as each part gets its new name everywhere, but who asks for the old one fails.
"""

import json
import os
import re
import sys
from importlib.machinery import PathFinder, SourceFileLoader

REPLACED = json.loads(os.environ.get("OTHER_NUMBA", "[]"))


class _Loader(SourceFileLoader):
    def get_code(self, fullname):
        source = changed = self.get_data(self.path).decode()
        for pattern, replacement in REPLACED:
            changed = re.sub(pattern, replacement, changed)
        return super().get_code(fullname) if changed == source else compile(changed, self.path, "exec")


class _Finder(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if not fullname.startswith("numba."):
            return None
        spec = super().find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.origin)
        return spec


if REPLACED:
    sys.meta_path.insert(0, _Finder)
