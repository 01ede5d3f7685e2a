"""`softmaxloss explore`: write the interactive page, and open it."""

import webbrowser
from pathlib import Path

from softmaxloss.cli import CommandError, standard_output
from softmaxloss.cli.outputs import check_out, check_parent, write_all
from softmaxloss.explorer import explore


def run_explore(out: Path, *, show: bool) -> None:
    """Write the page. With `show`, open it if a browser is found."""
    if out.suffix.lower() not in {".html", ".htm"}:
        raise CommandError(f"--out {out} must end in .html")
    check_parent(out)
    check_out(out.parent, [out.name], lambda content: not content or b"<title>Softmax with loss" in content)
    write_all(out.parent, {out.name: explore().html.encode()})
    opened = show and webbrowser.open(out.resolve().as_uri())
    with standard_output():
        print(f"wrote {out}" if opened else f"wrote {out}; open it in a browser")
