"""Templates of the HTML pages, which are stored beside this file."""

import re

import jinja2


def template(name: str) -> jinja2.Template:
    """A template by its file name. It escapes all text that it is given, and raises for a name that it is not given."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mdlm_atat", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = minus
    return environment.get_template(name)


def minus(text: str) -> str:
    """The text with a minus sign in place of the hyphen before each negative number."""
    return re.sub(r"(?<![\w.)-])-(?=\.?\d)", "−", text)
